"""A loaded .mlpackage: inputs checked and converted, run by Core ML on a Mac, by the reference executor elsewhere."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

if TYPE_CHECKING:
    from quantkit.contracts import Arrays, TensorInfo
    from quantkit.mil.program import Tensor


class Runner(Protocol):
    """Who carries out the program."""

    load_s: float
    compile_s: float

    @property
    def inputs(self) -> Sequence[Tensor | TensorInfo]: ...

    def run(self, inputs: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]: ...

    def reset(self) -> None: ...

    def residency(self) -> Mapping[str, int]: ...


class Reference:
    """The reference executor (satisfies `Runner`)."""

    compile_s = 0.0

    def __init__(self, package: Path, threads: int):
        import torch

        from quantkit import mil

        torch.set_num_threads(threads)
        start = time.perf_counter()
        self._program = mil.load(package)
        self.load_s = time.perf_counter() - start
        self.inputs = self._program.inputs
        self.reset()

    def run(self, inputs: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        return self._program.run(inputs, self._state)

    def reset(self) -> None:
        self._state = self._program.new_state() if self._program.states else None

    def residency(self) -> Mapping[str, int]:
        return {}  # the reference executor has no devices


class CoremlSession:
    """Satisfies `contracts.StatefulSession`: a program without states has nothing to forget."""

    def __init__(self, runner: Runner):
        self._runner: Runner | None = runner
        self.load_s, self.compile_s = runner.load_s, runner.compile_s

    def feed(self, inputs: Arrays) -> dict[str, np.ndarray]:
        """Return the inputs by name, 64-bit integers as 32-bit ones.

        Raises:
            ValueError: another number of inputs, shape or type than the artifact has.
        """
        return fitted(inputs, self._open().inputs)

    def run(self, fed: dict[str, np.ndarray]) -> Any:
        """Run once; states go on from the call before."""
        return self._open().run(fed)

    def fetch(self, output: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return the only output as float32."""
        (answer,) = output.values()
        return np.asarray(answer).astype(np.float32, copy=False)

    def reset(self) -> None:
        """Forget all earlier calls."""
        self._open().reset()

    def residency(self) -> Mapping[str, int]:
        """Return how many operations Core ML would rather run on each device; nothing off a Mac."""
        return self._open().residency()

    def close(self) -> None:
        """Free the program."""
        self._runner = None

    def _open(self) -> Runner:
        if self._runner is None:
            raise ValueError("the session is closed: open the artifact again")
        return self._runner


def fitted(inputs: Arrays, expected: Sequence[Tensor | TensorInfo]) -> dict[str, np.ndarray]:
    """Return inputs by name in the artifact's types: int64 becomes int32, for Core ML has no 64-bit integers.

    Raises:
        ValueError: another number of inputs, shape or type, or an integer beyond 32 bits.
    """
    if len(inputs) != len(expected):
        names = ", ".join(tensor.name for tensor in expected)
        raise ValueError(f"the artifact takes {len(expected)} inputs ({names}): got {len(inputs)}")
    fed = {}
    for array, tensor in zip(inputs, expected, strict=True):
        narrow = array
        if array.dtype == np.int64 and tensor.dtype == "int32":
            narrow = array.astype(np.int32)
            if not np.array_equal(narrow, array):
                raise ValueError(f"input {tensor.name!r} has integers beyond 32 bits, which Core ML does not hold")
        got, wants = (narrow.dtype.name, narrow.shape), (tensor.dtype, tensor.shape)
        if got != wants:
            raise ValueError(
                f"input {tensor.name!r}: got {array.dtype.name} {list(got[1])}, expected {wants[0]} {list(wants[1])}"
            )
        fed[tensor.name] = np.ascontiguousarray(narrow)
    return fed

"""An artifact with the face of the network it was made from: an `nn.Module` whose forward runs the session."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from quantkit.catalog import BACKENDS, TARGETS
from quantkit.contracts import Arrays, Session
from quantkit.errors import HardwareCompatibilityError, InvalidSetting, QuantizationError


class QuantizedModel(nn.Module):
    """Runs an artifact on the CPU, item by item: artifacts are built for a batch of one.

    Tensors go in as the original takes them (by position, or by name where it was calibrated with dictionaries), one
    float32 tensor [n, ...] comes out. It has no parameters; there is nothing to train or to move to another device.

    Args:
        folder: of the artifact.
        example: inputs of one item: their shapes and types are the artifact's.
        names: of the inputs, where they may come by name.
    """

    def __init__(
        self, folder: Path, backend: str, target: str = "cpu", *, example: Arrays, names: Sequence[str], threads: int
    ):
        super().__init__()
        self.artifact, self.backend, self.target, self.threads = folder, backend, target, threads
        self._example, self._names = example, tuple(names)
        with kept_threads():
            session = BACKENDS.get(backend).open(folder, TARGETS.get(target), threads)
        self._session: Session | None = session

    def forward(self, *inputs: Any, **named: Any) -> torch.Tensor:
        """Return the artifact's answers, float32 [n, ...].

        Raises:
            QuantizationError: it is closed; InvalidSetting: other inputs than the original's, or other shapes.
        """
        if self._session is None:
            raise QuantizationError("this model is closed: quantize again, or close it later")
        arrays = [self._array(i, x) for i, x in enumerate(self._ordered(inputs, named))]
        if len({len(x) for x in arrays}) != 1 or not len(arrays[0]):
            raise InvalidSetting(f"inputs must have equally many items, at least 1: got {[len(x) for x in arrays]}")
        with kept_threads(self.threads):
            answers = [self._answer(tuple(x[i : i + 1].copy() for x in arrays)) for i in range(len(arrays[0]))]
        return torch.from_numpy(np.concatenate(answers))

    def _answer(self, item: Arrays) -> np.ndarray:
        assert self._session is not None
        return np.array(self._session.fetch(self._session.run(self._session.feed(item))), np.float32)

    def _ordered(self, inputs: tuple[Any, ...], named: dict[str, Any]) -> tuple[Any, ...]:
        wanted = self._names[len(inputs) :]
        given = (*inputs, *(named[name] for name in wanted if name in named))
        unknown = [name for name in named if name not in wanted]
        if len(given) != len(self._example) or unknown:
            takes = ", ".join(self._names) or f"{len(self._example)} by position"
            got = f"{len(inputs)} by position" + (f" and {', '.join(named)}" if named else "")
            raise InvalidSetting(f"the model takes these inputs: {takes}; got {got}")
        return given

    def _array(self, place: int, value: Any) -> np.ndarray:
        """Return one input as the artifact takes it; a float or integer of another width is converted."""
        array = value.detach().cpu().numpy() if isinstance(value, torch.Tensor) else np.asarray(value)
        like = self._example[place]
        if array.ndim != like.ndim or array.shape[1:] != like.shape[1:] or array.dtype.kind != like.dtype.kind:
            expected = str(["n", *like.shape[1:]]).replace("'", "")
            raise InvalidSetting(
                f"input {place} is {array.dtype} {list(array.shape)}, expected {like.dtype} {expected}: shapes are "
                "fixed when the artifact is built"
            )
        return np.ascontiguousarray(array, like.dtype)

    def on(self, target: str) -> QuantizedModel:
        """Return the same artifact, opened on another target of its backend.

        Raises:
            HardwareCompatibilityError: the backend does not run there.
        """
        targets = BACKENDS.get(self.backend).targets
        if target not in targets:
            raise HardwareCompatibilityError(
                f"{self.backend} does not run on {target}: it runs on {', '.join(targets)}; quantize anew"
            )
        return QuantizedModel(
            self.artifact, self.backend, target, example=self._example, names=self._names, threads=self.threads
        )

    def close(self) -> None:
        """Free the artifact; the model cannot be called afterwards."""
        if self._session is not None:
            self._session.close()
            self._session = None

    def __enter__(self) -> QuantizedModel:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def extra_repr(self) -> str:
        """Return what `print(model)` shows."""
        shapes = ", ".join(f"{x.dtype} {list(x.shape)}" for x in self._example)
        return f"{self.backend} on {self.target}, {shapes}" + (", closed" if self._session is None else "")


@contextmanager
def kept_threads(count: int | None = None) -> Iterator[None]:
    """Let PyTorch have its own number of threads again afterwards: backends set it for the whole process."""
    before = torch.get_num_threads()
    if count is not None and count != before:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        if torch.get_num_threads() != before:
            torch.set_num_threads(before)

"""A saved ONNX file, loaded by ONNX Runtime: one pool of threads that sleeps while idle, inputs bound off the clock."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quantkit import extras
from quantkit.backends import _onnx_providers
from quantkit.contracts import Arrays
from quantkit.errors import CorruptFile

if TYPE_CHECKING:
    import numpy as np

DTYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(double)": "float64",
    "tensor(int64)": "int64",
    "tensor(int32)": "int32",
    "tensor(bool)": "bool",
}


class OnnxSession:
    """Satisfies `contracts.Session`; inputs and outputs are bound once, outside the clock (half the cost of a call).

    Raises:
        CorruptFile: the file is missing or ONNX Runtime cannot read it.
        HardwareCompatibilityError: the target's provider is not there, or took nothing of the graph.
    """

    def __init__(self, path: Path, target: str, threads: int) -> None:
        runtime = extras.require("onnxruntime")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.execution_mode = runtime.ExecutionMode.ORT_SEQUENTIAL
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3  # errors: the optimizer warns of every constant that it drops
        providers = _onnx_providers.configure(options, runtime, target)
        start = time.perf_counter()
        try:
            data = path.read_bytes()
        except FileNotFoundError as error:
            raise CorruptFile(f"{path} is missing: build the case again") from error
        read = time.perf_counter()
        self._session = _load(runtime, data, options, providers, path)
        self.load_s = read - start
        self.compile_s = time.perf_counter() - read  # parsing included: one call does both
        _onnx_providers.check_assignment(self._session, target)
        self._inputs = self._session.get_inputs()
        self._output = self._session.get_outputs()[0].name

    def feed(self, inputs: Arrays) -> Any:
        """Return the inputs bound to the session.

        Raises:
            ValueError: another number of inputs, shape or dtype than the artifact has.
        """
        if len(inputs) != len(self._inputs):
            names = ", ".join(i.name for i in self._inputs)
            raise ValueError(f"the artifact takes {len(self._inputs)} inputs ({names}): got {len(inputs)}")
        binding = self._session.io_binding()
        for known, array in zip(self._inputs, inputs, strict=True):
            got, expected = (str(array.dtype), list(array.shape)), (DTYPES.get(known.type, known.type), known.shape)
            if got != expected:
                raise ValueError(f"input {known.name!r}: got {got[0]} {got[1]}, expected {expected[0]} {expected[1]}")
            binding.bind_cpu_input(known.name, array)
        binding.bind_output(self._output, "cpu")
        return binding, inputs  # the arrays live as long as the binding that points at them

    def run(self, fed: Any) -> Any:
        """Run once."""
        self._session.run_with_iobinding(fed[0])
        return fed[0]

    def fetch(self, output: Any) -> np.ndarray:
        """Return the first output as float32."""
        return output.copy_outputs_to_cpu()[0].astype("float32", copy=False)

    def close(self) -> None:
        """Free the session."""
        self._session = None


def _load(runtime: Any, data: bytes, options: Any, providers: list[Any], path: Path) -> Any:
    """Return ONNX Runtime's own session."""
    state = runtime.capi.onnxruntime_pybind11_state
    unreadable = (state.InvalidProtobuf, state.InvalidGraph, state.InvalidArgument, state.Fail)
    try:
        return runtime.InferenceSession(data, options, providers=providers)
    except unreadable as error:
        first = str(error).splitlines()[0]
        raise CorruptFile(f"ONNX Runtime cannot read {path}, build the case again: {first}") from error

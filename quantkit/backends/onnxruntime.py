"""ONNX Runtime on the CPU: `torch.onnx.export`, then ONNX Runtime's own quantizers.

Static int8 is QDQ with unsigned activations and signed weights (signed activations are 2.6 times slower on x86);
dynamic int8 covers convolutions, products, embeddings and LSTMs; weight-only int8 and int4 is `MatMulNBits`.
https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html
"""

from __future__ import annotations

import platform
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quantkit import extras, files
from quantkit.contracts import Arrays, BuildReport, LayerReport, ModelInfo, Prepared, Session, Target
from quantkit.errors import CorruptFile, Unsupported
from quantkit.records import Case
from quantkit.scheme import PerGroup, PerTensor, Scheme

if TYPE_CHECKING:
    import numpy as np

FILE = "model.onnx"
DTYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(double)": "float64",
    "tensor(int64)": "int64",
    "tensor(int32)": "int32",
    "tensor(bool)": "bool",
}
LEAST_SHARE = 0.1  # of the weights in the asked-for bits; below that the artifact is not what its name says


class OnnxRuntime:
    """Satisfies `contracts.Backend`."""

    name = "onnxruntime"
    title = "ONNX Runtime"
    extra = "onnx"
    targets = ("cpu", "simulated")
    profiles = ("fast", "regular", "full")
    stateful = False
    build_modules = ("torch._dynamo", "torch.onnx", "onnx", "onnxscript", "onnxruntime", "onnxruntime.quantization")
    run_modules = ("onnxruntime",)

    def unsupported(self, case: Case, model: ModelInfo, scheme: Scheme) -> str | None:
        """Return why ONNX Runtime's quantizers cannot give this scheme on this kind of model, or None."""
        if not scheme.quantized:
            return None
        return _no_form(scheme) or _no_operation(model, scheme)

    def versions(self) -> Mapping[str, str]:
        """Return the versions of exporter, format and quantizer."""
        return {name: extras.version(name) for name in ("torch", "onnx", "onnxscript", "onnx-ir", "onnxruntime")}

    def executor(self, target: str) -> str:
        """Return who runs the artifact."""
        return "onnxruntime CPUExecutionProvider"

    def untimed(self, target: str) -> str | None:
        """What runs here is what is meant: its speed counts."""
        return None

    def build(self, prepared: Prepared, folder: Path, threads: int) -> BuildReport:
        """Write `model.onnx`; `compile_s` is the time of export, calibration and quantization.

        `threads` is not used: the quantizers take no thread count.
        """
        extras.require("onnxruntime")
        extras.require("onnx")
        from quantkit.backends import _onnx_graph, _onnx_lower, _onnx_quantize

        start = time.perf_counter()
        lowered = _onnx_lower.lower(prepared.network, prepared.example)
        schemes = _onnx_quantize.wanted(lowered.model, lowered.layers, prepared.plan)
        model, notes = _onnx_quantize.quantize(lowered.model, schemes, prepared.calibration)
        extras.require("onnx").checker.check_model(model)
        compile_s = time.perf_counter() - start

        layers = _onnx_graph.report(model, schemes, lowered.layers)
        _refuse_nearly_float(layers, prepared.plan.default)
        files.write_atomic(folder / FILE, model.SerializeToString())
        static = any(s and s.activations == "static" for s in schemes.values())
        half = any(s and not s.quantized for s in schemes.values())
        return BuildReport(
            layers=layers,
            weight_bytes=_onnx_graph.weight_bytes(model),
            compile_s=compile_s,
            format="fp16" if half else "fp32",
            notes=notes + (_saturation() if static else ()),
        )

    def open(self, folder: Path, target: Target, threads: int) -> Session:
        """Load the artifact on the CPU provider, one pool of `threads` threads that sleeps while idle.

        Raises:
            CorruptFile: the file is missing or ONNX Runtime cannot read it.
        """
        return OnnxSession(folder / FILE, threads)


class OnnxSession:
    """Satisfies `contracts.Session`; inputs and outputs are bound once, outside the clock (half the cost of a call)."""

    def __init__(self, path: Path, threads: int) -> None:
        runtime = extras.require("onnxruntime")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.execution_mode = runtime.ExecutionMode.ORT_SEQUENTIAL
        options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3  # errors: the optimizer warns of every constant that it drops
        start = time.perf_counter()
        try:
            data = path.read_bytes()
        except FileNotFoundError as error:
            raise CorruptFile(f"{path} is missing: build the case again") from error
        read = time.perf_counter()
        state = runtime.capi.onnxruntime_pybind11_state
        try:
            self._session = runtime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        except (state.InvalidProtobuf, state.InvalidGraph, state.InvalidArgument, state.Fail) as error:
            first = str(error).splitlines()[0]
            raise CorruptFile(f"ONNX Runtime cannot read {path}, build the case again: {first}") from error
        self.load_s = read - start
        self.compile_s = time.perf_counter() - read  # parsing included: one call does both
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


def _no_form(scheme: Scheme) -> str | None:
    """Return why no quantizer of ONNX Runtime gives this scheme, whatever the model."""
    if scheme.format != "int" or scheme.double or scheme.sparsity:
        return f"ONNX Runtime's quantizers write integer codes on a uniform grid, not {scheme.name}"
    if scheme.activation_bits != 8 or scheme.ranges != "minmax" or scheme.codes != "nearest":
        return f"{scheme.name} is not done yet with ONNX Runtime"
    if scheme.activations == "none":
        if scheme.bits not in (4, 8):
            return f"ONNX Runtime packs weight-only codes of 4 or 8 bits, not {scheme.bits}"
        if isinstance(scheme.granularity, PerTensor):
            return "MatMulNBits keeps a scale per block of inputs; it has no form with one scale per tensor"
        if isinstance(scheme.granularity, PerGroup) and scheme.granularity.group_size not in (16, 32, 64, 128, 256):
            return f"MatMulNBits takes groups of 16, 32, 64, 128 or 256 weights, not {scheme.granularity.group_size}"
        return None
    if scheme.bits != 8:
        return f"ONNX Runtime quantizes activations together with 8-bit weights only, not {scheme.bits}-bit"
    if isinstance(scheme.granularity, PerGroup):
        return "ONNX Runtime has no kernel for 8-bit activations with a weight scale per group"
    return None


def _no_operation(model: ModelInfo, scheme: Scheme) -> str | None:
    """Return why nearly nothing of this model would be quantized."""
    if "lstm" in model.layers and model.family == "rnn" and scheme.activations != "dynamic":
        kind = "static" if scheme.activations == "static" else "weight-only"
        return f"ONNX Runtime's {kind} quantizer has no LSTM; the dynamic one has (method int8_dynamic)"
    if "conv2d" in model.layers and model.family == "cnn" and scheme.activations == "none":
        return "ONNX Runtime's weight-only form (MatMulNBits) takes matrix products; the convolutions would stay float"
    if scheme.activations == "none" and "linear" not in model.layers:
        return "ONNX Runtime's weight-only form (MatMulNBits) takes matrix products; this model has none with weights"
    return None


def _refuse_nearly_float(layers: Sequence[LayerReport], scheme: Scheme) -> None:
    """Raise Unsupported where hardly any weight took the scheme: the model's description could not tell before."""
    total = sum(layer.weights for layer in layers)
    done = sum(layer.weights for layer in layers if layer.bits <= scheme.bits)
    if scheme.quantized and done < LEAST_SHARE * total:
        kinds = ", ".join(sorted({layer.kind for layer in layers if layer.bits > scheme.bits}))
        raise Unsupported(f"only {done} of {total} weights would be {scheme.name}: ONNX Runtime leaves {kinds} float")


def _saturation() -> tuple[str, ...]:
    """Return a note where this x86 processor adds pairs of 8-bit products in 16 bits, which may saturate."""
    cpuinfo = Path("/proc/cpuinfo")
    if platform.machine() not in ("x86_64", "AMD64") or not cpuinfo.exists() or "vnni" in cpuinfo.read_text():
        return ()
    return ("this processor lacks VNNI: sums of U8 x S8 products may saturate (a 7-bit weight range would avoid it)",)


plugin = OnnxRuntime()

"""The backend of ONNX Runtime's plug-ins: refuse, export, quantize, check, write; one class for both static forms."""

from __future__ import annotations

import platform
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from quantkit import extras, files
from quantkit.backends import _coverage, _onnx_providers, _onnx_refuse
from quantkit.contracts import BuildReport, ModelInfo, Prepared, Profile, Session, Target
from quantkit.records import Case
from quantkit.scheme import Scheme

if TYPE_CHECKING:
    from quantkit.backends._onnx_static import Form

FILE = "model.onnx"


@dataclass(frozen=True)
class OnnxRuntime:
    """Satisfies `contracts.Backend`.

    Args:
        form: how static schemes are written: `QDQ` or `QOperator`.
    """

    name: str
    title: str
    form: Form
    profiles: tuple[Profile, ...]
    extra: str = "onnx"
    targets: tuple[str, ...] = ("cpu", "simulated", *_onnx_providers.UNITS)
    stateful: bool = False
    build_modules: tuple[str, ...] = (
        *("torch._dynamo", "torch.onnx", "onnx", "onnxscript", "onnxruntime", "onnxruntime.quantization"),
    )
    run_modules: tuple[str, ...] = ("onnxruntime",)
    integer_grid: str = "signed"

    def unsupported(self, case: Case, model: ModelInfo, scheme: Scheme) -> str | None:
        """Return why ONNX Runtime's quantizers cannot give this scheme on this kind of model, or None."""
        return (
            (_onnx_refuse.no_own_form(scheme) if self.form == "QOperator" else None)
            or _onnx_refuse.no_form(scheme)
            or _onnx_refuse.no_operation(model, scheme)
            or _onnx_providers.refused(case.target, scheme)
        )

    def versions(self) -> Mapping[str, str]:
        """Return the versions of exporter, format and quantizer."""
        return {name: extras.version(name) for name in ("torch", "onnx", "onnxscript", "onnx-ir", "onnxruntime")}

    def executor(self, target: str) -> str:
        """Return who runs the artifact."""
        return _onnx_providers.executor(target)

    def untimed(self, target: str) -> str | None:
        """What runs here is what is meant: its speed counts."""
        return None

    def build(self, prepared: Prepared, folder: Path, threads: int) -> BuildReport:
        """Write `model.onnx`; `compile_s` is the time of export, calibration and quantization.

        `threads` is not used: the quantizers take no thread count.

        Raises:
            Unsupported: an operation without an ONNX form, a layer's scheme without a quantizer, or hardly a layer
                of which the quantizer took the weights.
            CalibrationError: ranges or GPTQ without usable calibration items.
        """
        extras.require("onnxruntime")
        onnx = extras.require("onnx")
        from quantkit.backends import _onnx_graph, _onnx_lower, _onnx_quantize

        start = time.perf_counter()
        lowered = _onnx_lower.lower(prepared.network, prepared.example)
        schemes = _onnx_quantize.wanted(lowered.model, lowered.layers, prepared.plan)
        model, notes = _onnx_quantize.quantize(lowered.model, schemes, prepared.calibration, self.form)
        onnx.checker.check_model(model)
        compile_s = time.perf_counter() - start

        layers = _onnx_graph.report(model, schemes, lowered.layers)
        _coverage.refuse_nearly_float(layers, prepared.plan.default)
        files.write_atomic(folder / FILE, model.SerializeToString())
        inputs, outputs = _onnx_graph.ends(model)
        return BuildReport(
            layers=layers,
            weight_bytes=_onnx_graph.weight_bytes(model),
            compile_s=compile_s,
            format="fp16" if any(s and not s.quantized for s in schemes.values()) else "fp32",
            notes=notes + (_saturation() if any(s and s.activations == "static" for s in schemes.values()) else ()),
            inputs=inputs,
            outputs=outputs,
        )

    def open(self, folder: Path, target: Target, threads: int) -> Session:
        """Load the artifact on the target's provider, one pool of `threads` threads that sleeps while idle.

        Raises:
            CorruptFile: the file is missing or ONNX Runtime cannot read it.
            HardwareCompatibilityError: this ONNX Runtime has no provider for the target.
        """
        from quantkit.backends._onnx_session import OnnxSession

        return OnnxSession(folder / FILE, target.name, threads)


def _saturation() -> tuple[str, ...]:
    """Return a note where this x86 processor adds pairs of 8-bit products in 16 bits, which may saturate."""
    cpuinfo = Path("/proc/cpuinfo")
    if platform.machine() not in ("x86_64", "AMD64") or not cpuinfo.exists() or "vnni" in cpuinfo.read_text():
        return ()
    return ("this processor lacks VNNI: sums of U8 x S8 products may saturate (a 7-bit weight range would avoid it)",)

"""LiteRT (TensorFlow Lite) on the CPU: litert-torch converts, ai-edge-quantizer quantizes, XNNPACK runs.

Dynamic and weight-only int8 and int4, static int8 and 16x8 (int16 activations), float16 weights.
https://ai.google.dev/edge/litert
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from quantkit.backends import _litert_build, _litert_session
from quantkit.contracts import BuildReport, ModelInfo, Prepared, Session, Target
from quantkit.records import Case
from quantkit.scheme import Scheme


class LiteRt:
    """Satisfies `contracts.Backend`."""

    name = "litert"
    title = "LiteRT (TensorFlow Lite)"
    extra = "litert"
    targets = ("cpu", "simulated")
    profiles = ("regular", "full")
    stateful = False
    takes_saved_models = True
    build_modules = _litert_build.BUILD_MODULES
    run_modules = ("ai_edge_litert.interpreter",)

    def unsupported(self, case: Case, model: ModelInfo, scheme: Scheme) -> str | None:
        """Return why ai-edge-quantizer or the CPU kernels cannot do this scheme on this kind of model, or None."""
        return _litert_build.unsupported(model, scheme)

    def versions(self) -> Mapping[str, str]:
        """Return the versions of exporter, converter, quantizer and runtime."""
        return _litert_build.versions()

    def executor(self, target: str) -> str:
        """Return who runs the artifact."""
        return "LiteRT XNNPACK on the CPU"

    def untimed(self, target: str) -> str | None:
        """What runs here is a CPU as meant; an Arm processor has other kernels, and its own speed."""
        return None

    def build(self, prepared: Prepared, folder: Path, threads: int) -> BuildReport:
        """Write `model.tflite`. `threads` is not used: the quantizer's calibration is the same with one.

        Raises:
            Unsupported: an operation or layer that the toolchain refuses, with its name.
            CalibrationError: a scheme that needs calibration items without usable ones.
        """
        return _litert_build.build(prepared, folder)

    def open(self, folder: Path, target: Target, threads: int) -> Session:
        """Load the artifact with that many threads; XNNPACK's pool sleeps while idle.

        Raises:
            CorruptFile: the file is missing or LiteRT cannot read it.
        """
        return _litert_session.open_session(folder, threads)


plugin = LiteRt()

"""The backend that builds a .tflite artifact; the plug-ins differ in who runs it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quantkit import extras
from quantkit.backends import _litert_build, _litert_session
from quantkit.contracts import BuildReport, ModelInfo, Prepared, Profile, Session, Target
from quantkit.records import Case
from quantkit.scheme import Scheme


@dataclass(frozen=True)
class LiteRt:
    """Satisfies `contracts.Backend`.

    Args:
        runner: who runs the artifact.
        interpreter: makes the interpreter of an artifact's bytes, with that many threads.
    """

    name: str
    title: str
    extra: str
    profiles: tuple[Profile, ...]
    run_modules: tuple[str, ...]
    runner: str
    interpreter: Callable[[bytes, int], Any] = _litert_session.interpreter

    targets = ("cpu", "simulated")
    stateful = False
    takes_saved_models = True
    build_modules = _litert_build.BUILD_MODULES

    def unsupported(self, case: Case, model: ModelInfo, scheme: Scheme) -> str | None:
        """Return why ai-edge-quantizer or the CPU kernels cannot do this scheme on this kind of model, or None."""
        if absent := extras.missing("litert"):
            return f"the artifact is built by LiteRT's toolchain, which {absent}"
        return _litert_build.unsupported(model, scheme)

    def versions(self) -> Mapping[str, str]:
        """Return the versions of exporter, converter, quantizer and runtime."""
        return _litert_build.versions()

    def executor(self, target: str) -> str:
        """Return who runs the artifact."""
        return self.runner

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
            CorruptFile: the file is missing or the interpreter cannot read it.
        """
        return _litert_session.open_session(folder, threads, self.interpreter)

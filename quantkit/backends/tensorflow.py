"""TensorFlow's own TFLite interpreter runs the artifact that the backend `litert` builds: an independent runtime."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from quantkit import extras
from quantkit.backends import _litert_build, _litert_session
from quantkit.contracts import BuildReport, ModelInfo, Prepared, Session, Target
from quantkit.records import Case
from quantkit.scheme import Scheme


class TensorFlow:
    """Satisfies `contracts.Backend`. Nothing but opening needs TensorFlow; building needs the extra `litert`."""

    name = "tensorflow"
    title = "TensorFlow's TFLite interpreter"
    extra = "tensorflow"
    targets = ("cpu", "simulated")
    profiles = ("full",)
    stateful = False
    takes_saved_models = True
    build_modules = _litert_build.BUILD_MODULES
    run_modules = ("tensorflow.lite",)

    def unsupported(self, case: Case, model: ModelInfo, scheme: Scheme) -> str | None:
        """Return why the artifact cannot be built, or None."""
        if absent := extras.missing("litert"):
            return f"the artifact is built by LiteRT's toolchain, which {absent}"
        return _litert_build.unsupported(model, scheme)

    def versions(self) -> Mapping[str, str]:
        """Return the versions of what builds the artifact."""
        return _litert_build.versions()

    def executor(self, target: str) -> str:
        """Return who runs the artifact."""
        return "TensorFlow's TFLite interpreter on the CPU"

    def untimed(self, target: str) -> str | None:
        """What runs here is what is meant: its speed counts."""
        return None

    def build(self, prepared: Prepared, folder: Path, threads: int) -> BuildReport:
        """Write `model.tflite` as the backend `litert` does.

        Raises:
            Unsupported: an operation or layer that the toolchain refuses, with its name.
            CalibrationError: a scheme that needs calibration items without usable ones.
        """
        return _litert_build.build(prepared, folder)

    def open(self, folder: Path, target: Target, threads: int) -> Session:
        """Load the artifact with TensorFlow's interpreter.

        Raises:
            CorruptFile: the file is missing or TensorFlow cannot read it.
        """
        return _litert_session.open_session(folder, threads, _interpreter)


def _interpreter(data: bytes, threads: int) -> Any:
    """Return TensorFlow's interpreter of an artifact, its memory planned."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=UserWarning, message=r"\s*Warning: tf.lite.Interpreter")
        made = extras.require("tensorflow").lite.Interpreter(model_content=data, num_threads=threads)
    made.allocate_tensors()
    return made


plugin = TensorFlow()

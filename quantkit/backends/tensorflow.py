"""TensorFlow's own TFLite interpreter runs the artifact that the backend `litert` builds: an independent runtime."""

from __future__ import annotations

import warnings
from typing import Any

from quantkit import extras
from quantkit.backends._litert_backend import LiteRt


def _interpreter(data: bytes, threads: int) -> Any:
    """Return TensorFlow's interpreter of an artifact, its memory planned."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=UserWarning, message=r"\s*Warning: tf.lite.Interpreter")
        made = extras.require("tensorflow").lite.Interpreter(model_content=data, num_threads=threads)
    made.allocate_tensors()
    return made


plugin = LiteRt(
    "tensorflow",
    "TensorFlow's TFLite interpreter",
    extra="tensorflow",
    profiles=("full",),
    run_modules=("tensorflow.lite",),
    runner="TensorFlow's TFLite interpreter on the CPU",
    interpreter=_interpreter,
)

"""One table: import name -> distribution and our extra that carries it; and the error with the pip command."""

import importlib
import importlib.util
from importlib import metadata
from types import ModuleType

from quantkit.errors import MissingExtra

# import name: (distribution, extra)
TABLE = {
    "onnx": ("onnx", "onnx"),
    "onnxruntime": ("onnxruntime", "onnx"),
    "onnxscript": ("onnxscript", "onnx"),
    "transformers": ("transformers", "transformers"),
    "tokenizers": ("tokenizers", "transformers"),
    "coremltools": ("coremltools", "coreml"),
    "mlx": ("mlx", "mlx"),
    "mlx_lm": ("mlx-lm", "mlx"),
    "ai_edge_litert": ("ai-edge-litert", "litert"),
    "litert_torch": ("litert-torch", "litert"),
    "ai_edge_quantizer": ("ai-edge-quantizer", "litert"),
    "bitsandbytes": ("bitsandbytes", "bitsandbytes"),
    "accelerate": ("accelerate", "bitsandbytes"),
    "tensorflow": ("tensorflow", "tensorflow"),
    "mlperf_loadgen": ("mlcommons-loadgen", "loadgen"),
    "zeus_apple_silicon": ("zeus-apple-silicon", "energy"),
    "pynvml": ("nvidia-ml-py", "energy"),
    "asv": ("asv", "history"),
}

INSTRUMENTS = ("loadgen", "energy", "history")  # extras that decide no figure: no part of a fingerprint


def missing(extra: str) -> str | None:
    """Return what is not installed of one of our extras and how to install it, or None. Imports nothing."""
    absent = [name for name, (_, owner) in TABLE.items() if owner == extra and importlib.util.find_spec(name) is None]
    if not absent:
        return None
    return f"needs {', '.join(absent)}: pip install 'quantkit[{extra}]'"


def require(name: str) -> ModuleType:
    """Import and return a module of an extra.

    Raises:
        MissingExtra: it is not installed; the message has the pip command.
    """
    root = name.partition(".")[0]
    if importlib.util.find_spec(root) is None:
        extra = TABLE[root][1]
        raise MissingExtra(f"{root} is not installed: pip install 'quantkit[{extra}]'")
    return importlib.import_module(name)


def version(distribution: str) -> str:
    """Return the installed version of a distribution, or "none"."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "none"

"""Post-training quantization to 8 or 4 bits, by the quantizers of PyTorch, ONNX Runtime, bitsandbytes and Core ML."""

from __future__ import annotations

from typing import Any

from quantkit.catalog import METHODS
from quantkit.engines import config
from quantkit.engines.engine import Engine
from quantkit.engines.job import Job
from quantkit.errors import InvalidSetting
from quantkit.scheme import Scheme

METHOD = {  # (framework, bits) -> method of the pipeline
    ("pytorch", 8): "int8_static",
    ("pytorch", 4): "int4_weight_only",
    ("onnx", 8): "int8_static",
    ("onnx", 4): "int4_weight_only",
    ("huggingface", 8): "int8_dynamic",  # LLM.int8: the activations' scales are taken at every call
    ("huggingface", 4): "nf4_double",
    ("coreml", 8): "int8_static",
    ("coreml", 4): "int4_weight_only",
    ("tflite", 8): "int8_static",
    ("tflite", 4): "int4_weight_only",
    ("mlx", 8): "int8_weight_only",  # MLX computes in float
    ("mlx", 4): "int4_weight_only",
}
PALETTES = {"ane": "palettize4"}  # the Neural Engine reads palettes; blocks of int4 are for the GPU


class PTQEngine(Engine):
    """Quantizes a trained network without training it.

    Args:
        bits: 8 (static: activations too) or 4 (weights only; NF4 with double quantization for `huggingface`).
        options: those of every engine, see `Engine`.

    Raises:
        InvalidSetting: another number of bits.
    """

    def __init__(self, bits: int = 8, **options: Any):
        super().__init__(**options)
        self.bits = checked_bits("PTQEngine", bits)
        self.name = f"{bits}bit"
        self.quantization_configs: dict[str, Scheme] = {
            framework: METHODS.get(METHOD[framework, bits]).scheme for framework in config.FRAMEWORKS
        }

    def method(self, job: Job, framework: str, target: str = "cpu") -> tuple[str, dict[str, Any]]:
        """Return the method of this framework and width."""
        return method_of(framework, self.bits, target), {}


def method_of(framework: str, bits: int, target: str = "cpu") -> str:
    """Return the pipeline's method for a framework, a width and a target."""
    return PALETTES.get(target, METHOD[framework, bits]) if bits == 4 else METHOD[framework, bits]


def checked_bits(who: str, bits: object) -> int:
    """Return a number of bits that there are engines for.

    Raises:
        InvalidSetting: neither 8 nor 4.
    """
    if isinstance(bits, int) and bits in (4, 8) and not isinstance(bits, bool):
        return bits
    near = 4 if isinstance(bits, int | float) and bits < 6 else 8
    raise InvalidSetting(f"{who} takes 8 or 4 bits: got {bits!r}. Did you mean bits={near}?")

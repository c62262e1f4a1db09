"""A weight matrix in MLX's quantized form: packed codes, a scale per group, and in affine mode a bias per group.

Affine: x ≈ scale · code + bias; mxfp4, mxfp8, nvfp4: x ≈ scale · code, the code a small float (`mlx.core.quantize`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import mlx.core as mx

MODES = {"affine", "mxfp4", "mxfp8", "nvfp4"}


@dataclass(frozen=True)
class Quantized:
    """Codes [out, in · bits / 32] uint32, scales and biases [out, in / group_size]; only affine mode has biases.

    `settings` are the keywords group_size, bits, mode of MLX's functions.
    """

    codes: mx.array
    scales: mx.array
    biases: mx.array | None
    settings: Mapping[str, Any]

    @property
    def shape(self) -> tuple[int, int]:
        """The matrix's own shape, [out, in]."""
        rows, words = self.codes.shape
        return rows, words * 32 // self.settings["bits"]

    def product(self, x: mx.array) -> mx.array:
        """Return x · weightᵀ, [..., in] -> [..., out], in the type of x.

        On the CPU in float32, rounded at the end: MLX's CPU kernel would add up in bfloat16 (28 dB where float32 sums
        have 55, and ten times slower); its Metal kernel adds up in float32 by itself.
        """
        wide = mx.float32 if mx.default_device().type == mx.DeviceType.cpu else x.dtype
        made = mx.quantized_matmul(
            x.astype(wide), self.codes, self.scales, self.biases, transpose=True, **self.settings
        )
        return made.astype(x.dtype)

    def rows(self, ids: mx.array) -> mx.array:
        """Return the matrix's rows at `ids`, [...] -> [..., in], dequantized."""
        biases = None if self.biases is None else self.biases[ids]
        return mx.dequantize(self.codes[ids], self.scales[ids], biases, **self.settings)


def stem(name: str) -> str:
    """Return what the names of scales and biases start with: the layer's name, as in `mlx.nn.QuantizedLinear`.

    >>> stem("layers.0.up.weight"), stem("lstm.weight_ih_l0"), stem("weight")
    ('layers.0.up', 'lstm.weight_ih_l0', 'weight')
    """
    return name.removesuffix(".weight")


def quantize(name: str, matrix: mx.array, settings: Mapping[str, Any]) -> dict[str, mx.array]:
    """Return the tensors that MLX's quantizer makes of a matrix, named as MLX's layers name them."""
    parts = mx.quantize(matrix, **settings)
    names = (name, f"{stem(name)}.scales", f"{stem(name)}.biases")
    return dict(zip(names, parts, strict=False))  # affine gives three parts, the others two


def resolve(tensors: Mapping[str, mx.array], quantization: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return name -> array, or `Quantized` for the names in `quantization`.

    Raises:
        KeyError: codes, scales or biases are missing.
    """
    found: dict[str, Any] = dict(tensors)
    for name, settings in quantization.items():
        biases = tensors[f"{stem(name)}.biases"] if settings["mode"] == "affine" else None
        found[name] = Quantized(tensors[name], tensors[f"{stem(name)}.scales"], biases, settings)
    return found

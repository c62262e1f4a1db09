"""Quantizing activations: codes = clip(round(x / scale) + zero_point), x = (codes - zero_point) * scale.

Rounding is to the nearest code, ties to even. Source: coremltools' iOS17 `quantize` and `dequantize`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from quantkit.mil.table import op

RANGE = {"int8": (-128, 127), "uint8": (0, 255)}
TYPE = {"int8": torch.int8, "uint8": torch.uint8}


def along(values: Tensor, rank: int, axis: int | None) -> Tensor:
    """Return a scalar as it is, and one number per element of `axis` in a shape that broadcasts."""
    if values.ndim == 0 or axis is None:
        return values.float()
    return values.float().reshape([-1 if i == axis % rank else 1 for i in range(rank)])


@op()
def quantize(
    input: Tensor, scale: Tensor, output_dtype: str, zero_point: Tensor | None = None, axis: int | None = None
) -> Tensor:
    codes = torch.round(input / along(scale, input.ndim, axis))
    if zero_point is not None:
        codes = codes + along(zero_point, input.ndim, axis)
    return codes.clamp(*RANGE[output_dtype]).to(TYPE[output_dtype])


@op()
def dequantize(input: Tensor, scale: Tensor, zero_point: Tensor | None = None, axis: int | None = None) -> Tensor:
    codes = input.float()
    if zero_point is not None:
        codes = codes - along(zero_point, input.ndim, axis)
    return codes * along(scale, input.ndim, axis)

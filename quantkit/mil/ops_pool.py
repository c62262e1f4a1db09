"""Pooling. Padding is explicit, so that `same`, `same_lower` and uneven padding are one case.

With `ceil_mode` the last window may stick out; it must begin inside the input or the padding before it (torch's rule).
What sticks out beyond the padding never counts in an average.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from quantkit.mil.ops_convolution import for_torch, padding
from quantkit.mil.table import Ints, op

MAX = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
AVG = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}


def overhang(x: Tensor, kernel: Ints, strides: Ints, pads: list[tuple[int, int]]) -> list[int]:
    """Return by how much the last window sticks out of the padded input, per axis, in ceil mode."""
    extra = []
    for size, window, stride, (before, after) in zip(x.shape[2:], kernel, strides, pads):
        count = -(-(size + before + after - window) // stride) + 1
        if (count - 1) * stride >= size + before and before + after > 0:
            count -= 1
        extra.append(max(0, (count - 1) * stride + window - (size + before + after)))
    return extra


def padded(
    x: Tensor, kernel: Ints, strides: Ints, pad_type: str, pad: Ints, ceil_mode: bool, fill: float
) -> tuple[Tensor, list[tuple[int, int]], list[int]]:
    """Return x with its padding and overhang filled, and both."""
    pads = padding(pad_type, x.shape[2:], kernel, strides, pad)
    extra = overhang(x, kernel, strides, pads) if ceil_mode else [0] * len(pads)
    amounts = for_torch([(before, after + out) for (before, after), out in zip(pads, extra)])
    return (F.pad(x, amounts, value=fill) if any(amounts) else x), pads, extra


@op(exact=True)
def max_pool(x: Tensor, kernel_sizes: Ints, strides: Ints, pad_type: str, pad: Ints, ceil_mode: bool) -> Tensor:
    whole, _, _ = padded(x, kernel_sizes, strides, pad_type, pad, ceil_mode, float("-inf"))
    return MAX[x.ndim - 2](whole, kernel_sizes, strides)


@op()
def avg_pool(
    x: Tensor,
    kernel_sizes: Ints,
    strides: Ints,
    pad_type: str,
    pad: Ints,
    ceil_mode: bool,
    exclude_padding_from_average: bool,
) -> Tensor:
    """Average over windows; padding counts as zeros unless it is excluded."""
    whole, pads, extra = padded(x, kernel_sizes, strides, pad_type, pad, ceil_mode, 0.0)
    pool = AVG[x.ndim - 2]
    averages = pool(whole, kernel_sizes, strides)
    excluded = exclude_padding_from_average and any(sum(pair) for pair in pads)
    if not excluded and not any(extra):
        return averages
    counted = torch.ones(1, 1, *x.shape[2:])
    counted = F.pad(counted, for_torch(pads), value=0.0 if exclude_padding_from_average else 1.0)
    shares = pool(F.pad(counted, for_torch([(0, out) for out in extra])), kernel_sizes, strides)
    return averages / shares


@op()
def l2_pool(x: Tensor, kernel_sizes: Ints, strides: Ints, pad_type: str, pad: Ints, ceil_mode: bool) -> Tensor:
    """Return the root of the sum of squares of each window."""
    whole, _, _ = padded(x, kernel_sizes, strides, pad_type, pad, ceil_mode, 0.0)
    cells = 1
    for size in kernel_sizes:
        cells *= size
    return torch.sqrt(AVG[x.ndim - 2](whole.square(), kernel_sizes, strides) * cells)

"""Convolutions over 1, 2 or 3 spatial axes.

`pad` is [before, after] per spatial axis, first axis first (torch's `F.pad` wants the last axis first). `same` gives
ceil(size / stride) outputs with the odd element of padding after, `same_lower` with it before.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from quantkit.mil.table import Ints, op

CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
TRANSPOSED = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


def padding(kind: str, sizes: Sequence[int], windows: Sequence[int], strides: Ints, pad: Ints) -> list[tuple[int, int]]:
    """Return (before, after) per spatial axis; `windows` are kernel sizes with their dilation counted in."""
    if kind == "custom":
        return list(zip(pad[::2], pad[1::2]))
    if kind == "valid":
        return [(0, 0)] * len(windows)
    totals = [max(0, (math.ceil(n / s) - 1) * s + w - n) for n, s, w in zip(sizes, strides, windows)]
    if kind == "same_lower":
        return [(total - total // 2, total // 2) for total in totals]
    return [(total // 2, total - total // 2) for total in totals]


def for_torch(pads: Sequence[tuple[int, int]]) -> list[int]:
    """Return the padding in the order of `F.pad`: the last axis first."""
    return [amount for pair in reversed(pads) for amount in pair]


def dilated(sizes: Sequence[int], dilations: Ints) -> list[int]:
    return [(size - 1) * dilation + 1 for size, dilation in zip(sizes, dilations)]


@op()
def conv(
    x: Tensor,
    weight: Tensor,
    strides: Ints,
    pad_type: str,
    pad: Ints,
    dilations: Ints,
    groups: int,
    bias: Tensor | None = None,
) -> Tensor:
    """Convolve x [n, in, *sizes] with weight [out, in / groups, *kernel]."""
    pads = padding(pad_type, x.shape[2:], dilated(weight.shape[2:], dilations), strides, pad)
    if any(before != after for before, after in pads):
        x, pads = F.pad(x, for_torch(pads)), [(0, 0)] * len(pads)
    function = CONV[x.ndim - 2]
    return function(x, weight, bias, strides, [before for before, _ in pads], dilations, groups)


@op()
def conv_transpose(
    x: Tensor,
    weight: Tensor,
    strides: Ints,
    pad_type: str,
    pad: Ints,
    dilations: Ints,
    groups: int,
    bias: Tensor | None = None,
    output_shape: Ints | None = None,
) -> Tensor:
    """Convolve transposed: weight is [in, out / groups, *kernel]; the padding is cut off the full result.

    With `output_shape` the cut at the end is whatever is left over after the cut at the start; where the full result is
    too short, it goes on with the bias (no input reaches there).
    """
    windows = dilated(weight.shape[2:], dilations)
    full = TRANSPOSED[x.ndim - 2](x, weight, None, strides, 0, 0, groups, dilations)
    if output_shape is not None:
        sizes = list(output_shape[2:])
    elif pad_type == "same":
        sizes = [n * s for n, s in zip(x.shape[2:], strides)]
    else:
        cuts = padding(pad_type, x.shape[2:], windows, strides, pad)
        sizes = [n - sum(cut) for n, cut in zip(full.shape[2:], cuts)]
    cut_before = cuts_before(pad_type, full.shape[2:], sizes, pad)
    ends = [size + cut - n for size, cut, n in zip(sizes, cut_before, full.shape[2:])]
    full = F.pad(full, for_torch([(-cut, end) for cut, end in zip(cut_before, ends)]))
    return full if bias is None else full + bias.reshape(-1, *[1] * len(sizes))


def cuts_before(kind: str, full: Sequence[int], sizes: Sequence[int], pad: Ints) -> list[int]:
    """Return what to cut off the start of each axis."""
    if kind == "custom":
        return list(pad[::2])
    if kind == "valid":
        return [0] * len(sizes)
    return [max(0, n - size) // 2 for n, size in zip(full, sizes)]

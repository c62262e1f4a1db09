"""Resizing images: the sampling points of MIL's modes, then linear or nearest interpolation along each axis.

Points for n inputs and m outputs (coremltools, iOS15 `resize_bilinear`), each kept within 0 .. n - 1:

    DEFAULT                  i * n / m
    STRICT_ALIGN_CORNERS     i * (n - 1) / (m - 1)
    ALIGN_CORNERS            the same, but the middle (n - 1) / 2 when m = 1
    OFFSET_CORNERS           (i + 0.5) * max(1, n - 1) / m
    UNALIGN_CORNERS          (i + 0.5) * n / m - 0.5

Nearest neighbours: `upsample_nearest_neighbor` takes floor(i * n / m), torch's `nearest`; the others, with a target
size, take floor((i + 0.5) * n / m), torch's `nearest-exact` (made of TensorFlow's half-pixel centres).
"""

from __future__ import annotations

import torch
from torch import Tensor

from quantkit.mil.table import Ints, op


def points(n: int, m: int, mode: str) -> Tensor:
    """Return where along an axis of n elements the m outputs are taken, [m] float64."""
    i = torch.arange(m, dtype=torch.float64)
    if mode == "DEFAULT":
        at = i * (n / m)
    elif mode in ("STRICT_ALIGN_CORNERS", "ALIGN_CORNERS"):
        middle = (n - 1) / 2 if mode == "ALIGN_CORNERS" else 0.0
        at = i * ((n - 1) / (m - 1)) if m > 1 else i + middle
    elif mode == "OFFSET_CORNERS":
        at = (i + 0.5) * (max(1, n - 1) / m)
    else:
        at = (i + 0.5) * (n / m) - 0.5
    return at.clamp(0, n - 1)


def linear(x: Tensor, axis: int, at: Tensor) -> Tensor:
    """Interpolate along one axis at fractional positions."""
    low = at.floor().long()
    high = (low + 1).clamp(max=x.shape[axis] - 1)
    share = (at - low).float().reshape([-1 if i == axis % x.ndim else 1 for i in range(x.ndim)])
    a, b = x.index_select(axis, low), x.index_select(axis, high)
    return a + (b - a) * share


def nearest(x: Tensor, axis: int, m: int, centred: bool) -> Tensor:
    """Take the pixel below each point; `centred` puts the points in the middle of the outputs."""
    n = x.shape[axis]
    return x.index_select(axis, (2 * torch.arange(m) + centred) * n // (2 * m))


def bilinear(x: Tensor, height: int, width: int, mode: str) -> Tensor:
    x = linear(x.float(), -2, points(x.shape[-2], height, mode))
    return linear(x, -1, points(x.shape[-1], width, mode))


@op()
def resize_bilinear(x: Tensor, target_size_height: int, target_size_width: int, sampling_mode: str) -> Tensor:
    return bilinear(x, target_size_height, target_size_width, sampling_mode)


@op(exact=True)
def resize_nearest_neighbor(x: Tensor, target_size_height: int, target_size_width: int) -> Tensor:
    return nearest(nearest(x, -2, target_size_height, True), -1, target_size_width, True)


@op(exact=True)
def upsample_nearest_neighbor(x: Tensor, scale_factor_height: float, scale_factor_width: float) -> Tensor:
    height, width = x.shape[-2:]
    x = nearest(x, -2, int(height * scale_factor_height), False)
    return nearest(x, -1, int(width * scale_factor_width), False)


def upsample_refuses(align_corners: bool, half_pixel_centers: bool | None = None, **_: object) -> str | None:
    if half_pixel_centers is not None and half_pixel_centers == align_corners:
        return f"half_pixel_centers = align_corners = {align_corners}: MIL does not say where the points are"
    return None


@op(refuses=upsample_refuses)
def upsample_bilinear(
    x: Tensor,
    scale_factor_height: float,
    scale_factor_width: float,
    align_corners: bool,
    half_pixel_centers: bool | None = None,
) -> Tensor:
    """Enlarge by factors; the points follow from the resulting size, not from the factor."""
    height, width = x.shape[-2:]
    mode = "STRICT_ALIGN_CORNERS" if align_corners else "UNALIGN_CORNERS"
    return bilinear(x, int(height * scale_factor_height), int(width * scale_factor_width), mode)


def resize_refuses(interpolation_mode: str, sampling_mode: str, **_: object) -> str | None:
    if interpolation_mode == "NEAREST_NEIGHBOR" and sampling_mode != "DEFAULT":
        return f"nearest neighbours with sampling_mode {sampling_mode}: MIL does not say how it rounds"
    return None


@op(refuses=resize_refuses)
def resize(x: Tensor, shape: Ints, resized_dims: int, interpolation_mode: str, sampling_mode: str) -> Tensor:
    """Resize the last axes to the last sizes of `shape`; 0 keeps the size of x."""
    for back in range(1, resized_dims + 1):
        m = shape[-back] or x.shape[-back]
        if interpolation_mode == "NEAREST_NEIGHBOR":
            x = nearest(x, -back, m, True)
        else:
            x = linear(x.float(), -back, points(x.shape[-back], m, sampling_mode))
    return x

"""Sampling an image at given points: `resample` (points as a tensor) and `affine` (points of a linear map)."""

from __future__ import annotations

import torch
from torch import Tensor

from quantkit.mil.table import op


def pixels(at: Tensor, size: int, mode: str, align_corners: bool) -> Tensor:
    """Return positions in pixels: 0 is the centre of the first pixel, size - 1 that of the last."""
    if mode == "unnormalized":
        return at
    share = (at + 1) / 2 if mode == "normalized_minus_one_to_one" else at
    return share * (size - 1) if align_corners else share * size - 0.5


def inside(places: Tensor, size: int, padding: str) -> tuple[Tensor, Tensor | None]:
    """Return whole positions brought inside, and for `constant` where they were inside already."""
    if padding == "constant":
        return places.clamp(0, size - 1), (places >= 0) & (places < size)
    if padding == "border":
        return places.clamp(0, size - 1), None
    if padding == "reflection":
        period = max(1, 2 * (size - 1))
        turned = places.remainder(period)
        return torch.minimum(turned, period - turned).clamp(0, size - 1), None
    turned = places.remainder(2 * size)
    return torch.minimum(turned, 2 * size - 1 - turned), None


def corner(x: Tensor, column: Tensor, row: Tensor, padding: str, fill: float) -> Tensor:
    """Return the pixels of x [b, c, h, w] at whole positions [b, h', w'] as [b, c, h', w']."""
    height, width = x.shape[-2:]
    column, column_in = inside(column.long(), width, padding)
    row, row_in = inside(row.long(), height, padding)
    flat = (row * width + column).flatten(1)[:, None].expand(-1, x.shape[1], -1)
    taken = x.flatten(2).gather(2, flat).reshape(*x.shape[:2], *row.shape[1:])
    if column_in is None or row_in is None:
        return taken
    return torch.where((column_in & row_in)[:, None], taken, torch.tensor(fill))


@op()
def resample(
    x: Tensor,
    coordinates: Tensor,
    sampling_mode: str,
    padding_mode: str,
    padding_value: float,
    coordinates_mode: str,
    align_corners: bool,
) -> Tensor:
    """Sample x [b, c, h, w] at coordinates [b, h', w', (x, y)]."""
    height, width = x.shape[-2:]
    column = pixels(coordinates[..., 0].float(), width, coordinates_mode, align_corners)
    row = pixels(coordinates[..., 1].float(), height, coordinates_mode, align_corners)
    if sampling_mode == "nearest":
        return corner(x, column.round(), row.round(), padding_mode, padding_value)
    left, top = column.floor(), row.floor()
    right_share, bottom_share = (column - left)[:, None], (row - top)[:, None]
    total = torch.zeros(())
    for right, bottom in ((0, 0), (1, 0), (0, 1), (1, 1)):
        weight = (right_share if right else 1 - right_share) * (bottom_share if bottom else 1 - bottom_share)
        total = total + weight * corner(x, left + right, top + bottom, padding_mode, padding_value)
    return total


def affine_refuses(align_corners: bool, **_: object) -> str | None:
    return None if align_corners else "align_corners = False, which MIL calls not supported"


@op(refuses=affine_refuses)
def affine(
    x: Tensor,
    transform_matrix: Tensor,
    output_height: int,
    output_width: int,
    sampling_mode: str,
    padding_mode: str,
    padding_value: float,
    coordinates_mode: str,
    align_corners: bool,
) -> Tensor:
    """Sample x where a matrix [b or 1, (a0, a1, a2, b0, b1, b2)] sends the output's points, all within -1 .. 1."""
    columns = torch.linspace(-1, 1, output_width)[None, None, :].expand(1, output_height, -1)
    rows = torch.linspace(-1, 1, output_height)[None, :, None].expand(1, -1, output_width)
    a0, a1, a2, b0, b1, b2 = (part.reshape(-1, 1, 1) for part in transform_matrix.unbind(1))
    points = torch.stack([a0 * columns + a1 * rows + a2, b0 * columns + b1 * rows + b2], -1)
    points = points.expand(x.shape[0], -1, -1, -1)
    return resample(x, points, sampling_mode, padding_mode, padding_value, coordinates_mode, align_corners)

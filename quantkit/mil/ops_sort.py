"""Sorting, positions and running sums. Equal values keep their order; MIL leaves ties open."""

from __future__ import annotations

import torch
from torch import Tensor

from quantkit.mil.table import op


@op(exact=True)
def argsort(x: Tensor, axis: int, ascending: bool) -> Tensor:
    return torch.sort(x, dim=axis, descending=not ascending, stable=True).indices


@op(exact=True)
def topk(
    x: Tensor,
    k: int,
    axis: int,
    ascending: bool,
    sort: bool = True,
    return_indices: bool = True,
    output_indices_dtype: str = "int32",
) -> Tensor | tuple[Tensor, Tensor]:
    """Return the k largest (ascending: smallest) values and their positions; k = -1 takes all."""
    values, indices = torch.sort(x, dim=axis, descending=not ascending, stable=True)
    count = x.shape[axis] if k == -1 else k
    values, indices = values.narrow(axis, 0, count), indices.narrow(axis, 0, count)
    return (values, indices) if return_indices else values


@op()
def cumsum(x: Tensor, axis: int, exclusive: bool, reverse: bool) -> Tensor:
    """Return running sums; exclusive ones begin with 0, reverse ones begin at the end."""
    ordered = x.flip(axis) if reverse else x
    sums = torch.cumsum(ordered, axis)
    sums = sums - ordered if exclusive and not x.is_floating_point() else sums
    if exclusive and x.is_floating_point():  # subtracting would leave a rounding error
        sums = torch.cat([torch.zeros_like(sums.narrow(axis, 0, 1)), sums.narrow(axis, 0, x.shape[axis] - 1)], axis)
    return sums.flip(axis) if reverse else sums


@op(exact=True)
def non_zero(x: Tensor) -> Tensor:
    return torch.nonzero(x)


@op(exact=True)
def one_hot(indices: Tensor, one_hot_vector_size: int, axis: int, on_value: Tensor, off_value: Tensor) -> Tensor:
    """Return vectors with `on_value` at the index and `off_value` elsewhere (all off for an index outside)."""
    rank = indices.ndim + 1
    classes = torch.arange(one_hot_vector_size).reshape([-1 if i == axis % rank else 1 for i in range(rank)])
    return torch.where(indices.unsqueeze(axis) == classes, on_value, off_value)

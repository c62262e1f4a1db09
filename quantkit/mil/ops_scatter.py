"""Gathers and scatters. Negative indices count from the end; an index outside is torch's error, never a silent wrap.

A scatter with repeated indices accumulates in every mode but `update`, where the last one wins (MIL leaves it open).
"""

from __future__ import annotations

import torch
from torch import Tensor

from quantkit.mil.table import op

REDUCE = {"add": "sum", "sub": "sum", "mul": "prod", "div": "prod", "max": "amax", "min": "amin"}


def positive(indices: Tensor, size: int, validate: bool = False) -> Tensor:
    """Return indices with negative ones counted from the end; asked to validate (iOS17), they are errors.

    Raises:
        ValueError: an index outside 0 .. size - 1, when asked to validate.
    """
    places = indices.long()
    if validate and places.numel() and (int(places.min()) < 0 or int(places.max()) >= size):
        raise ValueError(f"indices must lie within 0..{size - 1}: got {int(places.min())}..{int(places.max())}")
    return torch.where(places < 0, places + size, places)


@op(exact=True)
def gather(x: Tensor, indices: Tensor, axis: int, batch_dims: int = 0, validate_indices: bool = False) -> Tensor:
    """Take slices of x along `axis`; the first `batch_dims` axes of x and indices go together."""
    axis %= x.ndim
    places = positive(indices, x.shape[axis], validate_indices)
    if batch_dims == 0:
        taken = x.index_select(axis, places.reshape(-1))
        return taken.reshape(x.shape[:axis] + places.shape + x.shape[axis + 1 :])
    batch = x.shape[:batch_dims]
    items = zip(x.reshape(-1, *x.shape[batch_dims:]), places.reshape(-1, *places.shape[batch_dims:]))
    results = [gather(item, at, axis - batch_dims) for item, at in items]
    return torch.stack(results).reshape(*batch, *results[0].shape)


@op(exact=True)
def gather_along_axis(x: Tensor, indices: Tensor, axis: int, validate_indices: bool = False) -> Tensor:
    return torch.take_along_dim(x, positive(indices, x.shape[axis], validate_indices), axis)


@op(exact=True)
def gather_nd(x: Tensor, indices: Tensor, batch_dims: int = 0, validate_indices: bool = False) -> Tensor:
    """Take slices of x at the points that the last axis of `indices` names."""
    if batch_dims == 0:
        return x[points(x, indices, validate_indices)]
    flat_x = x.reshape(-1, *x.shape[batch_dims:])
    flat_indices = indices.reshape(-1, *indices.shape[batch_dims:])
    results = torch.stack([item[points(item, at, validate_indices)] for item, at in zip(flat_x, flat_indices)])
    return results.reshape(*x.shape[:batch_dims], *results.shape[1:])


def points(x: Tensor, indices: Tensor, validate: bool) -> tuple[Tensor, ...]:
    return tuple(positive(indices[..., axis], x.shape[axis], validate) for axis in range(indices.shape[-1]))


@op()
def scatter(
    data: Tensor, indices: Tensor, updates: Tensor, axis: int, mode: str, validate_indices: bool = False
) -> Tensor:
    """Combine slices of `updates` into `data` along `axis`."""
    axis %= data.ndim
    places = positive(indices, data.shape[axis], validate_indices)
    if places.ndim != 1:
        updates = updates.flatten(axis, axis + places.ndim - 1)
    shape = [-1 if i == axis else 1 for i in range(data.ndim)]
    return combined(data, axis, places.reshape(shape).expand_as(updates), updates, mode)


@op()
def scatter_along_axis(
    data: Tensor, indices: Tensor, updates: Tensor, axis: int, mode: str, validate_indices: bool = False
) -> Tensor:
    return combined(data, axis, positive(indices, data.shape[axis], validate_indices), updates, mode)


@op()
def scatter_nd(data: Tensor, indices: Tensor, updates: Tensor, mode: str, validate_indices: bool = False) -> Tensor:
    """Combine `updates` into `data` at the points that the last axis of `indices` names."""
    depth = indices.shape[-1]
    sizes = data.shape[:depth]
    flat = torch.zeros(indices.shape[:-1], dtype=torch.long)
    for size, place in zip(sizes, points(data, indices, validate_indices)):
        flat = flat * size + place
    rows = data.reshape(-1, *data.shape[depth:])
    rows = rows.reshape(rows.shape[0], -1)
    news = updates.reshape(flat.numel(), -1)
    return combined(rows, 0, flat.reshape(-1, 1).expand_as(news), news, mode).reshape(data.shape)


def combined(data: Tensor, axis: int, indices: Tensor, updates: Tensor, mode: str) -> Tensor:
    if mode == "update":
        return data.scatter(axis, indices, updates)
    if mode == "sub":
        updates = -updates
    elif mode == "div":
        updates = torch.reciprocal(updates)
    return data.scatter_reduce(axis, indices, updates, REDUCE[mode])

"""Slices: `slice_by_index` and `slice_update` follow NumPy's rules, negative strides included."""

from __future__ import annotations

import torch
from torch import Tensor

from quantkit.errors import Unsupported
from quantkit.mil.table import Ints, op


def ranges(shape: torch.Size, begin: Ints, end: Ints, stride: Ints | None, masks: list[Ints | None]) -> list[range]:
    """Return the positions that a slice takes along each axis; masks are begin_mask, end_mask, squeeze_mask."""
    none: Ints = (0,) * len(shape)
    no_begin, no_end, single = (mask or none for mask in masks)
    taken = []
    for axis, size in enumerate(shape):
        first = None if no_begin[axis] else begin[axis]
        if single[axis]:
            at = 0 if first is None else first
            taken.append(range(at % size, at % size + 1))
            continue
        step = 1 if stride is None else stride[axis]
        last = None if no_end[axis] else end[axis]
        taken.append(range(*slice(first, last, step).indices(size)))
    return taken


def take(x: Tensor, taken: list[range]) -> Tensor:
    """Return those positions; a step backwards needs a copy, the others are views."""
    for axis, positions in enumerate(taken):
        if positions.step < 0:
            x = x.index_select(axis, torch.tensor(list(positions), dtype=torch.long))
    return x[tuple(slice(None) if r.step < 0 else slice(r.start, max(r.stop, r.start), r.step) for r in taken)]


@op(exact=True)
def slice_by_index(
    x: Tensor,
    begin: Ints,
    end: Ints,
    stride: Ints | None = None,
    begin_mask: Ints | None = None,
    end_mask: Ints | None = None,
    squeeze_mask: Ints | None = None,
) -> Tensor:
    """Return x[begin:end:stride] per axis; a masked begin or end is open, a squeezed axis takes `begin` alone."""
    part = take(x, ranges(x.shape, begin, end, stride, [begin_mask, end_mask, squeeze_mask]))
    squeezed = [axis for axis, flag in enumerate(squeeze_mask or ()) if flag]
    return part.squeeze(squeezed) if squeezed else part


@op(exact=True)
def slice_update(
    x: Tensor,
    update: Tensor,
    begin: Ints,
    end: Ints,
    stride: Ints | None = None,
    begin_mask: Ints | None = None,
    end_mask: Ints | None = None,
    squeeze_mask: Ints | None = None,
) -> Tensor:
    """Return a copy of x with that slice replaced by `update`."""
    taken = ranges(x.shape, begin, end, stride, [begin_mask, end_mask, squeeze_mask])
    result = x.clone()
    if all(positions.step > 0 for positions in taken):
        part = result[tuple(slice(r.start, max(r.stop, r.start), r.step) for r in taken)]
        part.copy_(update.reshape(part.shape))
        return result
    grid = [
        torch.tensor(list(r), dtype=torch.long).reshape([-1 if i == axis else 1 for i in range(x.ndim)])
        for axis, r in enumerate(taken)
    ]
    result[tuple(grid)] = update.reshape([len(r) for r in taken])
    return result


@op(exact=True)
def slice_by_size(x: Tensor, begin: Ints, size: Ints) -> Tensor:
    """Return `size` elements from `begin` on, per axis; -1 takes all that are left."""
    starts = [at + n if at < 0 else at for at, n in zip(begin, x.shape)]
    stops = [n if count == -1 else at + count for at, count, n in zip(starts, size, x.shape)]
    if any(stop > n or at < 0 for at, stop, n in zip(starts, stops, x.shape)):
        raise Unsupported(f"slice_by_size from {begin} with sizes {size} leaves a tensor of shape {tuple(x.shape)}")
    return x[tuple(slice(at, stop) for at, stop in zip(starts, stops))]


@op(exact=True)
def crop(x: Tensor, crop_height: Ints, crop_width: Ints) -> Tensor:
    """Cut [before, after] off the last two axes."""
    height, width = x.shape[-2:]
    return x[..., crop_height[0] : height - crop_height[1], crop_width[0] : width - crop_width[1]]


@op(exact=True)
def split(x: Tensor, axis: int, num_splits: int | None = None, split_sizes: Ints | None = None) -> tuple[Tensor, ...]:
    sizes = list(split_sizes) if split_sizes is not None else x.shape[axis] // (num_splits or 1)
    return torch.split(x, sizes, axis)


@op(exact=True)
def sliding_windows(x: Tensor, axis: int, size: int, stride: int) -> Tensor:
    """Return all windows along an axis, the position inside the window as the axis after it."""
    axis %= x.ndim
    return x.unfold(axis, size, stride).movedim(-1, axis + 1)

"""Operations that move, repeat or make values without computing with them."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from quantkit.errors import Unsupported
from quantkit.mil.ops_convolution import for_torch
from quantkit.mil.table import Ints, Tensors, op


@op(exact=True)
def identity(x: Tensor) -> Tensor:
    return x


@op(exact=True)
def shape(x: Tensor) -> Tensor:
    return torch.tensor(x.shape, dtype=torch.int32)


@op(exact=True)
def reshape(x: Tensor, shape: Ints) -> Tensor:
    """Reshape; 0 takes the size of x at that place counted from the last axis (iOS15 asks for equal ranks), or 1."""
    sizes = list(shape)
    for place, size in enumerate(sizes):
        from_end = len(sizes) - place
        if size == 0 and x.numel():
            sizes[place] = x.shape[-from_end] if from_end <= x.ndim else 1
    return x.reshape(sizes)


@op(exact=True)
def reshape_like(x: Tensor, ref_tensors: Tensors, begins: Tensors, ends: Tensors, end_masks: Tensors) -> Tensor:
    sizes: list[int] = []
    for reference, begin, end, masked in zip(ref_tensors, begins, ends, end_masks):
        sizes += reference.shape[int(begin) : None if bool(masked) else int(end)]
    return x.reshape(sizes)


@op(exact=True)
def transpose(x: Tensor, perm: Ints) -> Tensor:
    return x.permute(perm)


@op(exact=True)
def expand_dims(x: Tensor, axes: Ints) -> Tensor:
    rank = x.ndim + len(axes)
    for axis in sorted(axis % rank for axis in axes):
        x = x.unsqueeze(axis)
    return x


@op(exact=True)
def squeeze(x: Tensor, axes: Ints | None = None) -> Tensor:
    return x.squeeze() if axes is None else x.squeeze(axes)


@op(exact=True)
def flatten2d(x: Tensor, axis: int) -> Tensor:
    return x.reshape(math.prod(x.shape[:axis]), math.prod(x.shape[axis:]))


@op(exact=True)
def concat(values: Tensors, axis: int, interleave: bool) -> Tensor:
    """Join along an axis; interleaved, the first elements of all come first, then the second ones."""
    if values[0].ndim == 0:
        return torch.stack(values)
    if interleave:
        return torch.stack(values, axis % values[0].ndim + 1).flatten(axis % values[0].ndim, axis % values[0].ndim + 1)
    return torch.cat(values, axis)


@op(exact=True)
def stack(values: Tensors, axis: int) -> Tensor:
    return torch.stack(values, axis)


@op(exact=True)
def tile(x: Tensor, reps: Ints) -> Tensor:
    return x.repeat(reps)


@op(exact=True)
def reverse(x: Tensor, axes: Ints | None = None) -> Tensor:
    return x.flip(tuple(range(x.ndim)) if axes is None else axes)


@op(exact=True)
def reverse_sequence(x: Tensor, lengths: Ints, seq_axis: int, batch_axis: int) -> Tensor:
    """Turn around the first lengths[i] elements along `seq_axis` of item i along `batch_axis`."""
    turned = x.clone()
    for item, length in enumerate(lengths):
        source = x.select(batch_axis, item)
        axis = seq_axis % x.ndim - (batch_axis % x.ndim < seq_axis % x.ndim)
        turned.select(batch_axis, item).narrow(axis, 0, length).copy_(source.narrow(axis, 0, length).flip(axis))
    return turned


@op(exact=True)
def pad(x: Tensor, pad: Ints, mode: str, constant_val: Tensor) -> Tensor:
    """Pad the last axes; `pad` is [before, after] per axis, first axis first."""
    pairs = [(0, 0)] * (x.ndim - len(pad) // 2) + list(zip(pad[::2], pad[1::2]))
    if mode == "constant":
        return F.pad(x, for_torch(pairs), value=constant_val.item())
    for axis, (before, after) in enumerate(pairs):
        size = x.shape[axis]
        places = torch.arange(-before, size + after)
        places = places.clamp(0, size - 1) if mode == "replicate" else reflected(places, size)
        x = x.index_select(axis, places) if before or after else x
    return x


def reflected(places: Tensor, size: int) -> Tensor:
    """Mirror positions at the first and last element, which are not repeated."""
    if int(places[0]) < 1 - size or int(places[-1]) > 2 * size - 2:
        raise Unsupported(f"pad in mode reflect by more than {size - 1} on an axis of {size}")
    return (size - 1) - ((size - 1) - places.abs()).abs()


@op(exact=True)
def fill(shape: Ints, value: Tensor) -> Tensor:
    return value.expand(shape)


@op(exact=True)
def fill_like(ref_tensor: Tensor, value: Tensor) -> Tensor:
    return value.expand(ref_tensor.shape)


@op(exact=True)
def range_1d(start: Tensor, end: Tensor, step: Tensor) -> Tensor:
    return torch.arange(start.item(), end.item(), step.item(), dtype=start.dtype)


@op(exact=True)
def band_part(x: Tensor, lower: int, upper: int) -> Tensor:
    """Keep `lower` diagonals below and `upper` above the main one (all when negative), zero elsewhere."""
    below = torch.arange(x.shape[-2])[:, None] - torch.arange(x.shape[-1])
    kept = ((below <= lower) | torch.tensor(lower < 0)) & ((-below <= upper) | torch.tensor(upper < 0))
    return torch.where(kept, x, torch.zeros((), dtype=x.dtype))


@op("pixel_shuffle", exact=True)
def pixel_shuffle(x: Tensor, upscale_factor: int) -> Tensor:
    return F.pixel_shuffle(x, upscale_factor)


@op("pixel_unshuffle", exact=True)
def pixel_unshuffle(x: Tensor, downscale_factor: int) -> Tensor:
    return F.pixel_unshuffle(x, downscale_factor)


@op(exact=True)
def depth_to_space(x: Tensor, block_size: int) -> Tensor:
    """Move channels into blocks; the place in the block is the slower part of the channel (TensorFlow's order)."""
    n, c, h, w = x.shape
    parts = x.reshape(n, block_size, block_size, c // block_size**2, h, w)
    return parts.permute(0, 3, 4, 1, 5, 2).reshape(n, c // block_size**2, h * block_size, w * block_size)


@op(exact=True)
def space_to_depth(x: Tensor, block_size: int) -> Tensor:
    n, c, h, w = x.shape
    parts = x.reshape(n, c, h // block_size, block_size, w // block_size, block_size)
    return parts.permute(0, 3, 5, 1, 2, 4).reshape(n, c * block_size**2, h // block_size, w // block_size)


@op(exact=True)
def space_to_batch(x: Tensor, block_shape: Ints, paddings: Tensor) -> Tensor:
    """Move the place in a block to the batch, as its slower part (TensorFlow's `space_to_batch`)."""
    x = F.pad(x, for_torch([(int(before), int(after)) for before, after in paddings.tolist()]))
    n, c, h, w = x.shape
    bh, bw = block_shape
    parts = x.reshape(n, c, h // bh, bh, w // bw, bw)
    return parts.permute(3, 5, 0, 1, 2, 4).reshape(n * bh * bw, c, h // bh, w // bw)


@op(exact=True)
def batch_to_space(x: Tensor, block_shape: Ints, crops: Tensor) -> Tensor:
    n, c, h, w = x.shape
    bh, bw = block_shape
    parts = x.reshape(bh, bw, n // (bh * bw), c, h, w)
    whole = parts.permute(2, 3, 4, 0, 5, 1).reshape(n // (bh * bw), c, h * bh, w * bw)
    (top, bottom), (left, right) = crops.tolist()
    return whole[:, :, top : h * bh - bottom, left : w * bw - right]

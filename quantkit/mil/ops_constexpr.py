"""Compressed weights: every `constexpr_*` of iOS16 and iOS18, worked out once at load, chained ones included.

The two opsets share names but not parameters: iOS16 packs bits into bytes and gives the `shape`, iOS18 has tensors of
few bits with their own shape. Formulas: coremltools' `iOS16/constexpr_ops.py` and `iOS18/compression.py`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from quantkit.mil.ops_quantize import along
from quantkit.mil.table import Ints, op


def unpacked(data: Tensor, bits: int, count: int) -> Tensor:
    """Return `count` unsigned integers packed into bytes from the lowest bit on, across byte borders."""
    stream = (data.to(torch.int64)[:, None] >> torch.arange(8)) & 1
    return (stream.reshape(-1)[: count * bits].reshape(count, bits) << torch.arange(bits)).sum(1)


def spread(values: Tensor, shape: torch.Size | list[int]) -> Tensor:
    """Repeat each element of a table of blocks until it has the shape of the data."""
    for axis, size in enumerate(shape):
        values = values.repeat_interleave(size // values.shape[axis], axis)
    return values


def shape_of(shape: Ints) -> tuple[list[int], int]:
    count = 1
    for size in shape:
        count *= size
    return list(shape), count


@op()
def constexpr_affine_dequantize(quantized_data: Tensor, zero_point: Tensor, scale: Tensor, axis: int) -> Tensor:
    rank = quantized_data.ndim
    return (quantized_data.float() - along(zero_point, rank, axis)) * along(scale, rank, axis)


@op(exact=True)
def constexpr_cast(source_val: Tensor, output_dtype: str) -> Tensor:
    return source_val


@op()
def constexpr_blockwise_shift_scale(data: Tensor, scale: Tensor, offset: Tensor | None = None) -> Tensor:
    """Return (data - offset) * scale, one scale and offset per block; block sizes follow from the shapes."""
    codes = data.float()
    if offset is not None:
        codes = codes - spread(offset.float(), data.shape)
    return codes * spread(scale, data.shape)


@op(exact=True)
def constexpr_lut_to_dense(
    indices: Tensor, lut: Tensor, shape: Ints | None = None, vector_axis: int | None = None
) -> Tensor:
    """Look every index up: one packed table (iOS16), or a table per block with vectors as entries (iOS18)."""
    if shape is not None:
        sizes, count = shape_of(shape)
        return lut[unpacked(indices, (lut.numel() - 1).bit_length(), count)].reshape(sizes)
    return looked_up(indices, lut, vector_axis)


def looked_up(indices: Tensor, lut: Tensor, vector_axis: int | None) -> Tensor:
    """Return the dense tensor; lut is [*tables per axis, entries, vector]."""
    *tables, entries, width = lut.shape
    table = torch.arange(lut.numel() // (entries * width)).reshape(tables)
    rows = spread(table, indices.shape) * entries + indices.long()
    vectors = lut.reshape(-1, width)[rows]  # [*indices, vector]
    if width == 1:
        return vectors.squeeze(-1)
    axis = (vector_axis or 0) % indices.ndim
    return vectors.movedim(-1, axis + 1).flatten(axis, axis + 1)


@op(exact=True)
def constexpr_sparse_to_dense(nonzero_data: Tensor, mask: Tensor, shape: Ints | None = None) -> Tensor:
    """Put the values where the mask is 1 and zeros elsewhere; iOS16 packs the mask and gives the shape."""
    if shape is not None:
        sizes, count = shape_of(shape)
        mask = unpacked(mask, 1, count).reshape(sizes)
    dense = torch.zeros(mask.shape, dtype=nonzero_data.dtype)
    dense[mask != 0] = nonzero_data
    return dense


@op(exact=True)
def constexpr_lut_to_sparse(
    indices_mask: Tensor, indices_nonzero_data: Tensor, lut: Tensor, vector_axis: int | None = None
) -> tuple[Tensor, Tensor]:
    """Look up the values that a mask keeps: return the mask (widened by the vectors) and the values."""
    dense = looked_up(constexpr_sparse_to_dense(indices_nonzero_data, indices_mask), lut, vector_axis)
    mask = indices_mask
    if lut.shape[-1] > 1:
        mask = mask.repeat_interleave(lut.shape[-1], (vector_axis or 0) % mask.ndim)
    return mask, dense[mask != 0]


@op()
def constexpr_sparse_blockwise_shift_scale(
    data_mask: Tensor, nonzero_data: Tensor, scale: Tensor, offset: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Dequantize the values that a mask keeps: return the mask and the values."""
    dense = constexpr_blockwise_shift_scale(constexpr_sparse_to_dense(nonzero_data, data_mask), scale, offset)
    return data_mask, dense[data_mask != 0]

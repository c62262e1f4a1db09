"""ATen's operations that move, cut, join, make or convert values, in MLX: one function each, with ATen's arguments."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import mlx.core as mx

from quantkit.errors import Unsupported


def same(x: mx.array, *_: Any, **__: Any) -> mx.array:
    """Return x: copies, detaching and dropout mean nothing when a trained network runs."""
    return x


def cast(x: mx.array, dtype: Any = None, *_: Any, **__: Any) -> mx.array:
    """Return x in another type; truncation to bool is x ≠ 0."""
    return x if dtype is None else x.astype(dtype)


def reshape(x: mx.array, shape: Sequence[int]) -> mx.array:
    """Return x in another shape; one axis may be −1."""
    return mx.reshape(x, list(shape))


def flatten(x: mx.array, start: int = 0, end: int = -1) -> mx.array:
    """Return x with the axes start..end joined."""
    return mx.flatten(x, start, end)


def permute(x: mx.array, axes: Sequence[int]) -> mx.array:
    """Return x with its axes in another order."""
    return mx.transpose(x, list(axes))


def swap(x: mx.array, first: int = 0, second: int = 1) -> mx.array:
    """Return x with two axes swapped; a vector's `t()` is itself."""
    return mx.swapaxes(x, first, second) if x.ndim > 1 else x


def squeeze(x: mx.array, axes: int | Sequence[int] | None = None) -> mx.array:
    """Return x without the named axes of length 1; axes that are longer stay."""
    wanted = range(x.ndim) if axes is None else [axes] if isinstance(axes, int) else axes
    return mx.squeeze(x, [axis for axis in wanted if x.shape[axis] == 1])


def expand(x: mx.array, shape: Sequence[int], *, implicit: bool = False) -> mx.array:
    """Return x repeated along axes of length 1; −1 keeps an axis."""
    lead = len(shape) - x.ndim
    sizes = [x.shape[i - lead] if size == -1 else size for i, size in enumerate(shape)]
    return mx.broadcast_to(x, sizes)


def cut(x: mx.array, axis: int = 0, start: int | None = None, end: int | None = None, step: int = 1) -> mx.array:
    """Return x[start:end:step] along an axis (ends beyond the axis are cut off, as in Python)."""
    size = x.shape[axis]
    first, last = (None if at is None else max(-size, min(at, size)) for at in (start, end))  # MLX takes 32 bits
    return x[_at(x, axis, slice(first, last, step))]


def select(x: mx.array, axis: int, index: int) -> mx.array:
    """Return x[index] along an axis, which goes away."""
    return x[_at(x, axis, index)]


def split(x: mx.array, sizes: int | Sequence[int], axis: int = 0) -> list[mx.array]:
    """Return pieces of one size (the last may be smaller), or of the sizes given."""
    if isinstance(sizes, int):
        ends = list(range(sizes, x.shape[axis], sizes))
    else:
        ends = [sum(sizes[: i + 1]) for i in range(len(sizes) - 1)]
    return list(mx.split(x, ends, axis=axis)) if ends else [x]


def chunk(x: mx.array, count: int, axis: int = 0) -> list[mx.array]:
    """Return at most `count` pieces of one size, the last smaller."""
    return split(x, math.ceil(x.shape[axis] / count), axis)


def unbind(x: mx.array, axis: int = 0) -> list[mx.array]:
    """Return the slices along an axis, which goes away."""
    return [select(x, axis, i) for i in range(x.shape[axis])]


def join(parts: Sequence[mx.array], axis: int = 0) -> mx.array:
    """Return the parts behind each other (empty vectors are left out, as in ATen)."""
    return mx.concatenate([part for part in parts if part.shape != (0,)], axis=axis)


def pad(x: mx.array, widths: Sequence[int], value: float = 0) -> mx.array:
    """Return x with a constant around it: pairs of widths, the last axis first; negative ones cut off."""
    pairs = [(0, 0)] * (x.ndim - len(widths) // 2)
    pairs += [(widths[i], widths[i + 1]) for i in range(len(widths) - 2, -1, -2)]
    for axis, (before, after) in enumerate(pairs):
        x = cut(x, axis, max(0, -before), x.shape[axis] - max(0, -after))
    return mx.pad(x, [(max(0, before), max(0, after)) for before, after in pairs], constant_values=value)


def gather(x: mx.array, axis: int, index: mx.array, **_: Any) -> mx.array:
    """Return x at the indices along an axis, one for each place of `index`."""
    return mx.take_along_axis(x, index, axis=axis)


def index_select(x: mx.array, axis: int, index: mx.array) -> mx.array:
    """Return the slices of x at the indices."""
    return mx.take(x, index, axis=axis)


def index(x: mx.array, indices: Sequence[mx.array | None]) -> mx.array:
    """Return x[indices]; None stands for a whole axis.

    Raises:
        Unsupported: a mask (the result's shape would depend on its values).
    """
    if any(i is not None and i.dtype == mx.bool_ for i in indices):
        raise Unsupported("indexing by a mask has no fixed shape")
    return x[tuple(slice(None) if i is None else i for i in indices)]


def full(shape: Sequence[int], value: float, *, dtype: Any = None) -> mx.array:
    """Return an array of one value."""
    return mx.full(list(shape), value, dtype=dtype)


def full_like(x: mx.array, value: float, *, dtype: Any = None) -> mx.array:
    """Return an array of one value, shaped as x."""
    return mx.full(x.shape, value, dtype=dtype or x.dtype)


def arange(start: float, end: float, step: float = 1, *, dtype: Any = None) -> mx.array:
    """Return start, start + step, … below end."""
    return mx.arange(start, end, step, dtype=dtype)


def _constant(value: float) -> tuple[Callable[..., mx.array], Callable[..., mx.array]]:
    """Return ATen's `zeros` and `zeros_like`, or `ones` and `ones_like`."""

    def like(x: mx.array, *, dtype: Any = None) -> mx.array:
        return full_like(x, value, dtype=dtype)

    def shaped(shape: Sequence[int], *, dtype: Any = None) -> mx.array:
        return full(shape, value, dtype=dtype)

    return shaped, like


def _at(x: mx.array, axis: int, what: Any) -> tuple[Any, ...]:
    return (*[slice(None)] * (axis % x.ndim), what)


def scalar(value: float, *, dtype: Any = None) -> mx.array:
    """Return an array without axes."""
    return mx.array(value, dtype=dtype)


def repeat(x: mx.array, times: Sequence[int]) -> mx.array:
    """Return x laid side by side along each axis."""
    return mx.tile(x, list(times))


def flip(x: mx.array, axes: Sequence[int]) -> mx.array:
    """Return x with axes reversed."""
    for axis in axes:
        x = x[_at(x, axis, slice(None, None, -1))]
    return x


zeros, zeros_like = _constant(0)
ones, ones_like = _constant(1)

NAMES: dict[str, Callable[..., Any]] = {
    "alias.default": same, "clone.default": same, "contiguous.default": same, "detach.default": same,
    "dropout.default": same, "lift_fresh_copy.default": same,
    "_to_copy.default": cast, "to.dtype": cast, "view.default": reshape, "reshape.default": reshape,
    "_unsafe_view.default": reshape, "flatten.using_ints": flatten, "permute.default": permute, "t.default": swap,
    "transpose.int": swap, "unsqueeze.default": mx.expand_dims, "squeeze.default": squeeze, "squeeze.dim": squeeze,
    "squeeze.dims": squeeze, "expand.default": expand, "slice.Tensor": cut, "select.int": select,
    "split.Tensor": split, "split_with_sizes.default": split, "chunk.default": chunk, "unbind.int": unbind,
    "cat.default": join, "stack.default": mx.stack, "constant_pad_nd.default": pad, "gather.default": gather,
    "index_select.default": index_select, "index.Tensor": index, "full.default": full, "full_like.default": full_like,
    "zeros.default": zeros, "zeros_like.default": zeros_like, "ones.default": ones, "ones_like.default": ones_like,
    "arange.start_step": arange, "scalar_tensor.default": scalar, "repeat.default": repeat, "flip.default": flip,
    "tril.default": mx.tril, "triu.default": mx.triu,
}  # fmt: skip
OPS: dict[str, Callable[..., Any]] = {f"aten.{name}": function for name, function in NAMES.items()}
OPS["getitem"] = lambda values, position: values[position]

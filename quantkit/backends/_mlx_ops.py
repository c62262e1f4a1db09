"""ATen's elementwise operations and reductions in MLX: one function each, with ATen's arguments in ATen's order.

Results may come in another type than ATen's (MLX's argmax gives uint32): the program casts each to the recorded one.
Formulas use `mlx.core` only: the compiled forms in `mlx.nn` need a C++ compiler at run time on the CPU.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import mlx.core as mx

from quantkit.errors import Unsupported

Axes = int | Sequence[int] | None


def add(x: Any, y: Any, *, alpha: float = 1) -> mx.array:
    """Return x + alpha · y."""
    return mx.add(x, y if alpha == 1 else alpha * y)


def subtract(x: Any, y: Any, *, alpha: float = 1) -> mx.array:
    """Return x − alpha · y."""
    return mx.subtract(x, y if alpha == 1 else alpha * y)


def reverse_subtract(x: mx.array, y: Any, alpha: float = 1) -> mx.array:
    """Return y − alpha · x."""
    return subtract(y, x, alpha=alpha)


def divide(x: Any, y: Any, *, rounding_mode: str | None = None) -> mx.array:
    """Return x / y: true, rounded down (`floor`) or towards zero (`trunc`)."""
    if rounding_mode is None:
        return mx.divide(x, y)
    if rounding_mode == "floor":
        return mx.floor_divide(x, y)
    return truncate(mx.divide(x, y))


def truncate(x: mx.array) -> mx.array:
    """Return x rounded towards zero."""
    return mx.sign(x) * mx.floor(mx.abs(x))


def gelu(x: mx.array, *, approximate: str = "none") -> mx.array:
    """Return x · Φ(x), exact or by the tanh formula (Hendrycks & Gimpel 2016, arXiv:1606.08415)."""
    if approximate == "tanh":
        inner = math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x)
        return 0.5 * x * (1 + mx.tanh(inner))
    return 0.5 * x * (1 + mx.erf(x * math.sqrt(0.5)))


def silu(x: mx.array) -> mx.array:
    """Return x · sigmoid(x)."""
    return x * mx.sigmoid(x)


def relu(x: mx.array) -> mx.array:
    """Return max(x, 0)."""
    return mx.maximum(x, 0)


def leaky_relu(x: mx.array, negative_slope: float = 0.01) -> mx.array:
    """Return x above zero, negative_slope · x below."""
    return mx.where(x > 0, x, x * negative_slope)


def elu(x: mx.array, alpha: float = 1, scale: float = 1, input_scale: float = 1) -> mx.array:
    """Return scale · x above zero, scale · alpha · (exp(input_scale · x) − 1) below."""
    return scale * mx.where(x > 0, x, alpha * mx.expm1(mx.minimum(x, 0) * input_scale))


def clamp(x: mx.array, low: Any = None, high: Any = None) -> mx.array:
    """Return x cut off at the limits that are given."""
    x = x if low is None else mx.maximum(x, low)
    return x if high is None else mx.minimum(x, high)


def softmax(x: mx.array, axis: int, dtype: Any = None) -> mx.array:
    """Return softmax along an axis, summed up in float32 (without `precise` MLX sums 16-bit floats in 16 bits)."""
    return mx.softmax(x if dtype is None or isinstance(dtype, bool) else x.astype(dtype), axis=axis, precise=True)


def log_softmax(x: mx.array, axis: int, dtype: Any = None) -> mx.array:
    """Return x − log Σ exp(x) along an axis."""
    return x - mx.logsumexp(x, axis=axis, keepdims=True)


def reduction(function: Callable[..., mx.array]) -> Callable[..., mx.array]:
    """Return ATen's form of an MLX reduction; no axes, or an empty list, means all."""

    def reduce(x: mx.array, axes: Axes = None, keepdim: bool = False, *, dtype: Any = None) -> mx.array:
        return function(x if dtype is None else x.astype(dtype), axis=_axes(axes), keepdims=keepdim)

    return reduce


def variance(x: mx.array, axes: Axes = None, *, correction: float | None = 1, keepdim: bool = False) -> mx.array:
    """Return the variance with n − correction in the denominator."""
    return mx.var(x, axis=_axes(axes), ddof=1 if correction is None else int(correction), keepdims=keepdim)


def whole(function: Callable[..., mx.array]) -> Callable[..., mx.array]:
    """Return ATen's form of an argument of the extremum: its axis may be None."""

    def find(x: mx.array, axis: int | None = None, keepdim: bool = False) -> mx.array:
        return function(x, axis=axis, keepdims=keepdim)

    return find


def vector_norm(x: mx.array, order: float = 2, axes: Axes = None, keepdim: bool = False, **_: Any) -> mx.array:
    """Return the length of vectors: Euclidean, the sum of magnitudes (order 1) or the largest one (infinity).

    Raises:
        Unsupported: another order.
    """
    if order not in (1, 2, math.inf):
        raise Unsupported(f"a norm of order {order}")
    if order == 2:
        return mx.sqrt(mx.sum(mx.square(x), axis=_axes(axes), keepdims=keepdim))
    return (mx.sum if order == 1 else mx.max)(mx.abs(x), axis=_axes(axes), keepdims=keepdim)


def cumulative_sum(x: mx.array, axis: int, *, dtype: Any = None) -> mx.array:
    """Return running sums; booleans and integers count in int64."""
    wide = x if mx.issubdtype(x.dtype, mx.floating) else x.astype(mx.int64)
    return mx.cumsum(wide if dtype is None else x.astype(dtype), axis=axis)


def bitwise_not(x: mx.array) -> mx.array:
    """Return ~x: for booleans the logical not, as in ATen."""
    return mx.logical_not(x) if x.dtype == mx.bool_ else mx.bitwise_invert(x)


def _axes(axes: Axes) -> int | list[int] | None:
    if isinstance(axes, int) or axes is None:
        return axes
    return list(axes) or None


UNARY: dict[str, Callable[..., Any]] = {
    "abs": mx.abs, "acos": mx.arccos, "asin": mx.arcsin, "atan": mx.arctan, "bitwise_not": bitwise_not,
    "ceil": mx.ceil, "cos": mx.cos, "cosh": mx.cosh, "erf": mx.erf, "exp": mx.exp, "expm1": mx.expm1,
    "floor": mx.floor, "isinf": mx.isinf, "isnan": mx.isnan, "log": mx.log, "log10": mx.log10, "log1p": mx.log1p,
    "log2": mx.log2,
    "logical_not": mx.logical_not, "neg": mx.negative, "reciprocal": mx.reciprocal, "relu": relu, "round": mx.round,
    "rsqrt": mx.rsqrt, "sigmoid": mx.sigmoid, "sign": mx.sign, "silu": silu, "sin": mx.sin,
    "sinh": mx.sinh, "sqrt": mx.sqrt,
    "tan": mx.tan, "tanh": mx.tanh, "trunc": truncate,
}  # fmt: skip
COMPARE: dict[str, Callable[..., Any]] = {
    "eq": mx.equal, "ge": mx.greater_equal, "gt": mx.greater, "le": mx.less_equal, "lt": mx.less, "ne": mx.not_equal,
}  # fmt: skip
BINARY: dict[str, Callable[..., Any]] = {
    "add.Tensor": add, "add.Scalar": add, "sub.Tensor": subtract, "sub.Scalar": subtract,
    "rsub.Scalar": reverse_subtract, "rsub.Tensor": reverse_subtract, "mul.Tensor": mx.multiply,
    "mul.Scalar": mx.multiply, "div.Tensor": divide, "div.Scalar": divide, "div.Tensor_mode": divide,
    "pow.Tensor_Scalar": mx.power, "pow.Tensor_Tensor": mx.power, "pow.Scalar": mx.power,
    "remainder.Scalar": mx.remainder, "remainder.Tensor": mx.remainder, "maximum.default": mx.maximum,
    "minimum.default": mx.minimum, "logical_and.default": mx.logical_and, "logical_or.default": mx.logical_or,
    "bitwise_and.Tensor": mx.bitwise_and, "bitwise_or.Tensor": mx.bitwise_or,
    "bitwise_xor.Tensor": mx.bitwise_xor,
}  # fmt: skip
OTHERS: dict[str, Callable[..., Any]] = {
    "gelu.default": gelu, "leaky_relu.default": leaky_relu, "elu.default": elu, "clamp.default": clamp,
    "clamp.Tensor": clamp, "hardtanh.default": clamp, "where.self": mx.where, "softmax.int": softmax,
    "_softmax.default": softmax, "log_softmax.int": log_softmax, "_log_softmax.default": log_softmax,
    "sum.default": reduction(mx.sum), "sum.dim_IntList": reduction(mx.sum), "mean.default": reduction(mx.mean),
    "mean.dim": reduction(mx.mean), "amax.default": reduction(mx.max), "amin.default": reduction(mx.min),
    "any.default": reduction(mx.any), "any.dim": reduction(mx.any), "any.dims": reduction(mx.any),
    "prod.dim_int": reduction(mx.prod), "var.correction": variance, "argmax.default": whole(mx.argmax),
    "argmin.default": whole(mx.argmin), "cumsum.default": cumulative_sum,
    "linalg_vector_norm.default": vector_norm,
}  # fmt: skip
OPS: dict[str, Callable[..., Any]] = {
    **{f"aten.{name}.default": function for name, function in UNARY.items()},
    **{f"aten.{name}.{kind}": function for name, function in COMPARE.items() for kind in ("Scalar", "Tensor")},
    **{f"aten.{name}": function for name, function in (BINARY | OTHERS).items()},
}

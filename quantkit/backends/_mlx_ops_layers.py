"""ATen's layers in MLX: products, convolutions, norms, attention, pooling and the LSTM, by MLX's fast forms.

A weight comes as an array or, where a product or an embedding takes it, as `Quantized`. Images are [n, channels,
height, width] between operations, as in the graph; MLX wants channels last, so convolutions and pools turn them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import mlx.core as mx

from quantkit.backends._mlx_weights import Quantized
from quantkit.errors import Unsupported

Weight = mx.array | Quantized


def product(x: mx.array, weight: Weight) -> mx.array:
    """Return x · weightᵀ, [..., in] -> [..., out]."""
    return weight.product(x) if isinstance(weight, Quantized) else x @ weight.T


def linear(x: mx.array, weight: Weight, bias: mx.array | None = None) -> mx.array:
    """Return x · weightᵀ + bias."""
    made = product(x, weight)
    return made if bias is None else made + bias


def embedding(weight: Weight, ids: mx.array, *_: Any) -> mx.array:
    """Return the rows of the table at `ids` (padding index and gradients' options mean nothing here)."""
    return weight.rows(ids) if isinstance(weight, Quantized) else weight[ids]


def add_product(c: mx.array, a: mx.array, b: mx.array, *, beta: float = 1, alpha: float = 1) -> mx.array:
    """Return beta · c + alpha · a · b."""
    return mx.addmm(c, a, b, alpha=alpha, beta=beta)


def convolve(
    x: mx.array,
    kernel: mx.array,
    bias: mx.array | None = None,
    stride: Sequence[int] = (1,),
    padding: Sequence[int] = (0,),
    dilation: Sequence[int] = (1,),
    groups: int = 1,
) -> mx.array:
    """Return the convolution of x [n, channels, ...] with a kernel as MLX keeps it, [out, ..., in / groups]."""
    axes = kernel.ndim - 2
    stride, padding, dilation = ([*v] * (axes if len(v) == 1 else 1) for v in (stride, padding, dilation))
    made = mx.conv_general(
        mx.moveaxis(x, 1, -1), kernel, stride=stride, padding=padding, kernel_dilation=dilation, groups=groups
    )
    return mx.moveaxis(made if bias is None else made + bias, -1, 1)


def convolve_generally(
    x: mx.array,
    kernel: mx.array,
    bias: mx.array | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
) -> mx.array:
    """Return the convolution, as `convolve`.

    Raises:
        Unsupported: a transposed one.
    """
    if transposed:
        raise Unsupported("a transposed convolution")
    return convolve(x, kernel, bias, stride, padding, dilation, groups)


def batch_norm(
    x: mx.array,
    weight: mx.array | None,
    bias: mx.array | None,
    mean: mx.array,
    variance: mx.array,
    momentum: float,
    eps: float,
) -> tuple[mx.array]:
    """Return (x normalized per channel by trained statistics,): ATen's other two outputs are empty in inference."""
    scale = mx.rsqrt(variance + eps) if weight is None else weight * mx.rsqrt(variance + eps)
    shift = -mean * scale if bias is None else bias - mean * scale
    shape = (-1, *[1] * (x.ndim - 2))
    return (x * scale.reshape(shape) + shift.reshape(shape),)


def layer_norm(
    x: mx.array,
    shape: Sequence[int],
    weight: mx.array | None = None,
    bias: mx.array | None = None,
    eps: float = 1e-5,
    *_: Any,
) -> mx.array:
    """Return x with mean 0 and deviation 1 over its last axes."""
    rows = x.reshape(*x.shape[: x.ndim - len(shape)], -1)
    scale, shift = (None if v is None else v.reshape(-1) for v in (weight, bias))
    return mx.fast.layer_norm(rows, scale, shift, eps).reshape(x.shape)


def rms_norm(x: mx.array, shape: Sequence[int], weight: mx.array | None = None, eps: float | None = None) -> mx.array:
    """Return x / sqrt(mean(x²) + eps) over its last axes; without eps the type's own, as in ATen."""
    rows = x.reshape(*x.shape[: x.ndim - len(shape)], -1)
    least = mx.finfo(x.dtype).eps if eps is None else eps
    return mx.fast.rms_norm(rows, None if weight is None else weight.reshape(-1), least).reshape(x.shape)


def group_norm(
    x: mx.array,
    groups: int,
    weight: mx.array | None = None,
    bias: mx.array | None = None,
    eps: float = 1e-5,
    *_: Any,
) -> mx.array:
    """Return x [n, channels, ...] with mean 0 and deviation 1 over each group of channels."""
    rows = mx.fast.layer_norm(x.reshape(x.shape[0], groups, -1), None, None, eps).reshape(x.shape)
    shape = (-1, *[1] * (x.ndim - 2))
    rows = rows if weight is None else rows * weight.reshape(shape)
    return rows if bias is None else rows + bias.reshape(shape)


def attention(
    q: mx.array,
    k: mx.array,
    v: mx.array,
    mask: mx.array | None = None,
    dropout: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> mx.array:
    """Return softmax(q · kᵀ · scale + mask) · v over [n, heads, t, size].

    Raises:
        Unsupported: a causal mask over queries and keys of different number, which ATen and MLX align differently.
    """
    if is_causal and q.shape[-2] != k.shape[-2]:
        raise Unsupported(f"a causal mask over {q.shape[-2]} queries and {k.shape[-2]} keys")
    lead = [1] * (4 - q.ndim)
    q, k, v = (x.reshape(*lead, *x.shape) for x in (q, k, v))
    chosen = "causal" if is_causal else mask
    factor = q.shape[-1] ** -0.5 if scale is None else scale
    made = mx.fast.scaled_dot_product_attention(q, k, v, scale=factor, mask=chosen)
    return made.reshape(made.shape[len(lead) :])


def max_pool(
    x: mx.array,
    size: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (0,),
    dilation: Sequence[int] = (1,),
    ceil_mode: bool = False,
) -> mx.array:
    """Return the largest value of each window of x [n, channels, height, width].

    Raises:
        Unsupported: dilated windows, or windows that reach over the edge (`ceil_mode`).
    """
    if ceil_mode or set(dilation) != {1}:
        raise Unsupported("dilated windows or ceil_mode in a pooling layer")
    return mx.max(_windows(x, size, stride, padding, -math.inf), axis=(-2, -1))


def average_pool(
    x: mx.array,
    size: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (0,),
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor: int | None = None,
) -> mx.array:
    """Return the mean of each window of x [n, channels, height, width].

    Raises:
        Unsupported: a divisor of its own, `ceil_mode`, or padding that does not count.
    """
    if ceil_mode or divisor is not None or (any(padding) and not count_include_pad):
        raise Unsupported("ceil_mode, a divisor, or padding that does not count, in a pooling layer")
    return mx.mean(_windows(x, size, stride, padding, 0.0), axis=(-2, -1))


def _windows(x: mx.array, size: Sequence[int], stride: Sequence[int], padding: Sequence[int], value: float) -> mx.array:
    """Return the windows of x as a view, [n, channels, rows, columns, *size]."""
    size, padding = ([*v] * (2 if len(v) == 1 else 1) for v in (size, padding))
    stride = [*stride] * (2 if len(stride) == 1 else 1) or size
    x = mx.pad(x, [(0, 0), (0, 0), *((p, p) for p in padding)], constant_values=value)
    n, channels, height, width = x.shape
    rows, columns = ((length - s) // step + 1 for length, s, step in zip((height, width), size, stride, strict=True))
    steps = (channels * height * width, height * width, width * stride[0], stride[1], width, 1)
    return mx.as_strided(x, (n, channels, rows, columns, *size), steps)


def adaptive_average_pool(x: mx.array, size: Sequence[int]) -> mx.array:
    """Return means over equal windows, so many that `size` come out.

    Raises:
        Unsupported: height or width is no multiple of `size`.
    """
    height, width = x.shape[-2:]
    if height % size[0] or width % size[1]:
        raise Unsupported(f"adaptive pooling from {height}x{width} to {size[0]}x{size[1]}: no equal windows")
    return mx.mean(x.reshape(*x.shape[:-2], size[0], height // size[0], size[1], width // size[1]), axis=(-3, -1))


def lstm(
    x: mx.array,
    states: Sequence[mx.array],
    weights: Sequence[Any],
    has_biases: bool,
    layers: int,
    dropout: float,
    train: bool,
    bidirectional: bool,
    batch_first: bool,
) -> tuple[mx.array, mx.array, mx.array]:
    """Return (outputs of all steps, last h, last c) of a stack of LSTM layers; h and c are [layers · ways, n, hidden].

    Raises:
        Unsupported: projected states (`proj_size`).
    """
    ways, each = 2 if bidirectional else 1, 4 if has_biases else 2
    if len(weights) != layers * ways * each:
        raise Unsupported("an LSTM with projected states (proj_size)")
    x = mx.swapaxes(x, 0, 1) if batch_first else x  # [t, n, in]
    last: list[tuple[mx.array, mx.array]] = []
    for layer in range(layers):
        outputs = []
        for way in range(ways):
            at = layer * ways + way
            steps = x[::-1] if way else x
            made, *state = _lstm_layer(steps, states[0][at], states[1][at], weights[at * each : (at + 1) * each])
            outputs.append(made[::-1] if way else made)
            last.append((state[0], state[1]))
        x = mx.concatenate(outputs, axis=-1)
    h, c = (mx.stack(list(part)) for part in zip(*last, strict=True))
    return (mx.swapaxes(x, 0, 1) if batch_first else x), h, c


def _lstm_layer(x: mx.array, h: mx.array, c: mx.array, weights: Sequence[Any]) -> tuple[mx.array, mx.array, mx.array]:
    """Return (outputs [t, n, hidden], last h, last c); gates stand in the order input, forget, cell, output.

    Gates and cell state are float32: the cell is a sum over all steps, and bfloat16 would lose its small parts.
    """
    from_input, from_state, *biases = weights
    sums = linear(x, from_input, biases[0] + biases[1] if biases else None).astype(mx.float32)  # all steps at once
    c, outputs = c.astype(mx.float32), []
    for step in sums:
        i, f, g, o = mx.split(step + product(h, from_state), 4, axis=-1)
        c = mx.sigmoid(f) * c + mx.sigmoid(i) * mx.tanh(g)
        h = (mx.sigmoid(o) * mx.tanh(c)).astype(x.dtype)
        outputs.append(h)
    return mx.stack(outputs), h, c.astype(x.dtype)


NAMES: dict[str, Callable[..., Any]] = {
    "linear.default": linear, "embedding.default": embedding, "matmul.default": mx.matmul, "mm.default": mx.matmul,
    "bmm.default": mx.matmul, "addmm.default": add_product, "baddbmm.default": add_product,
    "_native_batch_norm_legit_no_training.default": batch_norm, "layer_norm.default": layer_norm,
    "rms_norm.default": rms_norm, "group_norm.default": group_norm, "conv1d.default": convolve,
    "conv2d.default": convolve, "convolution.default": convolve_generally,
    "scaled_dot_product_attention.default": attention, "max_pool2d.default": max_pool,
    "avg_pool2d.default": average_pool,
    "adaptive_avg_pool2d.default": adaptive_average_pool, "lstm.input": lstm,
}  # fmt: skip
OPS: dict[str, Callable[..., Any]] = {f"aten.{name}": function for name, function in NAMES.items()}

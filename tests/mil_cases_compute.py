"""Cases of the MIL operations that compute: elementwise, reductions, products, normalizations, pooling."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from coremltools.converters.mil.mil import Builder as mb

from tests.mil_cases import Case

RNG = np.random.default_rng(1)


def normal(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def t(array):
    return torch.from_numpy(np.ascontiguousarray(array))


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


UNARY = {
    "abs": np.abs,
    "atan": np.arctan,
    "ceil": np.ceil,
    "cos": np.cos,
    "cosh": np.cosh,
    "erf": np.vectorize(math.erf),
    "exp": np.exp,
    "exp2": np.exp2,
    "floor": np.floor,
    "round": np.round,
    "sign": np.sign,
    "sin": np.sin,
    "sinh": np.sinh,
    "square": np.square,
    "tan": np.tan,
    "tanh": np.tanh,
    "relu": lambda x: np.maximum(x, 0),
    "relu6": lambda x: np.clip(x, 0, 6),
    "sigmoid": sigmoid,
    "silu": lambda x: x * sigmoid(x),
    "softplus": lambda x: np.log1p(np.exp(x)),
    "softsign": lambda x: x / (1 + np.abs(x)),
    "identity": lambda x: x,
}
UNIT = {"acos": np.arccos, "asin": np.arcsin, "atanh": np.arctanh}
BINARY = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "real_div": np.divide,
    "maximum": np.maximum,
    "minimum": np.minimum,
    "floor_div": np.floor_divide,
    "mod": np.mod,
    "equal": np.equal,
    "not_equal": np.not_equal,
    "greater": np.greater,
    "greater_equal": np.greater_equal,
    "less": np.less,
    "less_equal": np.less_equal,
}
LOGICAL = {"logical_and": np.logical_and, "logical_or": np.logical_or, "logical_xor": np.logical_xor}
REDUCTIONS = {
    "reduce_sum": np.sum,
    "reduce_mean": np.mean,
    "reduce_max": np.max,
    "reduce_min": np.min,
    "reduce_prod": np.prod,
    "reduce_l1_norm": lambda x, **k: np.abs(x).sum(**k),
    "reduce_l2_norm": lambda x, **k: np.sqrt(np.square(x).sum(**k)),
    "reduce_sum_square": lambda x, **k: np.square(x).sum(**k),
    "reduce_log_sum_exp": lambda x, **k: np.log(np.exp(x).sum(**k)),
}


def named(name):
    return getattr(mb, name)


CASES = [
    *(Case(n, lambda v, n=n: named(n)(x=v.x), lambda a, f=f: f(a.x)) for n, f in UNARY.items()),
    *(Case(n, lambda v, n=n: named(n)(x=v.unit), lambda a, f=f: f(a.unit)) for n, f in UNIT.items()),
    *(Case(n, lambda v, n=n: named(n)(x=v.x, y=v.y), lambda a, f=f: f(a.x, a.y)) for n, f in BINARY.items()),
    *(
        Case(
            n,
            lambda v, n=n: named(n)(x=mb.greater(x=v.x, y=0.0), y=mb.greater(x=v.y, y=0.0)),
            lambda a, f=f: f(a.x > 0, a.y > 0),
        )
        for n, f in LOGICAL.items()
    ),
    *(
        Case(
            f"{n} of integers",
            lambda v, n=n: named(n)(x=v.whole, y=v.divisor),
            lambda a, f=f: f(a.whole, a.divisor),
            tolerance=0,
        )
        for n, f in {"floor_div": np.floor_divide, "mod": np.mod, "mul": np.multiply}.items()
    ),
    Case(
        "real_div of integers cuts towards zero",
        lambda v: mb.real_div(x=v.whole, y=v.divisor),
        lambda a: np.trunc(a.whole / a.divisor),
        tolerance=0,
    ),
    *(
        Case(
            f"{n} over {axes}",
            lambda v, n=n, axes=axes, keep=keep: named(n)(x=v.x, axes=axes, keep_dims=keep),
            lambda a, f=f, axes=axes, keep=keep: f(a.x, axis=None if axes is None else tuple(axes), keepdims=keep),
            tolerance=1e-5,
        )
        for n, f in REDUCTIONS.items()
        for axes, keep in (([-1], True), ([0, 2], False), (None, True))
    ),
    Case(
        "reduce_log_sum",
        lambda v: mb.reduce_log_sum(x=v.positive, axes=[1]),
        lambda a: np.log(a.positive.sum(1)),
        tolerance=1e-5,
    ),
    Case("reduce_argmax", lambda v: mb.reduce_argmax(x=v.x, axis=1), lambda a: a.x.argmax(1), tolerance=0),
    Case(
        "reduce_argmin",
        lambda v: mb.reduce_argmin(x=v.x, axis=-1, keep_dims=True),
        lambda a: a.x.argmin(-1)[..., None],
        tolerance=0,
    ),
    Case("sqrt", lambda v: mb.sqrt(x=v.positive), lambda a: np.sqrt(a.positive)),
    Case("pow", lambda v: mb.pow(x=v.positive, y=v.y), lambda a: np.power(a.positive, a.y)),
    Case("logical_not", lambda v: mb.logical_not(x=mb.less(x=v.x, y=v.y)), lambda a: ~(a.x < a.y)),
    Case("inverse adds 1e-4", lambda v: mb.inverse(x=v.positive), lambda a: 1 / (a.positive + 1e-4)),
    Case("log", lambda v: mb.log(x=v.positive, epsilon=0.25), lambda a: np.log(a.positive + 0.25)),
    Case("rsqrt", lambda v: mb.rsqrt(x=v.positive, epsilon=0.5), lambda a: 1 / np.sqrt(a.positive + 0.5)),
    Case("clip", lambda v: mb.clip(x=v.x, alpha=-0.5, beta=0.25), lambda a: np.clip(a.x, -0.5, 0.25)),
    Case("threshold", lambda v: mb.threshold(x=v.x, alpha=0.1), lambda a: np.maximum(a.x, 0.1)),
    Case("cast cuts towards zero", lambda v: mb.cast(x=v.x, dtype="int32"), lambda a: np.trunc(a.x), tolerance=0),
    Case("cast to bool", lambda v: mb.cast(x=v.whole, dtype="bool"), lambda a: a.whole != 0, tolerance=0),
    Case(
        "select",
        lambda v: mb.select(cond=mb.greater(x=v.x, y=v.y), a=v.x, b=v.y),
        lambda a: np.where(a.x > a.y, a.x, a.y),
        tolerance=0,
    ),
    # activations
    *(
        Case(f"gelu {mode}", lambda v, mode=mode: mb.gelu(x=v.x, mode=mode), lambda a, f=f: f(a.x.astype(np.float64)))
        for mode, f in {
            "EXACT": lambda x: 0.5 * x * (1 + np.vectorize(math.erf)(x / math.sqrt(2))),
            "TANH_APPROXIMATION": lambda x: 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
            "SIGMOID_APPROXIMATION": lambda x: x * sigmoid(1.702 * x),
        }.items()
    ),
    Case(
        "clamped_relu",
        lambda v: mb.clamped_relu(x=v.x, alpha=0.2, beta=0.7),
        lambda a: np.minimum(np.where(a.x >= 0, a.x, 0.2 * a.x), 0.7),
    ),
    Case("elu", lambda v: mb.elu(x=v.x, alpha=0.3), lambda a: np.where(a.x > 0, a.x, 0.3 * (np.exp(a.x) - 1))),
    Case("leaky_relu", lambda v: mb.leaky_relu(x=v.x, alpha=0.3), lambda a: np.where(a.x >= 0, a.x, 0.3 * a.x)),
    Case("linear_activation", lambda v: mb.linear_activation(x=v.x, alpha=2.0, beta=-1.0), lambda a: 2 * a.x - 1),
    Case(
        "prelu",
        lambda v: mb.prelu(x=v.image, alpha=np.float32([0.1, 0.2, 0.3, 0.4])),
        lambda a: np.where(a.image > 0, a.image, np.float32([0.1, 0.2, 0.3, 0.4]).reshape(4, 1, 1) * a.image),
    ),
    Case("scaled_tanh", lambda v: mb.scaled_tanh(x=v.x, alpha=2.0, beta=0.5), lambda a: 2 * np.tanh(0.5 * a.x)),
    Case(
        "sigmoid_hard", lambda v: mb.sigmoid_hard(x=v.x, alpha=0.3, beta=0.5), lambda a: np.clip(0.3 * a.x + 0.5, 0, 1)
    ),
    Case("softmax", lambda v: mb.softmax(x=v.x, axis=1), lambda a: np.exp(a.x) / np.exp(a.x).sum(1, keepdims=True)),
    Case(
        "softplus_parametric",
        lambda v: mb.softplus_parametric(x=v.line, alpha=np.float32([1, 2, 3, 4]), beta=np.float32([4, 3, 2, 1])),
        lambda a: (
            np.float32([1, 2, 3, 4]).reshape(4, 1) * np.log1p(np.exp(np.float32([4, 3, 2, 1]).reshape(4, 1) * a.line))
        ),
    ),
    Case("thresholded_relu", lambda v: mb.thresholded_relu(x=v.x, alpha=0.4), lambda a: np.where(a.x >= 0.4, a.x, 0)),
]

KERNEL, GROUPED, LINE, VOLUME = normal(6, 4, 3, 2), normal(8, 2, 3, 3), normal(3, 4, 4), normal(3, 2, 2, 3, 2)
BIAS = normal(6)


def tf_same(image, kernel, stride, lower):
    """Pad to ceil(n / stride) outputs by the formula of MIL's `same`, then convolve without padding."""
    pads = []
    for n, k in zip(image.shape[2:], kernel.shape[2:]):
        total = max(0, (-(-n // stride) - 1) * stride + k - n)
        small = total // 2
        pads.append((total - small, small) if lower else (small, total - small))
    padded = np.pad(image, [(0, 0), (0, 0), *pads])
    return F.conv2d(t(padded), t(kernel), t(BIAS), stride=stride).numpy()


CASES += [
    Case(
        "conv valid",
        lambda v: mb.conv(x=v.image, weight=KERNEL, bias=BIAS, strides=[2, 1], pad_type="valid"),
        lambda a: F.conv2d(t(a.image), t(KERNEL), t(BIAS), stride=(2, 1)).numpy(),
    ),
    Case(
        "conv custom pad, dilated",
        lambda v: mb.conv(x=v.image, weight=KERNEL, pad_type="custom", pad=[1, 2, 3, 0], dilations=[2, 1]),
        lambda a: F.conv2d(t(np.pad(a.image, [(0, 0), (0, 0), (1, 2), (3, 0)])), t(KERNEL), dilation=(2, 1)).numpy(),
    ),
    Case(
        "conv same",
        lambda v: mb.conv(x=v.image, weight=KERNEL, bias=BIAS, strides=[2, 2], pad_type="same"),
        lambda a: tf_same(a.image, KERNEL, 2, lower=False),
    ),
    Case(
        "conv same_lower",
        lambda v: mb.conv(x=v.image, weight=KERNEL, bias=BIAS, strides=[2, 2], pad_type="same_lower"),
        lambda a: tf_same(a.image, KERNEL, 2, lower=True),
        "iOS16",
    ),
    Case(
        "conv in groups",
        lambda v: mb.conv(x=v.image, weight=GROUPED, groups=2, pad_type="custom", pad=[1, 1, 1, 1]),
        lambda a: F.conv2d(t(a.image), t(GROUPED), padding=1, groups=2).numpy(),
    ),
    Case(
        "conv 1d",
        lambda v: mb.conv(x=v.line, weight=LINE, strides=[2]),
        lambda a: F.conv1d(t(a.line), t(LINE), stride=2).numpy(),
    ),
    Case("conv 3d", lambda v: mb.conv(x=v.volume, weight=VOLUME), lambda a: F.conv3d(t(a.volume), t(VOLUME)).numpy()),
]
TRANSPOSED, DEEP = normal(4, 3, 3, 2), normal(4, 2, 3)
CASES += [
    Case(
        "conv_transpose valid",
        lambda v: mb.conv_transpose(x=v.image, weight=TRANSPOSED, strides=[2, 3], pad_type="valid"),
        lambda a: F.conv_transpose2d(t(a.image), t(TRANSPOSED), stride=(2, 3)).numpy(),
    ),
    Case(
        "conv_transpose custom, groups",
        lambda v: mb.conv_transpose(
            x=v.image, weight=TRANSPOSED, bias=BIAS, groups=2, strides=[2, 2], pad_type="custom", pad=[1, 1, 1, 1]
        ),
        lambda a: F.conv_transpose2d(t(a.image), t(TRANSPOSED), t(BIAS), stride=2, padding=1, groups=2).numpy(),
    ),
    Case(
        "conv_transpose output_shape",
        lambda v: mb.conv_transpose(
            x=v.image,
            weight=TRANSPOSED,
            strides=[2, 2],
            pad_type="custom",
            pad=[1, 1, 1, 1],
            output_shape=[2, 3, 10, 13],
        ),
        lambda a: F.conv_transpose2d(t(a.image), t(TRANSPOSED), stride=2, padding=1, output_padding=(1, 1)).numpy(),
    ),
    Case(
        "conv_transpose 1d, dilated",
        lambda v: mb.conv_transpose(x=v.line, weight=DEEP, strides=[2], dilations=[2]),
        lambda a: F.conv_transpose1d(t(a.line), t(DEEP), stride=2, dilation=2).numpy(),
    ),
]
WEIGHT, SHIFT = normal(5, 4), normal(5)
CASES += [
    Case("linear", lambda v: mb.linear(x=v.x, weight=WEIGHT, bias=SHIFT), lambda a: a.x @ WEIGHT.T + SHIFT),
    Case("matmul", lambda v: mb.matmul(x=v.x, y=v.y, transpose_y=True), lambda a: a.x @ a.y.swapaxes(1, 2)),
    Case(
        "matmul, x transposed", lambda v: mb.matmul(x=v.x, y=v.y, transpose_x=True), lambda a: a.x.swapaxes(1, 2) @ a.y
    ),
    Case(
        "einsum",
        lambda v: mb.einsum(values=(v.image, mb.transpose(x=v.image, perm=[0, 3, 2, 1])), equation="nchw,nwhu->nchu"),
        lambda a: np.einsum("nchw,nwhu->nchu", a.image, a.image.transpose(0, 3, 2, 1)),
        tolerance=1e-5,
    ),
]


def attention(q, k, v, mask):
    scores = q @ k.swapaxes(-1, -2) / math.sqrt(q.shape[-1]) + mask
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True) @ v


CAUSAL = np.tril(np.ones((5, 5), bool))
CASES += [
    Case(
        f"scaled_dot_product_attention, {kind} mask",
        lambda v, mask=mask: mb.scaled_dot_product_attention(query=v.image, key=v.image, value=v.image, attn_mask=mask),
        lambda a: attention(a.image, a.image, a.image, np.where(CAUSAL, 0, -np.inf)),
        "iOS18",
    )
    for kind, mask in {"boolean": CAUSAL, "float": np.where(CAUSAL, 0, -np.inf).astype(np.float32)}.items()
]
GAMMA, BETA, MEAN, VARIANCE = normal(4), normal(4), normal(4), np.abs(normal(4))


def normalized(x, axes, gamma=1.0, beta=0.0, epsilon=1e-5):
    mean = x.mean(axes, keepdims=True)
    return (x - mean) / np.sqrt(x.var(axes, keepdims=True) + epsilon) * gamma + beta


def channels(values):
    return values.reshape(-1, 1, 1)


MIDDLE = normal(3)
CASES += [
    Case(
        "batch_norm",
        lambda v: mb.batch_norm(x=v.image, mean=MEAN, variance=VARIANCE, gamma=GAMMA, beta=BETA, epsilon=0.01),
        lambda a: (a.image - channels(MEAN)) / np.sqrt(channels(VARIANCE) + 0.01) * channels(GAMMA) + channels(BETA),
    ),
    Case(
        "instance_norm",
        lambda v: mb.instance_norm(x=v.image, gamma=GAMMA, beta=BETA, epsilon=0.02),
        lambda a: normalized(a.image, (2, 3), channels(GAMMA), channels(BETA), 0.02),
    ),
    Case(
        "layer_norm, last axis",
        lambda v: mb.layer_norm(x=v.x, axes=[-1], gamma=GAMMA, beta=BETA, epsilon=0.03),
        lambda a: normalized(a.x, (2,), GAMMA, BETA, 0.03),
    ),
    Case(
        "layer_norm, middle axis",
        lambda v: mb.layer_norm(x=v.x, axes=[1], gamma=MIDDLE, beta=MIDDLE, epsilon=0.03),
        lambda a: normalized(a.x, (1,), MIDDLE[:, None], MIDDLE[:, None], 0.03),
    ),
    Case(
        "l2_norm",
        lambda v: mb.l2_norm(x=v.image, epsilon=0.5),
        lambda a: a.image / np.sqrt((a.image**2).sum((1, 2, 3), keepdims=True) + 0.5),
    ),
    Case(
        "local_response_norm",
        lambda v: mb.local_response_norm(x=v.image, size=3, alpha=0.3, beta=0.6, k=1.5),
        lambda a: F.local_response_norm(t(a.image), 3, 0.3, 0.6, 1.5).numpy(),
    ),
]
POOL = {"kernel_sizes": [3, 2], "strides": [2, 2]}
CASES += [
    Case(
        "max_pool custom",
        lambda v: mb.max_pool(x=v.image, pad_type="custom", pad=[1, 1, 1, 1], **POOL),
        lambda a: F.max_pool2d(t(a.image), (3, 2), (2, 2), padding=1).numpy(),
    ),
    Case(
        "max_pool ceil",
        lambda v: mb.max_pool(x=v.image, pad_type="valid", ceil_mode=True, **POOL),
        lambda a: F.max_pool2d(t(a.image), (3, 2), (2, 2), ceil_mode=True).numpy(),
    ),
    *(
        Case(
            f"avg_pool, excluded {excluded}, ceil {ceil}",
            lambda v, e=excluded, c=ceil: mb.avg_pool(
                x=v.image, pad_type="custom", pad=[1, 1, 1, 1], exclude_padding_from_average=e, ceil_mode=c, **POOL
            ),
            lambda a, e=excluded, c=ceil: F.avg_pool2d(
                t(a.image), (3, 2), (2, 2), padding=1, ceil_mode=c, count_include_pad=not e
            ).numpy(),
        )
        for excluded in (True, False)
        for ceil in (True, False)
    ),
    Case(
        "avg_pool same pads after",
        lambda v: mb.avg_pool(x=v.line, kernel_sizes=[2], strides=[2], pad_type="same"),
        lambda a: F.avg_pool1d(t(np.pad(a.line, [(0, 0), (0, 0), (0, 1)])), 2).numpy(),
    ),
    Case(
        "l2_pool",
        lambda v: mb.l2_pool(x=v.image, pad_type="valid", **POOL),
        lambda a: F.lp_pool2d(t(a.image), 2, (3, 2), (2, 2)).numpy(),
    ),
    Case(
        "max_pool 3d",
        lambda v: mb.max_pool(x=v.volume, kernel_sizes=[2, 2, 2], pad_type="valid"),
        lambda a: F.max_pool3d(t(a.volume), 2, 1).numpy(),
    ),
]


def adjoint_of_same(size, kernel, stride, gradient):
    """The transposed convolution is the gradient of the convolution: conv is x -> pad, convolve, as in `tf_same`."""
    x = torch.zeros(gradient.shape[0], kernel.shape[1], *size, requires_grad=True)
    pads = []
    for n, k in zip(size, kernel.shape[2:]):
        total = max(0, (-(-n // stride) - 1) * stride + k - n)
        pads = [total // 2, total - total // 2, *pads]  # torch wants the last axis first
    y = F.conv2d(F.pad(x, pads), t(kernel), stride=stride)
    return torch.autograd.grad(y, x, t(gradient))[0].numpy()


CASES += [
    Case(
        f"conv_transpose same to {size}",
        lambda v, size=size: mb.conv_transpose(
            x=v.image, weight=TRANSPOSED, strides=[2, 2], pad_type="same", output_shape=[2, 3, *size]
        ),
        lambda a, size=size: adjoint_of_same(size, TRANSPOSED, 2, a.image),
    )
    for size in ((10, 14), (9, 13), (10, 13))
]

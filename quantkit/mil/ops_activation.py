"""Activation functions. `alpha` and `beta` are scalars, or one number per channel (axis 1) where MIL says so."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from quantkit.mil.table import op


def per_channel(x: Tensor, values: Tensor) -> Tensor:
    """Return one number per channel in a shape that broadcasts along axis 1 of x."""
    return values.reshape([-1 if axis == 1 else 1 for axis in range(x.ndim)])


@op(exact=True)
def relu(x: Tensor) -> Tensor:
    return torch.relu(x)


@op(exact=True)
def relu6(x: Tensor) -> Tensor:
    return torch.clamp(x, 0, 6)


@op()
def sigmoid(x: Tensor) -> Tensor:
    return torch.sigmoid(x)


@op()
def silu(x: Tensor) -> Tensor:
    return F.silu(x)


@op()
def softplus(x: Tensor) -> Tensor:
    return torch.logaddexp(x, torch.zeros(()))  # torch's own softplus is the identity from 20 on


@op()
def softsign(x: Tensor) -> Tensor:
    return x / (1 + x.abs())


@op()
def softmax(x: Tensor, axis: int) -> Tensor:
    return torch.softmax(x, axis)


@op()
def gelu(x: Tensor, mode: str) -> Tensor:
    if mode == "SIGMOID_APPROXIMATION":
        return x * torch.sigmoid(1.702 * x)
    return F.gelu(x, approximate="tanh" if mode == "TANH_APPROXIMATION" else "none")


@op()
def clamped_relu(x: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    return torch.minimum(torch.where(x >= 0, x, alpha * x), beta)


@op()
def elu(x: Tensor, alpha: Tensor) -> Tensor:
    return torch.where(x > 0, x, alpha * torch.expm1(x))


@op()
def leaky_relu(x: Tensor, alpha: Tensor) -> Tensor:
    return torch.where(x >= 0, x, alpha * x)


@op()
def linear_activation(x: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    return x * alpha + beta


@op()
def prelu(x: Tensor, alpha: Tensor) -> Tensor:
    return torch.where(x > 0, x, per_channel(x, alpha) * x)


@op()
def scaled_tanh(x: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    return alpha * torch.tanh(beta * x)


@op()
def sigmoid_hard(x: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    return torch.clamp(alpha * x + beta, 0, 1)


@op()
def softplus_parametric(x: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    return per_channel(x, alpha) * softplus(per_channel(x, beta) * x)


@op(exact=True)
def thresholded_relu(x: Tensor, alpha: Tensor) -> Tensor:
    return torch.where(x >= alpha, x, torch.zeros(()))

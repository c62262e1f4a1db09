"""Normalizations. Means and variances are taken in float32; epsilon is added to the variance."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from quantkit.mil.ops_activation import per_channel
from quantkit.mil.table import Ints, op


@op()
def batch_norm(
    x: Tensor, mean: Tensor, variance: Tensor, epsilon: float, gamma: Tensor | None = None, beta: Tensor | None = None
) -> Tensor:
    """Normalize each channel (axis 1) by the given mean and variance."""
    return F.batch_norm(x, mean, variance, gamma, beta, False, 0.0, epsilon)


@op()
def instance_norm(x: Tensor, epsilon: float, gamma: Tensor | None = None, beta: Tensor | None = None) -> Tensor:
    """Normalize each channel of each item over its spatial axes."""
    axes = list(range(2, x.ndim))
    centred = x - x.mean(axes, keepdim=True)
    result = centred * torch.rsqrt(centred.square().mean(axes, keepdim=True) + epsilon)
    result = result if gamma is None else result * per_channel(x, gamma)
    return result if beta is None else result + per_channel(x, beta)


@op()
def layer_norm(
    x: Tensor, axes: Ints, epsilon: float, gamma: Tensor | None = None, beta: Tensor | None = None
) -> Tensor:
    """Normalize over `axes`, in any order and place; gamma and beta have the sizes of those axes, in order."""
    places = sorted(axis % x.ndim for axis in axes)
    if places == list(range(x.ndim - len(places), x.ndim)):
        return F.layer_norm(x, x.shape[places[0] :], gamma, beta, epsilon)
    shape = [size if axis in places else 1 for axis, size in enumerate(x.shape)]
    centred = x - x.mean(places, keepdim=True)
    result = centred * torch.rsqrt(centred.square().mean(places, keepdim=True) + epsilon)
    result = result if gamma is None else result * gamma.reshape(shape)
    return result if beta is None else result + beta.reshape(shape)


@op()
def l2_norm(x: Tensor, epsilon: float) -> Tensor:
    """Divide by the root of the sum of squares over the last three axes, plus epsilon."""
    return x * torch.rsqrt(x.square().sum((-3, -2, -1), keepdim=True) + epsilon)


@op()
def local_response_norm(x: Tensor, size: int, alpha: float, beta: float, k: float) -> Tensor:
    return F.local_response_norm(x, size, alpha, beta, k)

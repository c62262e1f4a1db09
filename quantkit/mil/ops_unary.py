"""Elementwise operations with one input. The epsilons of `inverse`, `log` and `rsqrt` are added to x first."""

from __future__ import annotations

import torch
from torch import Tensor

from quantkit.mil.table import op

PLAIN = {
    "acos": torch.acos,
    "asin": torch.asin,
    "atan": torch.atan,
    "atanh": torch.atanh,
    "cos": torch.cos,
    "cosh": torch.cosh,
    "erf": torch.erf,
    "exp": torch.exp,
    "exp2": torch.exp2,
    "sin": torch.sin,
    "sinh": torch.sinh,
    "sqrt": torch.sqrt,
    "square": torch.square,
    "tan": torch.tan,
    "tanh": torch.tanh,
}
# results are whole numbers or one of the inputs: they need no rounding to float16
EXACT = {
    "abs": torch.abs,
    "ceil": torch.ceil,
    "floor": torch.floor,
    "logical_not": torch.logical_not,
    "round": torch.round,  # ties to even
    "sign": torch.sign,
}


def enter() -> None:
    """Enter the functions that torch has under the same meaning."""

    def wrapped(function):  # type: ignore[no-untyped-def]
        def kernel(x: Tensor) -> Tensor:
            return function(x)

        return kernel

    for names, exact in ((PLAIN, False), (EXACT, True)):
        for name, function in names.items():
            op(name, exact=exact)(wrapped(function))


enter()


@op()
def cast(x: Tensor, dtype: str) -> Tensor:
    """Return x: the plan brings every result to its declared type, cutting towards zero; to bool it is "not 0"."""
    return x


@op()
def clip(x: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    return torch.minimum(torch.maximum(x, alpha), beta)


@op()
def inverse(x: Tensor, epsilon: Tensor) -> Tensor:
    return torch.reciprocal(x + epsilon)


@op()
def log(x: Tensor, epsilon: Tensor) -> Tensor:
    return torch.log(x + epsilon)


@op()
def rsqrt(x: Tensor, epsilon: Tensor) -> Tensor:
    return torch.rsqrt(x + epsilon)


@op(exact=True)
def threshold(x: Tensor, alpha: Tensor) -> Tensor:
    return torch.maximum(x, alpha)

"""Elementwise operations with two or three inputs, with NumPy's broadcasting.

Division: `real_div` of integers cuts towards zero, `floor_div` rounds towards minus infinity, and `mod` has the sign of
the divisor (the last two for integers and floats alike).
"""

from __future__ import annotations

import torch
from torch import Tensor

from quantkit.mil.table import op

PLAIN = {
    "add": torch.add,
    "mul": torch.mul,
    "sub": torch.sub,
    "pow": torch.pow,
    "mod": torch.remainder,
    "floor_div": torch.floor_divide,
}
EXACT = {
    "maximum": torch.maximum,
    "minimum": torch.minimum,
    "equal": torch.eq,
    "not_equal": torch.ne,
    "greater": torch.gt,
    "greater_equal": torch.ge,
    "less": torch.lt,
    "less_equal": torch.le,
    "logical_and": torch.logical_and,
    "logical_or": torch.logical_or,
    "logical_xor": torch.logical_xor,
}


def enter() -> None:
    """Enter the functions that torch has under the same meaning."""

    def wrapped(function):  # type: ignore[no-untyped-def]
        def kernel(x: Tensor, y: Tensor) -> Tensor:
            return function(x, y)

        return kernel

    for names, exact in ((PLAIN, False), (EXACT, True)):
        for name, function in names.items():
            op(name, exact=exact)(wrapped(function))


enter()


@op()
def real_div(x: Tensor, y: Tensor) -> Tensor:
    return torch.div(x, y, rounding_mode=None if x.is_floating_point() else "trunc")


@op(exact=True)
def select(cond: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return torch.where(cond, a, b)

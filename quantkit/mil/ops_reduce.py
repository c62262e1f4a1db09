"""Reductions: over `axes` (all when absent) or, for positions, one `axis`. Sums are taken in float32 or in int32."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from quantkit.mil.table import Ints, op


def product(x: Tensor, axes: Ints, keep: bool) -> Tensor:
    for axis in sorted((axis % x.ndim for axis in axes), reverse=True):
        x = torch.prod(x, axis, keepdim=keep)
    return x


SUMS: dict[str, Callable[[Tensor, Ints, bool], Tensor]] = {
    "reduce_sum": lambda x, axes, keep: torch.sum(x, axes, keepdim=keep),
    "reduce_mean": lambda x, axes, keep: torch.mean(x.float(), axes, keepdim=keep),
    "reduce_prod": product,
    "reduce_l1_norm": lambda x, axes, keep: torch.sum(x.abs(), axes, keepdim=keep),
    "reduce_l2_norm": lambda x, axes, keep: torch.sqrt(torch.sum(x.square(), axes, keepdim=keep)),
    "reduce_log_sum": lambda x, axes, keep: torch.log(torch.sum(x, axes, keepdim=keep)),
    "reduce_log_sum_exp": lambda x, axes, keep: torch.logsumexp(x.float(), axes, keepdim=keep),
    "reduce_sum_square": lambda x, axes, keep: torch.sum(x.square(), axes, keepdim=keep),
}
PICKS: dict[str, Callable[[Tensor, Ints, bool], Tensor]] = {
    "reduce_max": lambda x, axes, keep: torch.amax(x, axes, keepdim=keep),
    "reduce_min": lambda x, axes, keep: torch.amin(x, axes, keepdim=keep),
}


def enter() -> None:
    def wrapped(function: Callable[[Tensor, Ints, bool], Tensor]) -> Callable[..., Tensor]:
        def kernel(x: Tensor, keep_dims: bool, axes: Ints | None = None) -> Tensor:
            return function(x, tuple(range(x.ndim)) if axes is None else axes, keep_dims)

        return kernel

    for names, exact in ((SUMS, False), (PICKS, True)):
        for name, function in names.items():
            op(name, exact=exact)(wrapped(function))


enter()


@op(exact=True)
def reduce_argmax(x: Tensor, axis: int, keep_dims: bool, output_dtype: str = "int32") -> Tensor:
    """Return the first position of the largest element (MIL leaves ties open; NumPy takes the first as well)."""
    return torch.argmax(x, axis, keepdim=keep_dims)


@op(exact=True)
def reduce_argmin(x: Tensor, axis: int, keep_dims: bool, output_dtype: str = "int32") -> Tensor:
    return torch.argmin(x, axis, keepdim=keep_dims)

"""The table of operations: MIL name -> torch function, filled by the `ops_*` files with the decorator `op`.

A kernel is a plain function on torch tensors whose parameters carry the names that MIL gives them; the annotation of a
parameter says in which form it wants the argument:

    Tensor   a tensor, constants included (float16 constants as float32, the same numbers)
    Ints     a tuple of Python ints (strides, axes, shapes); a rank-0 value becomes a tuple of one
    int, float, bool, str   a Python value
    Tensors  a tuple of tensors (`concat`, `stack`, `einsum`, ...)
    Cell     a state (`read_state`)
    List     a MIL list: a Python tuple

A constant is converted once, at load; what is computed at run time (a shape, an index) is converted at each call. A
kernel computes in float32 and never changes its arguments; rounding to float16 is the plan's business.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

OP_FILES = (
    "activation",
    "binary",
    "constexpr",
    "control",
    "convolution",
    "linear",
    "norm",
    "pool",
    "quantize",
    "recurrent",
    "reduce",
    "resize",
    "sample",
    "scatter",
    "shape",
    "slice",
    "sort",
    "unary",
)
# ops without a kernel: the plan itself carries them out
BY_THE_PLAN = frozenset({"const", "cond", "while_loop"})
Ints = tuple[int, ...]
Tensors = tuple[Any, ...]
List = tuple[Any, ...]
KINDS = frozenset({"Tensor", "Ints", "int", "float", "bool", "str", "Tensors", "Cell", "List"})


@dataclass(frozen=True, slots=True)
class Op:
    """One operation.

    Args:
        kinds: parameter -> kind (see the module's text).
        exact: its outputs need no rounding to float16: it moves values, or picks among them.
        pure: equal arguments give equal results, so constant arguments are worked out at load.
        refuses: told the constant arguments at load, returns what of them cannot be done, or None.
    """

    name: str
    kernel: Callable[..., Any]
    kinds: dict[str, str]
    exact: bool = False
    pure: bool = True
    refuses: Callable[..., str | None] | None = None


@dataclass(slots=True)
class Cell:
    """The place of one state: a kernel reads `value` or replaces it, and never changes the tensor itself."""

    value: Any


TABLE: dict[str, Op] = {}


def op(
    *names: str, exact: bool = False, pure: bool = True, refuses: Callable[..., str | None] | None = None
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Enter a kernel under its MIL names (its own name, without a trailing `_`, when none is given)."""

    def enter(kernel: Callable[..., Any]) -> Callable[..., Any]:
        kinds = {
            p.name: str(p.annotation).removesuffix(" | None") for p in inspect.signature(kernel).parameters.values()
        }
        assert set(kinds.values()) <= KINDS, f"{kernel.__name__}: {kinds}"
        for name in names or (kernel.__name__.removesuffix("_"),):
            assert name not in TABLE, f"{name} is defined twice"
            TABLE[name] = Op(name, kernel, kinds, exact, pure, refuses)
        return kernel

    return enter


def table() -> dict[str, Op]:
    """Return all operations; the first call imports torch and the files that define them."""
    for name in OP_FILES:
        importlib.import_module(f"quantkit.mil.ops_{name}")
    return TABLE


def known() -> frozenset[str]:
    """Return the MIL names of everything that can be executed."""
    return frozenset(table()) | BY_THE_PLAN

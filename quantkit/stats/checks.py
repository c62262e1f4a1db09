"""Checks of arguments that all statistics share; each error is one line: what, got, expected."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


def finite(values: ArrayLike, name: str = "values", *, least: int = 1) -> Floats:
    """Return the values as float64 [n], refused when fewer than `least`, not in one row, nan or infinite."""
    x = np.asarray(values, np.float64)
    if x.ndim != 1 or len(x) < least:
        raise ValueError(f"{name} must be one row of at least {least} numbers: got shape {x.shape}")
    bad = len(x) - np.count_nonzero(np.isfinite(x))
    if bad:
        raise ValueError(f"{name} must be finite: got {bad} nan or infinite of {len(x)}")
    return x


def pair(reference: ArrayLike, candidate: ArrayLike, *, least: int = 1) -> tuple[Floats, Floats]:
    """Return both as float64 [n], refused when their lengths differ: item i of one is item i of the other."""
    ref, cand = finite(reference, "reference", least=least), finite(candidate, "candidate", least=least)
    if len(ref) != len(cand):
        raise ValueError(f"reference and candidate must be paired item by item: got {len(ref)} and {len(cand)} items")
    return ref, cand


def share(value: float, name: str) -> float:
    """Return a number strictly between 0 and 1, or say that it is not."""
    if not 0 < value < 1:
        raise ValueError(f"{name} must be between 0 and 1, both excluded: got {value}")
    return float(value)


def probabilities(p: Sequence[float] | ArrayLike) -> Floats:
    """Return p-values as float64 [m], refused outside 0..1; none at all is allowed."""
    x = finite(p, "p-values", least=0)
    if ((x < 0) | (x > 1)).any():
        raise ValueError(f"p-values must be in 0..1: got {x.min()}..{x.max()}")
    return x

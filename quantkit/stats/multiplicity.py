"""Many comparisons at once: p-values adjusted so that a matrix of verdicts keeps its error rate."""

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import false_discovery_control

from quantkit.stats.checks import Floats, probabilities


def holm(p: ArrayLike) -> Floats:
    """Return p-values adjusted by Holm's step-down method: at most alpha chance of any false rejection.

    The j-th smallest of m is multiplied by m - j + 1, never below its predecessor, never above 1. Needs no
    independence.

    Args:
        p: [m], in any order; an empty row stays empty.

    Returns:
        [m], in the order given.

    Raises:
        ValueError: nan, or outside 0..1.

    Source: Holm 1979, "A simple sequentially rejective multiple test procedure".

    >>> holm([0.01, 0.04, 0.03]).round(6).tolist()  # 3·.01, then 2·.03, then max(1·.04, .06)
    [0.03, 0.06, 0.06]
    """
    p = probabilities(p)
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(stepped, 1.0)
    return adjusted


def benjamini_hochberg(p: ArrayLike) -> Floats:
    """Return p-values adjusted so that the expected share of false rejections stays below alpha.

    Args and errors as `holm`. For looking through many cases; a gate uses `holm`.

    Source: Benjamini and Hochberg 1995; computed by `scipy.stats.false_discovery_control`.

    >>> benjamini_hochberg([0.01, 0.04, 0.03]).round(6).tolist()  # 3·.01/1, 3·.03/2 = .045 capped by 3·.04/3
    [0.03, 0.04, 0.04]
    """
    p = probabilities(p)
    return np.asarray(false_discovery_control(p)) if len(p) else p

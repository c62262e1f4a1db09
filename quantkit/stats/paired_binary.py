"""Two systems judged right or wrong on the same items: is one worse, and by how much at most?

Only items on which they disagree count: `lost` were right and are wrong now, `gained` the other way round, and the drop
is (lost - gained) / items. McNemar's exact test asks whether there is any drop, Tango's score test whether it stays
below a margin. Tango's p-value relies on a normal approximation that is a little too generous for few disagreements,
so the chance is computed exactly at the best fitting nuisance parameter instead (Lloyd's estimated p-value); with no
gains this is the binomial tail, and with no disagreement at all (1 - margin)^items, the rule of three.

Sources: McNemar 1947; Tango 1998, Statistics in Medicine 17:891; Lloyd and Moldovan 2008, Statistics in Medicine
27:3540.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import bdtr, gammaln, xlog1py, xlogy

from quantkit.stats.checks import Floats

Counts = int | NDArray[np.int64]

REACH = 9.0  # standard deviations of the nuisance count that are summed over: what is left out is below 1e-18


def p_worse(lost: int, gained: int) -> float:
    """Return McNemar's exact one-sided p-value of "not worse": P(X >= lost) for X ~ Binomial(lost + gained, 1/2).

    >>> p_worse(3, 0)  # 1/2^3
    0.125
    """
    return float(bdtr(gained, lost + gained, 0.5))  # P(gained or fewer) = P(lost or more)


def score(lost: Counts, gained: Counts, items: int, drop: float) -> Floats:
    """Return Tango's score statistic of H0 "the true drop is `drop`"; negative when the data show less.

    (lost - gained - items·drop) / sqrt(items·(2q + drop·(1 - drop))), where q is the likelihood's best share of gained
    items under H0: the larger root of 2n·q² + (-lost - gained + (2n - lost + gained)·drop)·q - gained·drop·(1 - drop).

    Args:
        lost: count, or counts of any shape.
        gained: count, or counts that broadcast with `lost`.
        items: n.
        drop: -1..1, both excluded; at 0 the square is McNemar's chi-square.
    """
    q = _gained_share(lost, gained, items, drop)
    variance = np.maximum(items * (2 * q + drop * (1 - drop)), 0.0)
    top = lost - gained - items * drop
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where((variance == 0) & (top == 0), 0.0, top / np.sqrt(variance))


def p_not_inferior(lost: int, gained: int, items: int, margin: float) -> float:
    """Return the p-value of H0 "the drop is at least `margin`"; small means: proven to be smaller.

    The chance, at a true drop of exactly `margin`, of data whose score is as low as observed or lower.

    Args:
        lost: items right before and wrong now.
        gained: items wrong before and right now.
        items: n, at least lost + gained.
        margin: -1..1, both excluded.

    >>> round(p_not_inferior(0, 0, 300, 0.01), 4)  # .99^300
    0.049
    """
    observed = float(score(lost, gained, items, margin))
    q = float(_gained_share(lost, gained, items, margin))
    q = min(max(q, 0.0, -margin), (1 - margin) / 2)
    spread = np.sqrt(items * q * (1 - q))
    first = max(0, int(items * q - REACH * spread - REACH))
    last = min(items, int(items * q + REACH * spread + REACH)) if q > 0 else 0
    counts = np.arange(first, last + 1)
    most = _largest_lost(counts, items, margin, observed)
    log_weight = gammaln(items + 1) - gammaln(counts + 1) - gammaln(items - counts + 1)
    weight = np.exp(log_weight + xlogy(counts, q) + xlog1py(items - counts, -q))
    share = min(max((q + margin) / (1 - q), 0.0), 1.0)
    rest = items - counts
    tail = np.where(most < 0, 0.0, np.where(most >= rest, 1.0, bdtr(np.clip(most, 0, rest), rest, share)))
    return float(min(1.0, np.sum(weight * tail)))


def drop_interval(lost: int, gained: int, items: int, alpha: float) -> tuple[float, float]:
    """Return the drops that neither one-sided test at `alpha` refuses: the two-sided 1 - 2·alpha interval.

    >>> low, high = drop_interval(0, 0, 299, 0.05)
    >>> round(high, 4), low == -high  # 1 - .05^(1/299)
    (0.01, True)
    """
    return -_largest_drop(gained, lost, items, alpha), _largest_drop(lost, gained, items, alpha)


def _largest_drop(lost: int, gained: int, items: int, alpha: float) -> float:
    """Return the drop at which `p_not_inferior` falls to alpha; 1 where it never does."""

    def excess(drop: float) -> float:
        return p_not_inferior(lost, gained, items, drop) - alpha

    start, end = (lost - gained) / items, 1 - 1e-9
    start = min(max(start, -end), end)
    if excess(end) >= 0:
        return 1.0
    return float(brentq(excess, start, end, xtol=1e-7)) if excess(start) > 0 else start


def _gained_share(lost: Counts, gained: Counts, items: int, drop: float) -> Floats:
    """Return the share of gained items that fits best at the given drop (root q of Tango's quadratic)."""
    a = 2.0 * items
    b = -lost - gained + (2 * items - lost + gained) * drop
    c = -gained * drop * (1 - drop)
    return (np.sqrt(np.maximum(b * b - 4 * a * c, 0.0)) - b) / (2 * a)


def _largest_lost(gained: NDArray[np.int64], items: int, drop: float, bound: float) -> NDArray[np.int64]:
    """Return for each count of gained items the most lost ones whose score is <= bound (-1: none); by bisection."""
    low, high = np.full(len(gained), -1), items - gained
    slack = bound + 1e-9 * max(1.0, abs(bound))  # the observed point itself belongs to its own tail
    while (low < high).any():
        middle = (low + high + 1) // 2
        inside = score(middle, gained, items, drop) <= slack
        low, high = np.where(inside, middle, low), np.where(inside, high, middle - 1)
    return low

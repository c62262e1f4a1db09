"""How many items a paired non-inferiority verdict needs, and what a given number of items can defend.

The mean of n paired differences with variance v has standard error sqrt(v / n). To refuse "the drop is at least
delta" at one-sided alpha with chance `power` when there is no drop, delta must be z(1 - alpha) + z(power) standard
errors away: n = (z(1 - alpha) + z(power))² · v / delta². Right or wrong items that disagree with share psi have
differences -1, 0, 1 and v = psi without a drop; alpha .05 and power .8 give (1.645 + .842)² = 6.18.

With next to no disagreement the normal law fails, and the rule of three takes over: if a share delta of items were
lost, n items would all look unharmed with chance (1 - delta)^n, which must be at most alpha.

Sources: Lachenbruch 1992; Liu et al. 2002, Statistics in Medicine 21:231; Hanley and Lippman-Hand 1983 (rule of three).
"""

import math

from scipy.special import ndtri

from quantkit.stats.checks import share


def planning_factor(alpha: float = 0.05, power: float = 0.8) -> float:
    """Return (z(1 - alpha) + z(power))²: the variance in units of delta² that one item must be averaged down by.

    >>> round(planning_factor(), 2)
    6.18
    """
    return float((ndtri(1 - share(alpha, "alpha")) + ndtri(share(power, "power"))) ** 2)


def items_needed(psi: float, margin: float, alpha: float = 0.05, power: float = 0.8) -> int:
    """Return how many right or wrong items prove a drop smaller than `margin` when there is none.

    Args:
        psi: share of items on which baseline and candidate disagree, 0..1.
        margin: largest drop that still counts as kept, as a share (0.01 = one point), 0..1 excluded.
        alpha: one-sided error rate.
        power: chance of the proof.

    Raises:
        ValueError: an argument outside its range.

    >>> items_needed(0.04, 0.01)  # 6.18256 · .04 / .0001 = 2473.02
    2474
    >>> items_needed(0.0, 0.01)  # ln .05 / ln .99 = 298.07
    299
    """
    _check_psi(psi)
    share(margin, "margin")
    normal = planning_factor(alpha, power) * psi / margin**2
    return math.ceil(max(normal, math.log(alpha) / math.log1p(-margin)))


def detectable_drop(items: int, psi: float, alpha: float = 0.05, power: float = 0.8) -> float:
    """Return the smallest margin that this many right or wrong items can defend: the inverse of `items_needed`.

    Args:
        items: n >= 1.
        psi, alpha, power: as `items_needed`.

    Returns:
        A share, at most 1.

    Raises:
        ValueError: an argument outside its range.

    >>> round(detectable_drop(1000, 0.04), 4)  # sqrt(6.18256 · .04 / 1000)
    0.0157
    """
    _check_psi(psi)
    if items < 1:
        raise ValueError(f"items must be at least 1: got {items}")
    normal = math.sqrt(planning_factor(alpha, power) * psi / items)
    return min(1.0, max(normal, 1 - alpha ** (1 / items)))


def _check_psi(psi: float) -> None:
    """Refuse a share outside 0..1."""
    if not 0 <= psi <= 1:
        raise ValueError(f"psi must be a share in 0..1: got {psi}")

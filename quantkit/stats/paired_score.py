"""Two systems with a real-valued score per item: the relative drop of the mean, with tests and an interval.

The relative drop is r = sum(loss) / |sum(reference)|, where loss is how much worse the candidate is on an item. "r is
at least m" means the same as "the mean of loss - m·sign·reference is at least 0", a plain mean of paired numbers
(Fieller 1954), which also counts that the reference mean is itself an estimate. Its p-value is a bootstrap-t (Efron
and Tibshirani 1993, section 12.5), and the interval holds every drop that is not refused. That there is any drop at
all is tested by random sign flips (Fisher 1935), which stay exact when only few items changed.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from quantkit.stats.checks import Floats
from quantkit.stats.interval import studentized
from quantkit.stats.resample import mean_moments, sign_flips

SMALLEST = 30  # items: below, no bootstrap is trusted to prove that nothing was lost
DOUBLINGS, HALVINGS = 60, 40
Tails = Callable[[float], tuple[float, float]]


@dataclass(frozen=True)
class Contrast:
    """Paired scores, ready to test any relative drop.

    Args:
        loss: [n], positive where the candidate is worse.
        reference: [n], with the sign that makes its mean positive.
        seed: of the resampling.
    """

    loss: Floats
    reference: Floats
    seed: int

    @property
    def drop(self) -> float:
        """Relative drop of the mean."""
        return float(self.loss.mean() / self.reference.mean())

    def variance(self, drop: float) -> float:
        """Return the variance per item, relative to the squared reference mean, at a supposed drop."""
        return float(np.var(self.loss - drop * self.reference) / self.reference.mean() ** 2)

    def p_worse(self) -> float:
        """Return the sign-flip p-value of "not worse": how often random signs give as large a sum of losses."""
        sums = sign_flips(self.loss, self.seed)
        return _share(sums >= self.loss.sum() - 1e-9 * np.abs(self.loss).sum())  # equal sums differ by rounding

    def tails(self) -> Tails:
        """Return a function: supposed drop -> p-values of "the true drop is that or more" and "that or less"."""
        n = len(self.loss)
        centre, level = float(self.loss.mean()), float(self.reference.mean())
        centred = np.stack([self.loss - centre, self.reference - level], axis=1)
        means, moments = mean_moments(centred, self.seed)

        def p_values(drop: float) -> tuple[float, float]:
            towards = np.array([1.0, -drop])
            top = centre - drop * level
            error = float((centred @ towards).std()) / np.sqrt(n)
            if error <= 1e-12 * (abs(centre) + abs(drop) * level):  # rounding of proportional scores
                return _degenerate(top, centre, len(means))
            t = studentized(means @ towards, np.einsum("bij,i,j->b", moments, towards, towards), n)
            return _share(t <= top / error), _share(t >= top / error)

        return p_values


def score_interval(contrast: Contrast, tails: Tails, alpha: float) -> tuple[float, float]:
    """Return the drops that neither one-sided test at `alpha` refuses: the two-sided 1 - 2·alpha interval.

    A side on which no drop is refused is infinite (few items, or a reference mean that may as well be 0).
    """
    start = contrast.drop
    first = (contrast.variance(start) / len(contrast.loss)) ** 0.5 + 1e-12
    high = _boundary(lambda reach: tails(start + reach)[0] >= alpha, first)
    low = _boundary(lambda reach: tails(start - reach)[1] >= alpha, first)
    return start - low, start + high


def _boundary(inside: Callable[[float], bool], first: float) -> float:
    """Return how far one can go before `inside` fails: by doubling from `first`, then halving."""
    low, high = 0.0, first
    for _ in range(DOUBLINGS):
        if not inside(high):
            break
        low, high = high, 2 * high
    else:
        return float("inf")
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if inside(middle) else (low, middle)
    return low


def _degenerate(top: float, centre: float, resamples: int) -> tuple[float, float]:
    """Return both p-values where nothing varies: the sign of the difference decides, equality refuses neither."""
    smallest = 1 / (1 + resamples)
    if abs(top) <= 1e-12 * abs(centre) or top == 0:
        return 1.0, 1.0
    return (smallest, 1.0) if top < 0 else (1.0, smallest)


def _share(hits: np.ndarray) -> float:
    """Return (1 + hits) / (1 + resamples): never 0 (Davison and Hinkley 1997)."""
    return float((1 + np.count_nonzero(hits)) / (1 + hits.size))

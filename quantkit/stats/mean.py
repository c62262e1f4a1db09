"""The mean of a few repeats and the interval that holds it."""

import math

from numpy.typing import ArrayLike
from scipy.special import stdtrit

from quantkit.stats.checks import finite, share
from quantkit.stats.interval import Estimate


def mean_interval(values: ArrayLike, *, confidence: float = 0.95) -> Estimate:
    """Return the mean with Student's interval: mean ± t(n - 1) · s / sqrt(n).

    Meant for repeats that are sums over many calls, whose mean is close to normal.

    Args:
        values: [n], n >= 2.
        confidence: of the interval, 0..1.

    Raises:
        ValueError: fewer than 2 values, nan or infinite.

    >>> found = mean_interval([1.0, 2.0, 3.0])
    >>> round(found.value, 3), round(found.low, 3), round(found.high, 3)
    (2.0, -0.484, 4.484)
    """
    share(confidence, "confidence")
    x = finite(values, least=2)
    value, count = float(x.mean()), len(x)
    reach = float(stdtrit(count - 1, (1 + confidence) / 2)) * float(x.std(ddof=1)) / math.sqrt(count)
    return Estimate(value, value - reach, value + reach, confidence)

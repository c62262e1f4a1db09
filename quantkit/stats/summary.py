"""Order statistics of raw values: timings are skewed, so no mean and no standard deviation."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from quantkit.stats.checks import finite

P99_FROM = 100  # below, the 99th percentile is hardly more than the maximum


@dataclass(frozen=True, slots=True)
class Summary:
    """Order statistics of one quantity, in the unit of its values.

    Args:
        count: how many values.
        p50: median.
        p90: 90th percentile.
        p99: 99th percentile, None below 100 values.
        mad: median absolute deviation from the median, not scaled to a normal's sigma.
        min: smallest value.
    """

    count: int
    p50: float
    p90: float
    p99: float | None
    mad: float
    min: float


def quantile(values: ArrayLike, q: float) -> float:
    """Return the q-quantile, interpolated linearly between neighbours (NumPy's default, Hyndman and Fan type 7).

    Args:
        values: [n], n >= 1.
        q: 0..1.

    Raises:
        ValueError: no values, nan or infinite, or q outside 0..1.

    >>> quantile([10.0, 20.0, 30.0], 0.75)
    25.0
    """
    if not 0 <= q <= 1:
        raise ValueError(f"q must be in 0..1: got {q}")
    return float(np.quantile(finite(values), q))


def summarize(values: ArrayLike) -> Summary:
    """Return the order statistics of the values [n], n >= 1.

    Raises:
        ValueError: no values, nan or infinite.

    >>> summarize([10.0, 0.0, 5.0])
    Summary(count=3, p50=5.0, p90=9.0, p99=None, mad=5.0, min=0.0)
    """
    x = finite(values)
    p50, p90, p99 = np.quantile(x, (0.5, 0.9, 0.99)).tolist()
    mad = float(np.median(np.abs(x - p50)))
    return Summary(len(x), p50, p90, p99 if len(x) >= P99_FROM else None, mad, float(x.min()))

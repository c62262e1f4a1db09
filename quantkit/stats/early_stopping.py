"""How many queries a statement about a tail latency needs: the early-stopping rule of MLPerf Inference.

A system that misses its bound in exactly a share 1 - p of all queries would show at most t misses among n queries with
probability F(t; n, 1 - p), the binomial distribution. A run with t misses is long enough when that is at most
1 - confidence. Source: MLPerf Inference Rules, appendix "Early Stopping Criterion" (there d = 0, c = 0.99).
"""

from collections.abc import Sequence

import numpy as np
from scipy.special import bdtr

from quantkit.stats.checks import finite, share

CONFIDENCE = 0.99


def queries_needed(over: int, percentile: float, *, confidence: float = CONFIDENCE) -> int:
    """Return how many queries in all, `over` of them past the bound, show that the percentile keeps the bound.

    Args:
        over: queries past the bound, 0 or more.
        percentile: 0..1, e.g. 0.99.
        confidence: that a system just missing the bound does not pass.

    >>> queries_needed(0, 0.99), queries_needed(1, 0.99), queries_needed(1, 0.9)
    (459, 662, 64)
    """
    share(percentile, "percentile")
    share(confidence, "confidence")
    if over < 0:
        raise ValueError(f"over must be 0 or more: got {over}")
    low, high = over, over + 1  # `low` queries are too few
    while not _enough(over, high, percentile, confidence):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if _enough(over, middle, percentile, confidence) else (middle, high)
    return high


def _enough(over: int, queries: int, percentile: float, confidence: float) -> bool:
    return queries > over and float(bdtr(over, queries, 1 - percentile)) <= 1 - confidence


def estimate(latencies: Sequence[float], percentile: float, *, confidence: float = CONFIDENCE) -> float | None:
    """Return a latency that the percentile keeps at the confidence: the t-th largest for the largest t that n allows.

    Args:
        latencies: [n], in any order; the answer has their unit.

    Returns:
        None below the number of queries that one miss needs (64 for the 90th, 662 for the 99th percentile).

    >>> estimate(range(1, 65), 0.9)  # 64 queries: nothing is thrown away
    64.0
    """
    x = np.sort(finite(latencies))
    n = len(x)
    if n < queries_needed(1, percentile, confidence=confidence):
        return None
    counts = np.arange(1, n)
    allowed = int((bdtr(counts, n, 1 - percentile) <= 1 - confidence).sum())  # it grows with the count
    return float(x[n - allowed])

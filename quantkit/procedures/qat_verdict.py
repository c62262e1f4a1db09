"""Was training worth it? Paired outcomes of the original, of rounding alone and of training, at equal bits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from quantkit.stats import retention

RESAMPLES = 4_000
NEAR_ZERO = 1e-12


@dataclass(frozen=True, slots=True)
class Comparison:
    """What training brought.

    Args:
        lost: what rounding alone lost against the original: `binary` as a share of items, `score` relative to the
            original's mean; positive = worse.
        recovered: share of that loss that training brought back, 1 = all; None where nothing was lost.
        low, high: its interval (paired bootstrap, 1 - 2·alpha); -inf or inf where resamples without a loss reach it.
        rounded: rounding alone against the original.
        trained: training against the original.
        trained_vs_rounded: training against rounding alone; a drop below zero is a gain.
    """

    lost: float
    recovered: float | None
    low: float
    high: float
    rounded: retention.Retention
    trained: retention.Retention
    trained_vs_rounded: retention.Retention


def compare(
    original: ArrayLike, rounded: ArrayLike, trained: ArrayLike, *, outcome: Literal["binary", "score"],
    better: Literal["higher", "lower"], margin: float, alpha: float = 0.05, seed: int = 0,
) -> Comparison:  # fmt: skip
    """Return the paired verdicts and the recovered share, from one outcome per item [n] of each network.

    Raises:
        ValueError: as `stats.retention.compare`.

    >>> right = np.repeat([1.0, 0.0], [90, 10])
    >>> half, worse = right.copy(), right.copy()
    >>> half[:5] = worse[:10] = 0
    >>> round(compare(right, worse, half, outcome="binary", better="higher", margin=0.01).recovered, 6)
    0.5
    """
    pairs = ((original, rounded), (original, trained), (rounded, trained))
    found = [
        retention.compare(ref, cand, outcome=outcome, better=better, margin=margin, alpha=alpha, seed=seed)
        for ref, cand in pairs
    ]
    columns = np.stack([np.asarray(x, np.float64) for x in (original, rounded, trained)])
    share = float(_recovered(columns.mean(1)[:, None])[0])
    low, high = interval(columns, alpha, seed)
    return Comparison(found[0].drop, None if np.isnan(share) else share, low, high, *found)


def interval(columns: np.ndarray, alpha: float, seed: int) -> tuple[float, float]:
    """Return the percentile interval of the recovered share over resampled items; columns [3, n]."""
    rng, n = np.random.default_rng(seed), columns.shape[1]
    means = np.stack([columns[:, rng.integers(0, n, n)].mean(1) for _ in range(RESAMPLES)], axis=1)
    shares = _recovered(means)
    # a resample without a loss says nothing of its share: it counts to both ends
    low = np.quantile(np.where(np.isnan(shares), -np.inf, shares), alpha, method="lower")
    return float(low), float(np.quantile(np.where(np.isnan(shares), np.inf, shares), 1 - alpha, method="higher"))


def _recovered(means: np.ndarray) -> np.ndarray:
    """Return (trained - rounded) / (original - rounded) of means [3, m]; nan where rounding lost next to nothing."""
    lost = means[0] - means[1]
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(np.abs(lost) < NEAR_ZERO, np.nan, (means[2] - means[1]) / lost)

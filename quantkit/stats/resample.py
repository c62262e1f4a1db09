"""Bootstrap resampling without loops: means by their moments, medians by their rank.

Efron 1979. Everything random comes from the `seed` or generator given, so that the same data give the same interval.
"""

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from quantkit.stats.checks import Floats

BUDGET = 5_000_000  # values drawn per call where LEAST allows: about 0.2 s
MOST, LEAST = 9_999, 1_999  # resamples: the smallest p-value is 1 / (resamples + 1)
CHUNK = 1 << 20  # values drawn per step


def resamples_for(items: int) -> int:
    """Return how many resamples the budget allows for that many items, 1,999..9,999."""
    return int(np.clip(BUDGET // max(items, 1), LEAST, MOST))


def mean_moments(columns: Floats, seed: int) -> tuple[Floats, NDArray[np.float64]]:
    """Return mean and second moments of every bootstrap resample of the rows.

    Args:
        columns: [n, k], centred by the caller so that variances lose no digits.
        seed: of the resampling.

    Returns:
        Means [resamples, k] and moments E[x_i·x_j] [resamples, k, k].
    """
    n, k = columns.shape
    products = (columns[:, :, None] * columns[:, None, :]).reshape(n, k * k)
    everything = np.concatenate([columns, products], axis=1)
    rng, total = np.random.default_rng(seed), resamples_for(n)
    sums = np.empty((total, k + k * k))
    step = max(1, CHUNK // n)
    for start in range(0, total, step):
        size = min(step, total - start)
        picks = rng.integers(0, n, (size, n)) + n * np.arange(size)[:, None]
        counts = np.bincount(picks.ravel(), minlength=size * n).reshape(size, n)
        sums[start : start + size] = counts @ everything
    return sums[:, :k] / n, (sums[:, k:] / n).reshape(total, k, k)


def sign_flips(differences: Floats, seed: int) -> Floats:
    """Return the sum of the differences [n] under random signs, [resamples]; zeros do not count."""
    moved = differences[differences != 0]
    if not len(moved):
        return np.zeros(1)
    rng, total = np.random.default_rng(seed), resamples_for(len(moved))
    sums = np.empty(total)
    step = max(1, CHUNK // len(moved))
    for start in range(0, total, step):
        size = min(step, total - start)
        signs = rng.integers(0, 2, (size, len(moved)), dtype=np.int8)
        sums[start : start + size] = 2 * (signs @ moved) - moved.sum()
    return sums


def medians(rounds: tuple[Floats, ...], picks: NDArray[np.intp], rng: Generator) -> Floats:
    """Return the median of a fresh resample of round `picks[...]` for every entry of `picks`, same shape.

    The median of n values drawn with replacement is the sorted value at the rank of the middle one (odd n) or two of
    n uniform numbers. The middle one of n uniforms is Beta distributed, and the next one above it is the smallest of
    the rest: one or two draws per median instead of n.

    Args:
        rounds: values of each round, any lengths >= 1.
        picks: indices of rounds.
        rng: source of randomness.
    """
    lengths = np.array([len(values) for values in rounds])
    padded = np.zeros((len(rounds), lengths.max()))
    for row, values in zip(padded, rounds, strict=True):
        row[: len(values)] = np.sort(values)
    n = lengths[picks]
    k = (n + 1) // 2  # rank of the (lower) middle value
    lower = rng.beta(k, n - k + 1)
    upper = np.where(n % 2 == 1, lower, lower + (1 - lower) * rng.beta(1, np.maximum(n - k, 1)))
    low, high = (np.minimum((u * n).astype(np.intp), n - 1) for u in (lower, upper))
    return (padded[picks, low] + padded[picks, high]) / 2

"""Estimates with intervals: speed-up as a ratio of medians over fresh processes, and mean paired differences.

Caches, memory layout and clock speed are drawn once per process, so values of one process resemble each other and the
process ("round") is the unit that counts (Kalibera and Jones 2013, "Rigorous benchmarking in reasonable time"). Seven
rounds of 100 calls hold hardly more information on a speed-up than seven numbers.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import stdtrit

from quantkit.stats.checks import Floats, finite, pair, share
from quantkit.stats.resample import mean_moments, medians

RESAMPLES = 1_000
Rounds = Sequence[Sequence[float]]


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value with the interval that holds it at the stated confidence.

    >>> Estimate(1.5, 1.2, 1.9, 0.95).excludes(1.0)
    True
    """

    value: float
    low: float
    high: float
    confidence: float

    def excludes(self, number: float) -> bool:
        """Return whether the number lies outside the interval."""
        return not self.low <= number <= self.high


def ratio_of_medians(
    reference: Rounds,
    candidate: Rounds,
    *,
    confidence: float = 0.95,
    seed: int = 0,
    prediction: bool = False,
    drift: float = 0.0,
) -> Estimate:
    """Return the speed-up: median latency of the reference over that of the candidate, above 1 when faster.

    Value: exp(median over rounds of ln(median ref_r / median cand_r)): pairing by round cancels what drifts between
    rounds, and the median is not moved by a few rounds in which something else took the processor. Interval: in the
    logarithm, value ± t(K - 1) · sqrt(SE² · K / (K - 1) + drift²) for K rounds, where SE is half the central 68 % of a
    hierarchical bootstrap (rounds, then values within each drawn round). The factor undoes the bootstrap's too small
    spread of few rounds.

    Args:
        reference: K rounds, one per fresh process; each holds positive seconds, at least one.
        candidate: K rounds that ran in the same K slots of time; the numbers of values may differ.
        confidence: of the interval, 0..1.
        seed: of the resampling; the same data and seed give the same interval.
        prediction: widen by sqrt(2) to the interval in which the value of an equal repeat (K new rounds each, same
            machine) is expected.
        drift: relative standard deviation between whole runs, which the rounds of one run cannot show.

    Returns:
        The estimate; the interval has no width when nothing varies (a simulated clock, drift 0).

    Raises:
        ValueError: fewer than 2 rounds, unequal numbers of rounds, or a value that is not a positive number.

    Source: Kalibera and Jones 2013, section 9 (ratio of two means, here of medians); hierarchical bootstrap: Ren et
    al. 2010, "Nonparametric bootstrapping for hierarchical data".

    >>> ratio_of_medians([[4.0, 4.0], [4.0, 4.0]], [[2.0, 2.0], [2.0, 2.0]]).value
    2.0
    """
    share(confidence, "confidence")
    ref, cand = _rounds(reference, "reference"), _rounds(candidate, "candidate")
    if len(ref) != len(cand) or len(ref) < 2:
        raise ValueError(f"a speed-up needs 2 rounds or more, in pairs: got {len(ref)} and {len(cand)}; measure more")
    count = len(ref)
    logs = [math.log(np.median(r) / np.median(c)) for r, c in zip(ref, cand, strict=True)]
    rng = np.random.default_rng(seed)
    picks = rng.integers(0, count, (RESAMPLES, count))
    resampled = np.median(np.log(medians(ref, picks, rng) / medians(cand, picks, rng)), axis=1)
    low, high = np.quantile(resampled, (0.1587, 0.8413)).tolist()  # one standard deviation to either side
    variance = ((high - low) / 2) ** 2 * count / (count - 1) + drift**2
    reach = float(stdtrit(count - 1, (1 + confidence) / 2)) * math.sqrt(variance * (2 if prediction else 1))
    centre = float(np.median(logs))
    return Estimate(math.exp(centre), math.exp(centre - reach), math.exp(centre + reach), confidence)


def paired_bootstrap(
    reference: ArrayLike, candidate: ArrayLike, *, confidence: float = 0.95, seed: int = 0
) -> Estimate:
    """Return mean(candidate - reference) over paired items with its bootstrap-t interval.

    Every resample is divided by its own standard error, which corrects for skew; a resample without any spread
    (few items, most of them equal) counts as unbounded in its direction.

    Args:
        reference: [n], one number per item, n >= 2.
        candidate: [n], same items in the same order.
        confidence: of the interval, 0..1.
        seed: of the resampling.

    Raises:
        ValueError: fewer than 2 items, unequal lengths, nan or infinite.

    Source: Efron and Tibshirani 1993, "An Introduction to the Bootstrap", section 12.5.

    >>> paired_bootstrap([1.0, 2.0], [1.5, 2.5])
    Estimate(value=0.5, low=0.5, high=0.5, confidence=0.95)
    """
    share(confidence, "confidence")
    ref, cand = pair(reference, candidate, least=2)
    difference = cand - ref
    value = float(difference.mean())
    error = float(difference.std()) / math.sqrt(len(difference))
    if error <= 1e-12 * abs(value):  # rounding of equal differences
        return Estimate(value, value, value, confidence)
    means, moments = mean_moments((difference - value)[:, None], seed)
    t = studentized(means[:, 0], moments[:, 0, 0], len(difference))
    tail = (1 - confidence) / 2
    low, high = np.quantile(t, (1 - tail, tail), method="nearest").tolist()
    return Estimate(value, value - low * error, value - high * error, confidence)


def studentized(means: Floats, squares: Floats, items: int) -> Floats:
    """Return mean / standard error of each resample of `items` centred values; ±inf where only the mean is not 0."""
    variance = squares - means**2
    error = np.sqrt(np.where(variance > 1e-12 * squares, variance, 0.0) / items)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where((error == 0) & (means == 0), 0.0, means / error)


def simultaneous(confidence: float, comparisons: int) -> float:
    """Return the confidence each of several intervals needs, so that all hold at once: confidence^(1/comparisons).

    Source: Sidak 1967; exact for independent intervals, safe for positively dependent ones (a shared baseline).

    >>> round(simultaneous(0.95, 10), 6)
    0.994884
    """
    share(confidence, "confidence")
    if comparisons < 1:
        raise ValueError(f"comparisons must be at least 1: got {comparisons}")
    return confidence ** (1 / comparisons)


def _rounds(rounds: Rounds, name: str) -> tuple[Floats, ...]:
    """Return each round as float64, refused when a value is not a positive number of seconds."""
    checked = tuple(finite(values, f"{name} round {i}") for i, values in enumerate(rounds))
    for i, values in enumerate(checked):
        if values.min() <= 0:
            raise ValueError(f"{name} round {i} must hold positive seconds: got {values.min()}")
    return checked

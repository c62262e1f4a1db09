"""What a request looks like, and whether it resembles the calibration items: those that do not go to full precision.

Simple statistics of the inputs are compared with the calibration items' one by one: the score is the largest distance
from the median in units of the spread: the standard deviation, or 1.4826 MAD where that is larger, and at least a
thousandth of the largest value, so that a constant feature does not divide by zero. The alarm is split
conformal (Vovk, Gammerman & Shafer 2005; Lei et al. 2018, arXiv:1604.04173): of n held-out calibration scores the
ceil((n + 1)(1 - rate))-th smallest is the threshold, and a request that is exchangeable with them exceeds it with
probability at most `rate`, whatever the distribution.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from quantkit.contracts import Arrays, Split
from quantkit.errors import CalibrationError, InvalidSetting

MAD = 1.4826  # of a normal distribution's standard deviation
FLAT = 1e-3  # of a feature's largest value: the smallest spread that counts


def features(inputs: Arrays) -> list[float]:
    """Return the statistics of one request, [features]: five for each input, six for tokens.

    Smallest and largest value, mean, standard deviation, root mean square step between neighbours along the last axis;
    of integers also the share that is not 0: of tokens, where 0 is padding, that is the length.

    >>> [round(x, 4) for x in features((np.array([[3, 0, 1, 0]]),))]  # sqrt(10/4 - 1), sqrt((9 + 1 + 1) / 3)
    [0.0, 3.0, 1.0, 1.2247, 1.9149, 0.5]
    """
    return [number for x in inputs for number in _of_one(x)]


def _of_one(x: np.ndarray) -> tuple[float, ...]:
    """Return the statistics of one input, by the fewest calls of NumPy: this is on every request's way."""
    rows = x.reshape(-1, x.shape[-1]) if x.ndim else x.reshape(1, 1)
    rows = rows.astype(np.float32, copy=False)
    values, size = rows.reshape(-1), rows.size
    mean = float(np.add.reduce(values)) / size
    spread = math.sqrt(max(0.0, float(values.dot(values)) / size - mean * mean))
    steps = (rows[:, 1:] - rows[:, :-1]).reshape(-1)
    step = math.sqrt(float(steps.dot(steps)) / max(1, steps.size))
    found = float(np.minimum.reduce(values)), float(np.maximum.reduce(values)), mean, spread, step
    return found if x.dtype.kind == "f" else (*found, int(np.count_nonzero(values)) / size)


@dataclass(frozen=True)
class Guard:
    """Tells requests that resemble the calibration items from those that do not.

    Args:
        centre, spread: of each feature, [features]; plain numbers: six of them are quicker so than in NumPy.
        threshold: scores above it raise the alarm.
        rate: false-alarm rate that the threshold was set for.
    """

    centre: tuple[float, ...]
    spread: tuple[float, ...]
    threshold: float
    rate: float

    def score(self, inputs: Arrays) -> float:
        """Return how far the request's most unusual feature lies from the calibration items; inf for nan or inf."""
        worst = 0.0
        for value, centre, spread in zip(features(inputs), self.centre, self.spread, strict=True):
            distance = abs(value - centre) / spread
            if not distance < math.inf:  # nan, too
                return math.inf
            worst = max(worst, distance)
        return worst

    def alarm(self, inputs: Arrays) -> bool:
        """Return whether the request is out of calibration."""
        return self.score(inputs) > self.threshold


def guard(calibration: Split, *, rate: float = 0.01, seed: int = 0) -> Guard:
    """Return a guard: centre and spread from one half of the items, the threshold from the other.

    Args:
        calibration: items like those that static ranges were taken from; at least 2 · (1 / rate - 1) of them.
        rate: share of requests like these that may raise a false alarm.
        seed: of the draw of the halves.

    Raises:
        CalibrationError: too few items for this rate.
    """
    if not 0 < rate < 1:
        raise InvalidSetting(f"a false-alarm rate lies between 0 and 1: got {rate}")
    order = np.random.default_rng(seed).permutation(len(calibration))
    fitted, held = order[: len(order) // 2], order[len(order) // 2 :]
    rank = math.ceil((len(held) + 1) * (1 - rate) - 1e-9)
    if rank > len(held) or not len(fitted):
        least = 2 * math.ceil(1 / rate - 1)
        raise CalibrationError(f"a false-alarm rate of {rate:g} needs {least} items: got {len(calibration)}")
    rows = np.array([features(calibration.item(int(i))) for i in fitted])
    centre = np.median(rows, axis=0)
    spread = np.maximum(rows.std(axis=0), MAD * np.median(np.abs(rows - centre), axis=0))
    spread = np.maximum(spread, FLAT * np.maximum(np.abs(rows).max(axis=0), 1e-30))
    made = Guard(tuple(centre.tolist()), tuple(spread.tolist()), math.inf, rate)
    scores = np.sort([made.score(calibration.item(int(i))) for i in held])
    return replace(made, threshold=float(scores[rank - 1]))

"""A speed verdict that may be taken while measuring goes on: several looks at more and more blocks, one error rate.

Each look spends an equal part of alpha (Bonferroni over the looks), so that the chance of any false verdict in a whole
comparison is at most alpha, however the data of the looks depend on each other; the price is an interval about a
quarter wider than that of a single look. Source: Armitage, McPherson and Rowe 1969, "Repeated significance tests on
accumulating data"; the same bound by the union of the looks' errors.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from quantkit.stats.checks import share
from quantkit.stats.interval import Estimate, ratio_of_medians

SequentialVerdict = Literal["faster", "slower", "same", "inconclusive"]
Rounds = Sequence[Sequence[float]]


@dataclass(frozen=True, slots=True)
class Rule:
    """When a comparison is decided.

    Args:
        alpha: largest chance that the verdict is false, over all looks together, 0..1.
        floor: relative effect that two equal arms may show on this machine; a smaller one is never a verdict, >= 0.
        tolerance: relative effect below which the arms are `same` in practice, above the floor.
        first: blocks of the first look, at least 2.
        growth: each look has that many times the blocks of the one before, above 1.
        looks: how many looks there may be.

    Raises:
        ValueError: numbers outside these ranges.
    """

    alpha: float = 0.01
    floor: float = 0.01
    tolerance: float = 0.02
    first: int = 8
    growth: float = 1.5
    looks: int = 10

    def __post_init__(self) -> None:
        share(self.alpha, "alpha")
        if not 0 <= self.floor < self.tolerance < 1:
            raise ValueError(f"0 <= floor < tolerance < 1 must hold: got {self.floor} and {self.tolerance}")
        if self.first < 2 or self.growth <= 1 or self.looks < 1:
            raise ValueError(f"first >= 2, growth > 1, looks >= 1: got {self.first}, {self.growth}, {self.looks}")

    @property
    def schedule(self) -> tuple[int, ...]:
        """Return the numbers of blocks at which to look.

        >>> Rule().schedule
        (8, 12, 18, 27, 41, 61, 92, 137, 206, 308)
        """
        counts = [self.first]
        for look in range(1, self.looks):
            counts.append(max(counts[-1] + 1, math.ceil(self.first * self.growth**look)))
        return tuple(counts)

    @property
    def confidence(self) -> float:
        """Return the confidence of one look's interval."""
        return 1 - self.alpha / self.looks


@dataclass(frozen=True, slots=True)
class Look:
    """What a number of blocks says.

    Args:
        verdict: of the candidate; `inconclusive` where more blocks are needed.
        speedup: median latency of the reference over the candidate's, above 1 when the candidate is faster; the
            interval has the confidence of one look.
        blocks: that this is from.
    """

    verdict: SequentialVerdict
    speedup: Estimate
    blocks: int


def look(reference: Rounds, candidate: Rounds, rule: Rule | None = None, *, seed: int = 0) -> Look:
    """Return what the blocks so far say; call it at the counts of `rule.schedule` only, or the error rate is void.

    Args:
        reference: K blocks of positive seconds, one per fresh load.
        candidate: K blocks from the same slots of time.
        rule: error rate, floor and tolerance.
        seed: of the resampling.

    Raises:
        ValueError: fewer than 2 blocks, unequal numbers of blocks, or a value that is not a positive number.

    >>> look([[1.0]] * 8, [[2.0]] * 8).verdict, look([[1.0]] * 8, [[1.005]] * 8).verdict
    ('slower', 'same')
    """
    rule = rule or Rule()
    speedup = ratio_of_medians(reference, candidate, confidence=rule.confidence, seed=seed)
    return Look(_verdict(speedup, rule), speedup, len(reference))


def _verdict(speedup: Estimate, rule: Rule) -> SequentialVerdict:
    if speedup.low > 1 + rule.floor:
        return "faster"
    if speedup.high < 1 / (1 + rule.floor):
        return "slower"
    within = speedup.high < 1 + rule.tolerance and speedup.low > 1 / (1 + rule.tolerance)
    return "same" if within else "inconclusive"

"""Is a change of level in a short, noisy series real, and how large is it?

A series holds one number for each run of the same benchmark, oldest first. A step between two neighbouring pieces of
it is judged in the logarithm by a two-sample t-statistic with pooled variance. Two things keep it silent when nothing
changed: what is known of a single run beforehand (its own raw values, and the machine's drift between runs) counts as
much as a few runs more, since few runs may agree by luck; and the p-value counts every place where the step could have
been (Bonferroni), since the place was chosen by looking at the series. A run's level alone proves nothing: a noisy
step needs two runs on either side.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import stdtr, stdtrit

from quantkit.stats.checks import Floats, finite, share
from quantkit.stats.interval import Estimate, Rounds

LEAST = 2  # runs on either side of a noisy step
KNOWN = 4  # runs that prior knowledge of the noise counts as


@dataclass(frozen=True, slots=True)
class Step:
    """A change of level between two pieces of a series.

    Args:
        position: the first run after it.
        runs: how many runs are on either side.
        size: level after over level before (1.05 = 5 % more), with its interval.
        p: two-sided chance of so large a step anywhere between the pieces, were there none.
    """

    position: int
    runs: tuple[int, int]
    size: Estimate
    p: float


def typical(rounds: Rounds, over: Rounds | None = None, *, confidence: float = 0.95) -> Estimate:
    """Return the typical value of one run, or its ratio to another's of the same rounds, with its interval.

    Value: exp(median over rounds of ln(median of the round)), as in `interval.ratio_of_medians`. Interval: the median
    of K normal numbers, value · exp(± t(K - 1) · sqrt(pi / 2) · s / sqrt(K)), where s is their standard deviation (the
    factor is that of many rounds; for few it is a little too wide). No bootstrap: a history has thousands of runs, and
    a step is judged by how runs differ, not by this interval.

    Args:
        rounds: K rounds, K >= 2, of positive numbers.
        over: as many rounds that ran in the same slots of time.
        confidence: of the interval.

    Raises:
        ValueError: fewer than 2 rounds, unequal numbers of rounds, or a value that is not a positive number.

    >>> typical([[1.0, 2.0, 3.0], [2.0], [2.0]]).value
    2.0
    """
    share(confidence, "confidence")
    if len(rounds) < 2 or (over is not None and len(over) != len(rounds)):
        raise ValueError(f"needs 2 rounds or more, in pairs: got {len(rounds)} and {len(over or ())}")
    logs = np.log([np.median(_positive(values, f"round {i}")) for i, values in enumerate(rounds)])
    if over is not None:
        logs -= np.log([np.median(_positive(values, f"round {i}")) for i, values in enumerate(over)])
    count, centre = len(logs), float(np.median(logs))
    spread = math.sqrt(math.pi / 2) * float(logs.std(ddof=1)) / math.sqrt(count)
    reach = float(stdtrit(count - 1, (1 + confidence) / 2)) * spread
    return Estimate(math.exp(centre), math.exp(centre - reach), math.exp(centre + reach), confidence)


def step(
    before: ArrayLike, after: ArrayLike, *, noise: float = 0.0, position: int = 0, confidence: float = 0.95
) -> Step:
    """Return the step between two neighbouring pieces of a series.

    Args:
        before: [a], one positive number for each run.
        after: [b], the runs after the step.
        noise: relative standard deviation of one run that is known beforehand; it can only widen what the runs
            themselves show, and weighs less the more there are. 0 for what does not vary: any difference is then a
            step, from one run on.
        position: of the first run after.
        confidence: of the interval.

    Returns:
        The step; p is 1 where there are too few runs to tell, and the interval then has no bounds.

    Raises:
        ValueError: no values, a value that is not a positive number, or negative noise.

    >>> round(step([100.0, 100.0], [110.0]).size.value, 6)
    1.1
    """
    if not noise >= 0:
        raise ValueError(f"noise must be a relative deviation >= 0: got {noise}")
    share(confidence, "confidence")
    first, second = np.log(_positive(before, "before")), np.log(_positive(after, "after"))
    sides, centre = (len(first), len(second)), float(second.mean() - first.mean())
    squares = float(((first - first.mean()) ** 2).sum() + ((second - second.mean()) ** 2).sum())
    if noise == 0 and squares <= 1e-24 * sum(sides):  # rounding of equal numbers
        still = abs(centre) <= 1e-12
        size = math.exp(centre)
        return Step(position, sides, Estimate(size, size, size, confidence), 1.0 if still else 0.0)
    freedom = sum(sides) - 2
    if min(sides) < LEAST:
        return Step(position, sides, Estimate(math.exp(centre), 0.0, math.inf, confidence), 1.0)
    variance = max(squares / freedom, (squares + KNOWN * noise**2) / (freedom + KNOWN))
    error = math.sqrt(variance * (1 / sides[0] + 1 / sides[1]))
    reach = float(stdtrit(freedom, (1 + confidence) / 2)) * error
    places = sum(sides) - 2 * LEAST + 1
    p = min(1.0, places * 2 * float(stdtr(freedom, -abs(centre) / error)))
    estimate = Estimate(math.exp(centre), math.exp(centre - reach), math.exp(centre + reach), confidence)
    return Step(position, sides, estimate, p)


def surviving(
    values: ArrayLike, pieces: Sequence[Sequence[int]], *, noise: float = 0.0, alpha: float = 0.01
) -> list[Step]:
    """Return the steps between pieces that are real at `alpha`, oldest first.

    Pieces are those that a step detection proposes. The least certain step is dropped and its pieces are joined, until
    every step that is left is certain: a proposal cannot make itself look certain by cutting a series into short,
    quiet pieces.

    Args:
        values: [n], one positive number for each run, oldest first.
        pieces: the places of the runs in each, one piece after the other; runs in none of them (outliers) do not count.

    Raises:
        ValueError: as `step`.

    >>> proposed = range(0, 3), range(3, 5), range(5, 10)
    >>> [found.position for found in surviving([1.0] * 5 + [2.0] * 5, proposed)]
    [5]
    """
    x = finite(values, least=0)
    groups = [list(piece) for piece in pieces]
    while len(groups) > 1:
        steps = [step(x[a], x[b], noise=noise, position=b[0]) for a, b in pairwise(groups)]
        weakest = max(range(len(steps)), key=lambda i: (steps[i].p, -abs(math.log(steps[i].size.value))))
        if steps[weakest].p <= alpha:
            return steps
        groups[weakest : weakest + 2] = [groups[weakest] + groups[weakest + 1]]
    return []


def _positive(values: ArrayLike, name: str) -> Floats:
    x = finite(values, name)
    if x.min() <= 0:
        raise ValueError(f"{name} must hold positive numbers: got {x.min()}")
    return x

"""Steps in a history: what is a step, whether it still stands, and how sure that is over the whole table.

Timings and memory vary from run to run: `levels` finds their steps. Sizes and fidelity do not vary: any change beyond
rounding is one. Quality is compared item by item, by the same paired tests as in a gate. What creeps makes no step
between neighbours: so each run is also held against the level that was last accepted (the run after the last step).
Error rates hold over the whole table (Holm).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from statistics import median
from typing import Literal

import numpy as np
from scipy.special import ndtri

from quantkit.history.figures import CONFIDENCE
from quantkit.history.levels import noisy
from quantkit.history.series import Run, Series
from quantkit.stats.checks import Floats
from quantkit.stats.interval import Estimate
from quantkit.stats.multiplicity import holm
from quantkit.stats.paired_binary import p_worse
from quantkit.stats.retention import Retention, compare

ALPHA = 0.002  # of one look at one table: a history is looked at night after night (docs/history.md has the figures)

CONFIDENCE_OF_STEPS = 0.95  # of the interval of a step's size, that of a single one: not adjusted for the table
RECENT = 11  # runs that a suspect newest one is held against: levels of long ago are another story


@dataclass(frozen=True)
class Change:
    """A step of one series.

    Args:
        before: the last run before it.
        after: the first run after it.
        size: relative (1.05 = 5 % more; less is better) with its interval; for quality the difference of the means,
            positive = worse.
        p: chance of so large a step were there none, adjusted for all series of the table.
        stands: whether the newest level is still on the worse (or better) side.
        crept: no single commit is to blame: `before` is the last run on the old level, `after` where it became proved.
    """

    series: Series
    before: Run
    after: Run
    size: Estimate
    p: float
    stands: bool = True
    crept: bool = False

    @property
    def direction(self) -> Literal["worse", "better"]:
        """Less is better, whatever is followed."""
        return "worse" if self.size.value > (0.0 if self.series.kind.varies == "items" else 1.0) else "better"

    @property
    def regression(self) -> bool:
        """A change for the worse that was not undone, between two commits."""
        return self.direction == "worse" and self.stands and self.before.commit != self.after.commit


def changes(table: Iterable[Series], *, alpha: float = ALPHA) -> list[Change]:
    """Return the steps of all series that are real at `alpha`, over all of them together.

    Raises:
        MissingExtra: asv is not installed.
    """
    every = list(table)
    found = [[] if series.kind.varies == "items" else list(_of(series, alpha)) for series in every]
    tests = sum(max(1, len(steps), _tests(series)) for series, steps in zip(every, found, strict=True))
    for series, steps in zip(every, found, strict=True):
        if series.kind.varies == "items":  # a level that is only accepted when proved needs the whole table's count
            steps += _by_items(series, alpha / tests)
    flat = [change for steps in found for change in steps]
    adjusted = holm([change.p for change in flat] + [1.0] * (tests - len(flat)))
    return [replace(change, p=float(p)) for change, p in zip(flat, adjusted, strict=False) if p <= alpha]


def suspects(table: Iterable[Series]) -> list[Change]:
    """Return the series whose newest run alone is on another level: too little to say so, enough to run again."""
    return [change for series in table if (change := _suspect(series)) is not None]


def _of(series: Series, alpha: float) -> Iterator[Change]:
    """Yield the steps of one series, not yet adjusted for the others."""
    values, kind, runs = series.values, series.kind, series.runs
    if min(values) <= 0:
        return
    if kind.varies == "never":
        yield from _by_value(series)
        return
    for since, found in noisy(values, noise_of(series), alpha, least=kind.least, accepted=series.accepted):
        crept, at = since is not None, found.position
        before = runs[at - 1] if since is None else runs[since]
        yield Change(series, before, runs[at], found.size, found.p, _stands(values, at, found.runs[0]), crept)


def _by_value(series: Series) -> Iterator[Change]:
    """Yield the steps of what does not vary: from one run to the next, or from the level to what crept away from it."""
    logs, runs, least = np.log(series.values), series.runs, math.log1p(series.kind.least)
    level = series.accepted
    for i in range(level + 1, len(runs)):
        level = i - 1 if logs[i - 1] == logs[level] else level
        for since in dict.fromkeys((i - 1, level)):
            away = float(logs[i] - logs[since])
            if abs(away) >= least:
                size, left = math.exp(away), float(logs[-1] - logs[since]) * math.copysign(1.0, away)
                exact = Estimate(size, size, size, CONFIDENCE_OF_STEPS)
                yield Change(series, runs[since], runs[i], exact, 0.0, left >= least, crept=since != i - 1)
                level = i
                break


def _stands(values: Sequence[float], position: int, runs: int) -> bool:
    """Return whether the newest level is nearer to the level after the step than to the one before."""
    before, after = median(values[max(0, position - runs) : position]), median(values[position : position + runs])
    now = median(values[-min(runs, len(values) - position) :])
    return abs(math.log(now / after)) <= abs(math.log(now / before))


def noise_of(series: Series) -> float:
    """Return the relative deviation of one run that is known beforehand: of its raw values, and the machine's drift."""
    if series.kind.type == "peakmemory":
        return series.kind.drift
    spans = [math.log(high / low) for _, low, high in (run.values[series.kind.name] for run in series.runs) if low > 0]
    reach = float(ndtri((1 + CONFIDENCE) / 2))
    return math.hypot(series.kind.drift, median(spans) / (2 * reach) if spans else 0.0)


def _tests(series: Series) -> int:
    """Return how many paired tests a series of quality can take: each run that differs from the one before, twice.

    The first is the same against its neighbour and against the level.
    """
    if series.kind.varies != "items":
        return 0
    differ = sum(before.outcomes != after.outcomes for before, after in pairwise(series.runs[series.accepted :]))
    return max(0, 2 * differ - 1)


def _by_items(series: Series, alpha: float) -> Iterator[Change]:
    """Yield the steps of quality that one test proves at `alpha`: from one run to the next, or from the level."""
    last, level = series.runs[-1], series.runs[series.accepted]
    for before, after in pairwise(series.runs[series.accepted :]):
        level = before if before.outcomes == level.outcomes else level
        for since in (before,) if level is before else (before, level):
            p = _chance(since, after)
            if p <= alpha:
                size = Estimate(*_loss(since, after), CONFIDENCE_OF_STEPS)
                stands = not _undone(since, after, last, size.value)
                yield Change(series, since, after, size, p, stands=stands, crept=since is not before)
                level = after
                break


def _undone(before: Run, after: Run, last: Run, size: float) -> bool:
    """Return whether the newest run is proved to be back, and not proved to be off the old level any more."""
    back = _chance(after, last) <= ALPHA and _difference(after, last) * size < 0
    left = _chance(before, last) <= ALPHA and _difference(before, last) * size > 0
    return back and not left


def _difference(before: Run, after: Run) -> float:
    """Return by how much the mean outcome is worse."""
    gain = float(np.frombuffer(after.outcomes).mean() - np.frombuffer(before.outcomes).mean())
    return -gain if after.quality["better"] == "higher" else gain


def _chance(before: Run, after: Run) -> float:
    """Return the two-sided p-value of "as good as before": McNemar's exact test, or sign flips for scores."""
    if before.outcomes == after.outcomes or len(before.outcomes) != len(after.outcomes):
        return 1.0
    then, now = np.frombuffer(before.outcomes), np.frombuffer(after.outcomes)
    if after.quality["outcome"] == "binary":
        sides = sorted((int((then > now).sum()), int((then < now).sum())))
        return min(1.0, 2 * p_worse(sides[1], sides[0]))
    try:
        return min(1.0, 2 * min(_compared(a, b, after).p_worse for a, b in ((then, now), (now, then))))
    except ValueError:
        return 1.0  # scores whose mean is 0


def _loss(before: Run, after: Run) -> tuple[float, float, float]:
    found = _compared(np.frombuffer(before.outcomes), np.frombuffer(after.outcomes), after)
    return found.drop, found.drop_low, found.drop_high


def _compared(then: Floats, now: Floats, run: Run) -> Retention:
    how = {name: run.quality[name] for name in ("outcome", "better", "margin")}
    return compare(then, now, **how, alpha=(1 - CONFIDENCE_OF_STEPS) / 2)


def _suspect(series: Series) -> Change | None:
    """Return a newest run that lies alone beyond what three times the known and the seen noise explain."""
    if series.kind.varies != "runs" or len(series.runs) < 3 or min(series.values) <= 0:
        return None
    logs = [math.log(value) for value in series.values]
    *older, newest = logs[-RECENT:]
    middle = median(older)
    spread = median(abs(x - middle) for x in older) / float(ndtri(0.75))
    away = abs(newest - middle)
    if away <= max(3 * math.hypot(spread, noise_of(series)), math.log1p(series.kind.least)):
        return None
    if abs(logs[-2] - newest) < away / 2:
        return None  # not alone: a step, or none that is certain yet
    ratio = math.exp(newest - middle)
    return Change(series, series.runs[-2], series.runs[-1], Estimate(ratio, 0.0, math.inf, CONFIDENCE_OF_STEPS), 1.0)

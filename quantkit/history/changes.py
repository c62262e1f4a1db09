"""Steps in a history: proposed by asv's own step detection, and believed only when the raw values say so too.

Timings and memory vary from run to run: a step is judged by `stats.steps`, over all runs of both levels. Sizes and
fidelity do not vary: any change beyond rounding is one. Quality is compared item by item between the last run before
and the first after, by the same paired tests as in a gate. Error rates hold over the whole table (Holm).
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

from quantkit.extras import require
from quantkit.history.figures import CONFIDENCE
from quantkit.history.series import Run, Series
from quantkit.stats.interval import Estimate
from quantkit.stats.multiplicity import holm
from quantkit.stats.retention import compare
from quantkit.stats.steps import LEAST, Step, step, surviving

ALPHA = 0.002  # of one look at one table: a history is looked at night after night (docs/history.md has the figures)

PENALTY = 2.0  # of one more piece; asv's own is 4, with which it proposes half of the steps of 5 % in 1 % of noise
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
    """

    series: Series
    before: Run
    after: Run
    size: Estimate
    p: float
    stands: bool = True

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
    found = [list(_of(series, alpha)) for series in every]
    silent = sum(not steps for steps in found)
    flat = [change for steps in found for change in steps]
    adjusted = holm([change.p for change in flat] + [1.0] * silent)
    return [replace(change, p=float(p)) for change, p in zip(flat, adjusted, strict=False) if p <= alpha]


def suspects(table: Iterable[Series]) -> list[Change]:
    """Return the series whose newest run alone is on another level: too little to say so, enough to run again."""
    return [change for series in table if (change := _suspect(series)) is not None]


def _of(series: Series, alpha: float) -> Iterator[Change]:
    """Yield the steps of one series, not yet adjusted for the others."""
    if series.kind.varies == "items":
        yield from _by_items(series)
        return
    values, kind = series.values, series.kind
    if min(values) <= 0:
        return
    if kind.varies == "never":
        steps = [step([a], [b], position=i + 1) for i, (a, b) in enumerate(pairwise(values))]
    else:
        steps = surviving(values, proposed(values), noise=noise_of(series), alpha=alpha)
    for found in steps:
        if found.p <= alpha and abs(math.log(found.size.value)) >= math.log1p(kind.least):
            stands = _stands(values, found.position, found.runs[0])
            yield Change(series, *_around(series, found), found.size, found.p, stands)


def _around(series: Series, found: Step) -> tuple[Run, Run]:
    return series.runs[found.position - 1], series.runs[found.position]


def _stands(values: Sequence[float], position: int, runs: int) -> bool:
    """Return whether the newest level is nearer to the level after the step than to the one before."""
    before, after = median(values[max(0, position - runs) : position]), median(values[position : position + runs])
    now = median(values[-min(runs, len(values) - position) :])
    return abs(math.log(now / after)) <= abs(math.log(now / before))


def proposed(values: Sequence[float]) -> list[list[int]]:
    """Return the pieces that asv's step detection cuts a series into: the places of the runs in each.

    Outliers are taken out first. The solver is asked with half of asv's penalty for one more piece: it may propose more
    than is there, since what it proposes is judged afterwards.
    """
    detection = require("asv.step_detect")
    kept = without_outliers(values)
    count = len(kept)
    if count < 2 * LEAST:
        return [kept]
    y, beta = [values[i] for i in kept], PENALTY * math.log(count) / count
    rights, *_ = detection.solve_potts_autogamma(y, [1.0] * count, beta=beta, min_size=LEAST)
    return [kept[left:right] for left, right in pairwise([0, *rights])]


def without_outliers(values: Sequence[float]) -> list[int]:
    """Return the places of the runs that count: asv gives an outlier a piece of its own, between two equal levels.

    Where there would be many (one in eight), they are no outliers, and all count.
    """
    detect = require("asv.step_detect").detect_steps
    pieces = [(left, right, value) for left, right, value, *_ in detect(list(values))]
    out = set()
    for (_, _, before), (left, right, own), (_, _, after) in zip(pieces, pieces[1:], pieces[2:], strict=False):
        back = abs(after - before) < min(abs(own - before), abs(own - after)) / 3
        out |= {left} if right - left == 1 and back else set()
    return [i for i in range(len(values)) if i not in out or len(out) > len(values) / 8]


def noise_of(series: Series) -> float:
    """Return the relative deviation of one run that is known beforehand: of its raw values, and the machine's drift."""
    if series.kind.type == "peakmemory":
        return series.kind.drift
    spans = [math.log(high / low) for _, low, high in (run.values[series.kind.name] for run in series.runs) if low > 0]
    reach = float(ndtri((1 + CONFIDENCE) / 2))
    return math.hypot(series.kind.drift, median(spans) / (2 * reach) if spans else 0.0)


def _by_items(series: Series) -> Iterator[Change]:
    """Yield the steps of quality: runs one after the other whose items are judged differently."""
    for before, after in pairwise(series.runs):
        same = before.outcomes == after.outcomes or len(before.outcomes) != len(after.outcomes)
        found = None if same else _paired(before, after)
        if found is not None:
            size, p = found
            last = series.runs[-1]
            back = _paired(after, last) if last.outcomes != after.outcomes else None
            undone = back is not None and back[1] <= ALPHA and back[0].value * size.value < 0
            yield Change(series, before, after, size, p, stands=not undone)


def _paired(before: Run, after: Run) -> tuple[Estimate, float] | None:
    """Return how much worse the items went, with its interval, and the two-sided p-value."""
    how = {name: after.quality[name] for name in ("outcome", "better", "margin")}
    then, now = np.frombuffer(before.outcomes), np.frombuffer(after.outcomes)
    try:
        worse, better = compare(then, now, **how, alpha=0.025), compare(now, then, **how, alpha=0.025)
    except ValueError:
        return None  # scores whose mean is 0
    size = Estimate(worse.drop, worse.drop_low, worse.drop_high, 0.95)
    return size, min(1.0, 2 * min(worse.p_worse, better.p_worse))


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
    return Change(series, series.runs[-2], series.runs[-1], Estimate(ratio, 0.0, math.inf, 0.95), 1.0)

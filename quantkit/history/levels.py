"""Levels of a noisy series: proposed by asv's own step detection, believed only when all runs of both sides say so too.

asv's solver puts no step into a series that creeps. So the later half of each level is held against the earlier one,
and a level against the one that was last accepted where the steps between them are too small to be told.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, pairwise

import numpy as np

from quantkit.extras import require
from quantkit.stats.steps import LEAST, Step, step, surviving

PENALTY = 2.0  # of one more piece; asv's own is 4, with which it proposes half of the steps of 5 % in 1 % of noise


def noisy(
    values: Sequence[float], noise: float, alpha: float, *, least: float, accepted: int = 0
) -> Iterator[tuple[int | None, Step]]:
    """Yield the steps of a noisy series: between levels, then what crept: over several levels, or along one.

    Args:
        values: one positive number for each run, oldest first.
        noise: relative deviation of one run that is known beforehand.
        alpha: chance of a false step in the series.
        least: relative change below which nothing is a step.
        accepted: place of the run whose level is accepted, whatever came before.

    Yields:
        The place of the run since when it crept (None: it did not), and the step.

    Raises:
        MissingExtra: asv is not installed.
    """
    x, pieces = np.asarray(values), proposed(values)
    steps = {found.position: found for found in surviving(x, pieces, noise=noise, alpha=alpha)}
    later = [kept for level in _levels(pieces, steps) if (kept := [i for i in level if i >= accepted])]
    base = later[0] if later else []
    for level in later:
        at, half = level[0], len(level) // 2
        if at in steps and at > accepted and _proved(steps[at], alpha, least):
            yield None, steps[at]
            base = level
        elif base is not level and _proved(over := step(x[base], x[level], noise=noise, position=at), alpha, least):
            yield base[-1], over
            base = level
        if half:
            along = step(x[level[:half]], x[level[half:]], noise=noise, position=level[half])
            if _proved(along, alpha, least):
                yield at, along


def _levels(pieces: Sequence[Sequence[int]], steps: Mapping[int, Step]) -> list[list[int]]:
    """Return the places of the runs between steps, level by level."""
    levels: list[list[int]] = [[]]
    for place in chain.from_iterable(pieces):
        levels += [[]] if place in steps else []
        levels[-1].append(place)
    return levels


def _proved(found: Step, alpha: float, least: float) -> bool:
    return found.p <= alpha and abs(math.log(found.size.value)) >= math.log1p(least)


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

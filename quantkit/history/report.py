"""A history in words: the table of all series, a line for each step, and the exit status."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tabulate import tabulate

from quantkit.conclude.gate import EXIT
from quantkit.history.changes import CONFIDENCE_OF_STEPS, Change
from quantkit.history.figures import CONFIDENCE, Kind
from quantkit.history.series import History, Series
from quantkit.stats.steps import LEAST
from quantkit.units import Unit

SHOWN = 8  # digits of a commit
SCALES = {
    Unit.SECOND: ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs")),
    Unit.BYTE: ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"), (1, "B")),
}


@dataclass(frozen=True)
class Report:
    """What is said of a history, and the exit status that says the same to a script: 0, 1, or 3 (one commit only)."""

    table: str
    alerts: tuple[str, ...]
    notes: tuple[str, ...]
    last: str
    exit_status: int


def report(history: History, found: Sequence[Change], suspects: Sequence[Change] = ()) -> Report:
    """Return the table, alerts for regressions that stand, and notes for everything else that changed."""
    alerts = tuple(line(change, alone(change, found, history)) for change in found if change.regression)
    notes = [line(change, alone(change, found, history)) for change in found if not change.regression]
    notes += [suspicion(change) for change in suspects]
    notes += [f"left out: {reason}" for reason in history.left_out]
    steps: dict[tuple[object, str], int] = {}
    for change in found:
        key = change.series.case, change.series.kind.name
        steps[key] = steps.get(key, 0) + 1
    rows = [row(series, steps.get((series.case, series.kind.name), 0)) for series in history.series]
    heads = ("case", "figure", "runs", "first", "newest", "commits", "steps")
    status = EXIT["regression" if alerts else "pass" if comparable(history) else "nothing"]
    table = tabulate(rows, headers=heads, disable_numparse=True)
    notes.append(
        f"intervals: {CONFIDENCE_OF_STEPS:.0%} of each step, {CONFIDENCE:.0%} of the newest values in the table"
    )
    return Report(table, alerts, tuple(notes), last(history, alerts), status)


def comparable(history: History) -> bool:
    """Return whether any series has two commits, from what is accepted on."""
    return any(len({run.commit for run in series.runs[series.accepted :]}) > 1 for series in history.series)


def last(history: History, alerts: Sequence[str]) -> str:
    """Return the line that ends the report: how many regressions, and what could not be judged."""
    if not comparable(history) and any(series.accepted for series in history.series):
        return "nothing was measured after the accepted commit (--since): nothing to compare"
    if not comparable(history):
        return "one commit only: nothing to compare; measure another, or take in changed files with --dirty"
    short = sum(series.kind.varies == "runs" and len(series.runs) < 2 * LEAST for series in history.series)
    few = f"; {short} have fewer than {2 * LEAST} runs, too few to tell a step from noise" if short else ""
    return f"{len(alerts)} regressions in {len(history.series)} series{few}"


def row(series: Series, steps: int) -> tuple[str, ...]:
    """Return a series as a row: its first and its newest value, the newest with its interval at 99 %."""
    first, newest = series.runs[0], series.runs[-1]
    commits = f"{first.commit[:SHOWN]}..{newest.commit[:SHOWN]}"
    value, low, high = newest.values[series.kind.name]
    ends = [bare(end, value, series.kind) for end in (low, high)]
    now = figure(value, series.kind) + (f" [{', '.join(ends)}]" if low < high else "")
    then = figure(first.values[series.kind.name][0], series.kind)
    return series.case.id, series.kind.name, str(len(series.runs)), then, now, commits, str(steps or "–")


def alone(change: Change, found: Sequence[Change], history: History) -> bool:
    """Return whether a case became slower or faster, and its ratio to full precision, which is followed, did not."""
    case, kind = change.series.case, change.series.kind.name
    followed = any(series.case == case and series.kind.name == "time_ratio" for series in history.series)
    near = {run.commit for run in (change.before, change.after)}
    ratio = [c for c in found if c.series.case == case and c.series.kind.name == "time_ratio"]
    along = [c for c in ratio if change.crept or c.crept or near & {c.before.commit, c.after.commit}]
    return kind == "latency" and followed and not along


def line(change: Change, alone: bool = False) -> str:
    """Return one line: commit, case, figure, size and interval, levels, and what else is known of the step.

    What crept was proved by its commit; which of the commits since the old level did it is not known.
    """
    kind, commit = change.series.kind, change.after.commit[:SHOWN]
    levels = [figure(run.values[kind.name][0], kind) for run in (change.before, change.after)]
    place = f"{'by' if change.crept else 'at'} {commit}"
    head = f"{change.direction}: {change.series.case.id}: {kind.name} {amount(change)} {place}"
    tail = f"{levels[0]} at {change.before.commit[:SHOWN]}, {levels[1]} after, p = {change.p:.1g}"
    crept = f"; crept since {change.before.commit[:SHOWN]}: no single commit is proved" if change.crept else ""
    said = "" if change.stands else "; undone since"
    same = "; no change of code: the commit is the same" if change.before.commit == change.after.commit else ""
    shared = "; time_ratio did not step: it is the machine, or what full precision shares" if alone else ""
    return f"{head} ({tail}{crept}{said}{same}{shared})"


def suspicion(change: Change) -> str:
    """Return a line for a newest run that stands alone."""
    kind, commit = change.series.kind, change.after.commit[:SHOWN]
    share = (change.size.value - 1) * 100
    return (
        f"suspect: {change.series.case.id}: {kind.name} {share:+.1f} % in the newest run ({commit}); "
        "one run proves nothing: measure it again (--fresh)"
    )


def amount(change: Change) -> str:
    """Return the size of a step with its interval: per cent, or points of the share for right and wrong items."""
    size = change.size
    if change.series.kind.varies == "items":
        unit = "pt" if change.series.kind.name == "error" else "%"
        return f"{size.value * 100:+.2f} {unit} [{size.low * 100:+.2f}, {size.high * 100:+.2f}]"
    percent = [(end - 1) * 100 for end in (size.value, size.low, size.high)]
    return f"{percent[0]:+.1f} %" + (f" [{percent[1]:+.1f}, {percent[2]:+.1f}]" if size.low < size.high else "")


def figure(value: float, kind: Kind) -> str:
    """Return a value in a friendly unit."""
    scale, unit = _scale(value, kind)
    return f"{value / scale:.4g} {unit}".rstrip()


def bare(value: float, beside: float, kind: Kind) -> str:
    """Return a value in the friendly unit of another, without the unit."""
    return f"{value / _scale(beside, kind)[0]:.4g}" if math.isfinite(value) else str(value)


def _scale(value: float, kind: Kind) -> tuple[float, str]:
    known = SCALES.get(kind.unit, ((1.0, "" if kind.unit is Unit.SHARE else str(kind.unit)),))
    return next(((scale, unit) for scale, unit in known if value >= scale), known[-1])

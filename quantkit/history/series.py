"""Stored results lined up: for each case and figure one series over commits, and why other results are left out.

A change of machine, library, data, items or threads is another series, not a regression. So one machine fingerprint
is looked at (that of the newest result), and of each case only the results that share the newest one's data, items,
threads and executor. A result whose commit is not known cannot be blamed on one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from quantkit.errors import InvalidSetting, NothingMeasured
from quantkit.history.figures import KINDS, Kind, Value, value
from quantkit.history.repository import in_order
from quantkit.records import Case, Result

ALIKE = ("threads", "items", "executor", "simulated")
STATUS = {
    "tainted": "measured while the machine was disturbed: their timings only",
    "failed": "that failed",
    "unsupported": "of cases that cannot run",
}


@dataclass(frozen=True)
class Run:
    """One result of a case, without its raw timings.

    Args:
        commit: full hash of the code that was measured.
        committed: when it was committed, seconds since 1970.
        created: when it was measured, ISO 8601.
        values: by figure: value, and its interval at 99 %.
        outcomes: one float64 per item, in item order, as bytes: equal runs share them.
        quality: kind of outcomes, direction and margin.
    """

    commit: str
    committed: int
    created: str
    values: Mapping[str, Value]
    outcomes: bytes = field(repr=False, default=b"")
    quality: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Series:
    """One figure of one case over all its runs, oldest commit first.

    Args:
        accepted: place of the run whose level is accepted: steps up to it are not told.
    """

    case: Case
    kind: Kind
    runs: tuple[Run, ...]
    accepted: int = 0

    @property
    def values(self) -> list[float]:
        """The figure of each run."""
        return [run.values[self.kind.name][0] for run in self.runs]


@dataclass(frozen=True)
class History:
    """All series of one machine.

    Args:
        machine: id of its fingerprint.
        title: what it is, in words.
        left_out: why results are in no series, a line each.
        commits: all of them, oldest first, in the order of the series.
    """

    machine: str
    title: str
    series: tuple[Series, ...]
    left_out: tuple[str, ...]
    commits: tuple[str, ...] = ()


def revision_of(result: Result) -> Mapping[str, Any]:
    """Return what is stored of the measured code: `commit`, `committed`, `dirty`; empty where it was in no git."""
    told: Mapping[str, Any] = result.fingerprint.get("revision") or {}
    return told


def history(
    results: Iterable[Result],
    *,
    machine: str = "",
    order: Sequence[str] | None = None,
    dirty: bool = False,
    kinds: Sequence[str] = tuple(KINDS),
) -> History:
    """Return the series of one machine.

    Args:
        results: of any machines and commits, in the order measured.
        machine: id of a fingerprint, or its beginning; default: that of the newest result.
        order: commits of one branch, oldest first; others are left out. Default: all, by the time of the commit, those
            of one second by git's order, or by when they were first measured where git does not know them.
        dirty: take in what was measured with changed files, as if it were its commit.
        kinds: names of figures.

    Raises:
        NothingMeasured: no result of that machine can be lined up; the message has the reasons.
        InvalidSetting: the name of a machine fits several.
    """
    told, out = _read(results)
    if not told:
        raise NothingMeasured("nothing was measured: no stored result has figures; measure with 'quantkit run'")
    here = _machine(told, machine)
    branch = None if order is None else frozenset(order)
    lines = list[_Line]()
    for line in told:
        reason = _why_not(line, here, branch, dirty)
        out.update([reason] if reason else [])
        lines += [] if reason else [line]
    place = {commit: number for number, commit in enumerate(_by_time(lines) if order is None else order)}
    lines.sort(key=lambda line: (place[line.run.commit], line.run.created))
    kept, mixed = _alike(lines)
    out.update(mixed)
    left = tuple(f"{count} {reason}" for reason, count in sorted(out.items()))
    series = tuple(_series(kept, kinds))
    if not series:
        have = [name for name in KINDS if any(name in line.run.values for line in kept)]
        why = [f"none has {' or '.join(kinds)}, there is {', '.join(have) or 'no figure'}"] if kept else []
        raise NothingMeasured(f"no result of machine {here} can be followed: {'; '.join((*why, *left))}")
    return History(here, kept[-1].title, series, left, tuple(sorted(place, key=place.__getitem__)))


def _by_time(lines: Sequence[_Line]) -> list[str]:
    """Return the commits, oldest first; a rebase gives many of them one second, and then git is asked."""
    first: dict[str, tuple[int, str]] = {}
    for line in lines:
        seen = line.run.committed, line.run.created
        first[line.run.commit] = min(first.get(line.run.commit, seen), seen)
    times = Counter(committed for committed, _ in first.values())
    tied = [commit for commit, (committed, _) in first.items() if times[committed] > 1]
    told = {commit: number for number, commit in enumerate(in_order(tied) if tied else ())}
    return sorted(first, key=lambda commit: (first[commit][0], told.get(commit, -1), first[commit][1]))


def _read(results: Iterable[Result]) -> tuple[list[_Line], Counter[str]]:
    """Return what a history needs of the results that have figures, and why others are left out."""
    shared: dict[bytes, bytes] = {}
    told, out = list[_Line](), Counter[str]()
    for result in results:
        if result.status != "ok":
            out[STATUS[result.status]] += 1
        if result.measured:
            told.append(_compact(result, shared))
    return told, out


@dataclass(frozen=True)
class _Line:
    case: Case
    machine: str
    title: str
    data: str
    setting: tuple[Any, ...]
    dirty: bool
    run: Run


def _compact(result: Result, shared: dict[bytes, bytes]) -> _Line:
    """Keep of a result what a history needs: the raw timings of a year do not fit into memory."""
    told, machine, context = revision_of(result), result.fingerprint, result.context
    values = {name: found for name, kind in KINDS.items() if (found := value(kind, result)) is not None}
    outcomes = np.array(result.outcomes, np.float64).tobytes()
    outcomes = shared.setdefault(outcomes, outcomes)
    run = Run(told.get("commit", ""), told.get("committed", 0), result.created, values, outcomes, context["quality"])
    title = f"{machine.get('processor', '')}, {machine.get('cores', '?')} cores, {machine.get('system', '')}"
    data = repr(sorted(context["data"]["sha256"].items()))
    setting = tuple(context.get(name) for name in ALIKE)
    return _Line(result.case, machine.get("id", ""), title, data, setting, bool(told.get("dirty")), run)


def _machine(told: Sequence[_Line], asked: str) -> str:
    """Return the machine that is meant: by default that of the newest result."""
    known = sorted({line.machine for line in told if line.machine.startswith(asked)}) if asked else [told[-1].machine]
    if len(known) > 1:
        raise InvalidSetting(f"--machine {asked} fits several: {', '.join(known)}")
    return known[0] if known else asked


def _why_not(line: _Line, machine: str, branch: Set[str] | None, dirty: bool) -> str:
    if line.machine != machine:
        return f"of another machine or other libraries: {line.machine} ({line.title})"
    if not line.run.commit:
        return "without a commit: measured outside of a git checkout"
    if line.dirty and not dirty:
        return "of changed files: commit first, or take them in with --dirty"
    return "of commits that are not on this branch" if branch is not None and line.run.commit not in branch else ""


def _alike(lines: Sequence[_Line]) -> tuple[list[_Line], Counter[str]]:
    """Return the lines that agree with the newest of their case, and why the others do not."""
    newest = {line.case: line for line in sorted(lines, key=lambda line: line.run.created)}
    kept, out = list[_Line](), Counter[str]()
    for line in lines:
        last = newest[line.case]
        if line.data != last.data:
            out["of another version of the data"] += 1
        elif line.setting != last.setting:
            differ = [name for name, a, b in zip(ALIKE, line.setting, last.setting, strict=True) if a != b]
            out[f"with other {' and '.join(differ)} than the newest of their case"] += 1
        else:
            kept.append(line)
    return kept, out


def _series(lines: Sequence[_Line], kinds: Sequence[str]) -> Iterable[Series]:
    cases: dict[Case, list[Run]] = {}
    for line in lines:
        cases.setdefault(line.case, []).append(line.run)
    for case in sorted(cases):
        for name in kinds:
            runs = tuple(run for run in cases[case] if name in run.values)
            if runs:
                yield Series(case, KINDS[name], runs)


def since(table: History, commit: str) -> History:
    """Return the history with everything up to a commit accepted: only what happened after it is a step.

    A series without a run of that commit goes on from its last run before: whether a step after that run is older than
    the commit is not known, so it is told.

    Args:
        table: with its runs in any order of commits: what counts is the place, never the time.
        commit: full hash, or its beginning.

    Raises:
        InvalidSetting: no run is of that commit, or the beginning fits several.
    """
    measured = {run.commit for series in table.series for run in series.runs}
    known = [found for found in table.commits if found in measured]
    fits = [found for found in known if found.startswith(commit)]
    if len(fits) != 1:
        said = f"fits several: {', '.join(name[:12] for name in fits)}" if fits else f"is not among {_few(known)}"
        raise InvalidSetting(f"--since {commit} {said}; name a commit of which a result is shown here")
    place = {name: number for number, name in enumerate(table.commits)}
    return replace(table, series=tuple(_accepted(series, place, fits[0]) for series in table.series))


def _accepted(series: Series, place: Mapping[str, int], commit: str) -> Series:
    own = [number for number, run in enumerate(series.runs) if run.commit == commit]
    earlier = [number for number, run in enumerate(series.runs) if place[run.commit] < place[commit]]
    return replace(series, accepted=own[0] if own else max(earlier, default=0))


def _few(commits: Sequence[str]) -> str:
    shown = ", ".join(name[:12] for name in commits[-5:])
    return f"the {len(commits)} measured commits (newest: {shown})"

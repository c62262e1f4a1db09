"""The end of `pytest benchmarks`: our table, where it was measured, what it cost, what ran where, where it is kept."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from quantkit.pytest_plugin import options, workers
from quantkit.pytest_plugin import session as sessions
from quantkit.pytest_plugin.gate import ERROR, Gate, asked_for

if TYPE_CHECKING:
    from quantkit.records import Case, Result

STARTED, LINES = pytest.StashKey[float](), pytest.StashKey[list[str]]()
UNTIMED = ("original", "build", "evaluate")
SAVING = ("benchmark_json", "benchmark_save", "benchmark_autosave")


@dataclass(frozen=True)
class Done:
    """What a run has done, whether by this process or by its workers.

    Args:
        cases: how many were selected; `left_out` more are not timed here.
        busy_s: seconds in which at least one process was inside building and running models, of `wall_s` in all.
        refused: cases that the plan refuses, with the reason.
        notes: those that the workers put on the board, where there were workers.
    """

    cases: int = 0
    left_out: int = 0
    results: tuple[Result, ...] = ()
    path: Path | None = None
    gate: Gate | None = None
    refused: Sequence[tuple[Case, str]] = ()
    wall_s: float = 0.0
    busy_s: float = 0.0
    notes: Sequence[dict[str, Any]] = field(default_factory=list)


def conclude(session: pytest.Session, exit_status: int) -> None:
    """Keep the lines of the end; set the exit status where tests that passed are not the whole truth."""
    from quantkit.errors import QuantizationError

    try:
        run = done(session)
        if run.cases and exit_status == pytest.ExitCode.INTERRUPTED and _stopped_by_failures(session):
            session.exitstatus = exit_status = pytest.ExitCode.TESTS_FAILED
        if exit_status in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
            sessions.keep_refusals(run.refused, options.results(session.config))
        session.config.stash[LINES] = said = list(lines(run, session.config))
        if run.gate is not None and run.results:
            words, session.exitstatus = run.gate.ending(run.results, exit_status, run.refused)
            said += words
        elif run.cases and not any(r.measured for r in run.results) and exit_status == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.NO_TESTS_COLLECTED
    except QuantizationError as error:
        session.config.stash[LINES] = [f"quantkit: {error}"]
        session.exitstatus = ERROR


def _stopped_by_failures(session: pytest.Session) -> bool:
    """Return whether `-x` or `--maxfail` ended the run: without workers that is 1, pytest-xdist makes it 2."""
    most: int = session.config.getoption("maxfail") or 0
    return 0 < most <= session.testsfailed


def done(session: pytest.Session) -> Done:
    """Return what this run has done."""
    config = session.config
    folder = workers.board(config)
    if folder is not None:
        return _by_workers(config, folder)
    cases = sum(sessions.case_of(item) is not None for item in session.items)
    out = config.stash.get(workers.LEFT_OUT, 0)
    if sessions.RUN not in config.stash:
        return Done(cases, out, refused=sessions.refused(session))
    ours = config.stash[sessions.RUN]
    return Done(
        cases,
        out,
        tuple(ours.results.values()),
        ours.run.store.path,
        ours.gate,
        sessions.refused(session),
        time.monotonic() - ours.started,
        ours.run.crew.busy_s(),
    )


def _by_workers(config: pytest.Config, folder: Path) -> Done:
    from quantkit.pipeline.board import Board
    from quantkit.pipeline.crew import union_s
    from quantkit.pipeline.store import Store
    from quantkit.pipeline.together import results
    from quantkit.records import Case

    board = Board(folder)
    selected = board.notes("selected") or [{"cases": 0, "left_out": 0, "refused": []}]
    cases, out = selected[0]["cases"], selected[0]["left_out"]
    groups = [(key, status) for note in board.notes("group") for key, status in note["results"]]
    refused = [(Case(**told), reason) for told, reason in selected[0]["refused"]]
    if not groups:
        return Done(cases, out, refused=refused)
    path = options.results(config)
    return Done(
        cases,
        out,
        tuple(results(groups, Store(path, write=False))),
        path,
        asked_for(config, path),
        refused,
        time.monotonic() - config.stash[STARTED],
        union_s((note["start"], note["stop"]) for note in board.notes("work")),
        board.notes("work", "shared", "alone", "waited", "selected"),
    )


def lines(run: Done, config: pytest.Config) -> Iterator[str]:
    """Yield what is written at the end."""
    if run.left_out:
        yield left_out(run.left_out)
    if not run.results:
        return
    from quantkit.conclude.report import table
    from quantkit.conclude.wording import state_lines
    from quantkit.environment import fingerprint

    machine = fingerprint()
    yield ""
    yield table(run.results, margin=run.gate.margin if run.gate else None)
    untimed = {r.case.target: r.context["untimed"] for r in run.results if r.context.get("untimed")}
    for target, reason in untimed.items():
        yield f"speed and memory on {target} unavailable: {reason}"
    yield from state_lines(run.results)
    yield ""
    yield f"{machine['processor']}, {machine['cores']} cores, {machine['system']}, torch {machine['versions']['torch']}"
    measured = f"{run.wall_s:.0f} s in all, {run.busy_s:.0f} s inside building and running models"
    yield measured + (
        f" (overhead {run.wall_s / run.busy_s:.2f})"
        if run.busy_s
        else ": everything was stored already (--fresh measures again)"
    )
    if run.notes:
        yield from what_ran_where(run.notes)
        asked = [f"--{name.replace('_', '-')}" for name in SAVING if config.getoption(name, None)]
        if asked:
            yield f"{asked[0]} was not served: it needs one process. The same with -n 0 takes all from the results file"
    yield f"results: {run.path}"


def left_out(count: int) -> str:
    """Return what is said of cases that cannot be timed here."""
    cases, were = ("cases", "were") if count > 1 else ("case", "was")
    how = "name their target or backend to have size and quality (-m ane, --backends coreml)"
    return f"{count} {cases} cannot be timed here and {were} left out: {how}"


def what_ran_where(notes: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Yield a line for each worker, and whether timing was alone."""
    writers = sorted({note["writer"] for note in notes}, key=lambda name: (len(name), name))
    yield f"what ran where: {len(writers)} workers"
    for writer in writers:
        yield f"  {writer}: {', '.join(_by_one([note for note in notes if note['writer'] == writer]))}"
    yield from was_alone([note for note in notes if note["kind"] in ("alone", "shared")])


def _by_one(notes: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Yield what one worker built, judged and timed, and how long it waited for others."""
    untimed = [note for note in notes if note["kind"] == "work" and note["purpose"] in UNTIMED]
    count = Counter(note["purpose"] for note in untimed)
    models = ", ".join(sorted({note["of"] for note in untimed}))
    built_and_judged = f"{count['build']} built, {count['original'] + count['evaluate']} judged"
    yield f"{built_and_judged} ({models})" if models else built_and_judged
    for note in notes:
        if note["kind"] == "alone":
            yield f"{note['what'].replace('time', 'timed', 1)} for {note['stop'] - note['start']:.1f} s"
    for kinds, why in ((("alone",), "to be alone"), (("shared", "waited"), "for timing to end")):
        waited = sum(note["start"] - note["asked"] for note in notes if note["kind"] in kinds)
        if waited >= 0.05:
            yield f"waited {waited:.1f} s {why}"


def was_alone(spans: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Yield whether any timed span overlaps another span of this run, as their own clocks say."""
    timed = [span for span in spans if span["kind"] == "alone"]
    for one in timed:
        for other in spans:
            beside_s = min(one["stop"], other["stop"]) - max(one["start"], other["start"])
            if other is not one and beside_s > 0:
                yield (
                    f"TIMING WAS NOT ALONE: {one['writer']} was to {one['what']} while {other['writer']} was to "
                    f"{other['what']}, {beside_s:.3f} s: do not trust these timings; is TMPDIR on a network disk?"
                )
                return
    if timed:
        seconds = sum(span["stop"] - span["start"] for span in timed)
        spans_said = f"{len(timed)} span{'s' * (len(timed) != 1)}"
        yield f"timing was alone: {seconds:.1f} s in {spans_said}, no other work of this run beside them"

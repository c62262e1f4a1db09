"""One run by several processes: all prepare what all need, then one at a time times a model on a target.

Every process calls `prepare` with all cases first: each artifact is built and judged by one of them, whoever comes to
it first. `group` is then called by any of them for any cases; it does not matter which: the first executes the group,
which finds everything prepared, and whoever asks for it later gets its results.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence

from quantkit.errors import CorruptFile
from quantkit.pipeline import keys
from quantkit.pipeline.arm import Arm
from quantkit.pipeline.execute import (
    Run,
    answer,
    ask,
    build,
    enter,
    execute_group,
    groups,
    stored_results,
    with_baselines,
)
from quantkit.pipeline.store import Store
from quantkit.records import Case, Result


def prepare(cases: Iterable[Case], run: Run, *, number: int = 0, of: int = 1) -> None:
    """Build and judge what the cases need and nobody else is at; return when nothing is left that nobody is at.

    Args:
        number: of this process, 0..`of` - 1: each starts with other cases.
        of: how many processes there are.
    """
    board, settings = run.crew.board, run.settings
    originals, arms = _missing(cases, run)
    units = [*originals.values(), *arms.values()]

    def one(unit: Arm) -> None:
        if unit is originals[unit.case.model]:
            if not board.claimed(keys.original_key(unit.case.model, settings)):
                ask(unit, run)
            return
        done, work = keys.evaluation_key(unit.case, settings), keys.artifact_key(unit.case, settings)
        if board.claimed(work) or board.claimed(done) or done in {note["key"] for note in board.notes("judged")}:
            return
        build(unit, run)
        if unit.ended is None:
            answer(unit, run)
        board.note("judged", key=done)

    run.crew.each([unit for i in range(of) for unit in units[(number + i) % of :: of]], one)
    run.crew.rest()  # what follows is timed: hosts that have nothing more to do give their memory back


def _missing(cases: Iterable[Case], run: Run) -> tuple[dict[str, Arm], dict[str, Arm]]:
    """Return the original of every model, and an arm for all that has to be judged, by the key of its answers."""
    originals: dict[str, Arm] = {}
    arms: dict[str, Arm] = {}
    for group in groups(cases):
        wanted = with_baselines(group)
        stored = {} if run.fresh else stored_results(wanted, run)
        for case in with_baselines([case for case in wanted if case not in stored]):
            originals.setdefault(case.model, Arm(case))
            arms.setdefault(keys.evaluation_key(case, run.settings), enter(case, run))
    return originals, arms


def group(cases: list[Case], run: Run) -> list[Result]:
    """Return the results of the cases of one model on one target, and of their baselines: executed once in a run.

    Raises:
        CorruptFile: a result that another process stored is not there any more.
    """
    board, name = run.crew.board, f"{cases[0].model} on {cases[0].target}"
    told = False

    def waiting(seconds: float) -> None:
        nonlocal told
        if not told:
            run.say(f"waiting   for {name}: another worker of this run has it")
        told = True

    asked = time.monotonic()
    with board.claim(name, waiting):
        board.note("waited", what=name, asked=asked, start=time.monotonic())
        for note in board.notes("group"):
            if note["group"] == name:
                return results(note["results"], run.store)
        found = execute_group(cases, run)
        board.note("group", group=name, results=[(result.key, result.status) for result in found])
        return found


def results(noted: Iterable[Sequence[str]], store: Store) -> list[Result]:
    """Return the newest result of each key and status that a process of this run has noted.

    Raises:
        CorruptFile: one of them is not there any more.
    """
    found = [store.find(key, status) for key, status in noted]
    if None in found:
        raise CorruptFile(f"{store.path} has lost {found.count(None)} results of this run: was it replaced meanwhile?")
    return [result for result in found if result is not None]

"""The whole story of a benchmark: build every artifact, check its answers, time all of them turn by turn, store.

The cases of one model on one target are executed together, because they are compared with each other: the baseline
and its candidates are timed in the same rounds, in a random order, each in a fresh process.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from typing import Any

from quantkit import errors
from quantkit.environment import fingerprint, revision
from quantkit.errors import QuantizationError, StorageError, Unsupported
from quantkit.pipeline import keys, result
from quantkit.pipeline.arm import Arm
from quantkit.pipeline.cache import Entry, digest, obtain
from quantkit.pipeline.crew import Crew
from quantkit.pipeline.energy import measure_energy
from quantkit.pipeline.noise import noise_floor
from quantkit.pipeline.plan import Planned, baseline_of, unsupported, untimed
from quantkit.pipeline.settings import Settings, cache_folder
from quantkit.pipeline.store import Store
from quantkit.pipeline.taint import Rounds, watched
from quantkit.records import Case, Result
from quantkit.state import snapshot

Say = Callable[[str], None]
ORIGINAL = "original in PyTorch"


@dataclass
class Run:
    """All that one invocation shares.

    Args:
        fresh: build, answer and time again what is there already.
        watch: run disturbed rounds again and say what stays disturbed; QUANTKIT_DISTURBED decides.
        noise_floor: of this machine, where `quantkit selftest noise` has measured it.
    """

    settings: Settings
    store: Store
    crew: Crew
    say: Say
    fresh: bool = False
    cache: Path = field(default_factory=cache_folder)
    renewed: set[str] = field(default_factory=set)
    watch: bool = field(default_factory=watched)
    noise_floor: float | None = field(default_factory=noise_floor)


def execute(cases: Iterable[Case], run: Run) -> list[Result]:
    """Return a result for every case and for the baselines they need; what is stored is not measured again."""
    return [found for group in groups(cases) for found in execute_group(group, run)]


def groups(cases: Iterable[Case]) -> list[list[Case]]:
    """Return the cases of each model on each target."""
    ordered = sorted(cases, key=lambda case: (case.model, case.target))
    return [list(group) for _, group in groupby(ordered, key=lambda case: (case.model, case.target))]


def execute_group(cases: list[Case], run: Run) -> list[Result]:
    """Execute the cases of one model on one target, and the baselines they need."""
    wanted = with_baselines(cases)
    stored = {} if run.fresh else stored_results(wanted, run)
    arms = {case: enter(case, run) for case in with_baselines([case for case in wanted if case not in stored])}
    original = Arm(wanted[0])

    run.crew.each([original, *arms.values()] if arms else [], lambda arm: (ask if arm is original else build)(arm, run))
    run.crew.each(going(arms), lambda arm: answer(arm, run))
    timed = [arm for arm in going(arms) if not arm.untimed]
    with run.crew.alone(f"time {original.case.model} on {original.case.target}") if timed else nullcontext():
        rounds = race(timed, run)
        measure_energy(going(arms), run)

    with run.crew.shared("compute the figures") if arms else nullcontext():
        for arm in arms.values():
            stored[arm.case] = conclude(arm, original, arms.get(baseline_of(arm.case)), run)
            run.store.add(stored[arm.case])
    run.store.drop_parts(rounds)
    return [stored[case] for case in wanted]


def store_refusals(planned: Iterable[Planned], store: Store) -> None:
    """Keep the reasons why cases cannot run: a report gives them, a gate does not pass on what ran before.

    What was measured by another machine, or with other libraries, says nothing of this one and stays as it is.
    """
    known = {found.case: found for found in store.newest()}
    for cell in planned:
        found = known.get(cell.case)
        if cell.reason and (found is None or _outdated(found, cell.reason)):
            told = fingerprint() | {"revision": revision()}
            store.add(Result(cell.case, "unsupported", cell.reason, created=_now(), fingerprint=told))


def _outdated(found: Result, reason: str) -> bool:
    if found.status == "unsupported":
        return found.reason != reason
    return found.fingerprint.get("id") == fingerprint()["id"]


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def stored_results(cases: list[Case], run: Run) -> dict[Case, Result]:
    """Return the results that need not be measured again: same key, and compared with the baseline of today."""
    found = {case: run.store.find(keys.result_key(case, run.settings)) for case in cases}
    kept = {case: result for case, result in found.items() if result is not None}
    for case in [case for case in kept if baseline_of(case) in cases and baseline_of(case) != case]:
        if kept[case].context.get("baseline_key") != keys.evaluation_key(baseline_of(case), run.settings):
            del kept[case]
    run.store.take(result.key for result in kept.values())
    return kept


def with_baselines(cases: list[Case]) -> list[Case]:
    """Return the cases and the baselines they are compared with (where the plan allows them), baselines first."""
    baselines = [baseline for baseline in map(baseline_of, cases) if not unsupported(baseline)]
    return list(dict.fromkeys([*baselines, *cases]))


def enter(case: Case, run: Run) -> Arm:
    """Return the arm of a case at the start."""
    return Arm(case, untimed=(untimed(case) or "") if run.settings.rounds else "not asked for (--rounds 0)")


def going(arms: dict[Case, Arm]) -> list[Arm]:
    """Return the arms that have not ended."""
    return [arm for arm in arms.values() if arm.ended is None]


def ask(original: Arm, run: Run) -> None:
    """Answer the evaluation items by the original network in PyTorch, or take the answers from the cache."""
    case, settings = original.case, run.settings

    def make(folder: Path) -> dict[str, Any]:
        return run.crew.call("original", case.backend, case, folder, settings, limits=settings.limits)

    original.answered = once(original, run, ORIGINAL, keys.original_key(case.model, settings), make)


def build(arm: Arm, run: Run) -> None:
    """Build the artifact in a process of its own, or take it from the cache."""
    case, settings = arm.case, run.settings

    def make(folder: Path) -> dict[str, Any]:
        return run.crew.call("build", case.backend, case, folder, settings, limits=settings.limits)

    arm.built = once(arm, run, "build", keys.artifact_key(case, settings), make)
    if arm.built and not arm.built.cached:
        run.say(f"built     {case.id} in {arm.built.facts['elapsed_s']:.1f} s")


def answer(arm: Arm, run: Run) -> None:
    """Answer the evaluation items in a process of its own, or take the answers from the cache."""
    case, settings = arm.case, run.settings
    assert arm.built is not None
    artifact = arm.built.folder

    def make(folder: Path) -> dict[str, Any]:
        return run.crew.call("evaluate", case.backend, case, artifact, folder, settings, limits=settings.limits)

    arm.answered = once(arm, run, "evaluation", keys.evaluation_key(case, settings), make)
    if arm.answered and not arm.answered.cached:
        run.say(
            f"evaluated {case.id} on {arm.answered.facts['items']} items in {arm.answered.facts['elapsed_s']:.1f} s"
        )


def once(arm: Arm, run: Run, phase: str, key: str, make: Callable[[Path], dict[str, Any]]) -> Entry | None:
    """Return what a phase makes, or None where the arm ends at it; one process of a run does it, or sees it end."""
    folder = run.cache / ("artifacts" if phase == "build" else "answers")
    with run.crew.board.claim(key):
        for note in run.crew.board.notes("ended"):
            if note["key"] == key:
                arm.ended = getattr(errors, note["error"])(note["message"])
                return None
        with noting_the_end(arm, run, phase):
            entry = obtain(folder, key, make, run.say, anew=run.fresh and not renewed(key, run))
            renew(key, run)
            return entry
        if arm.ended is not None and not run.crew.closed:
            run.crew.board.note("ended", key=key, error=type(arm.ended).__name__, message=str(arm.ended))
    return None


def renewed(key: str, run: Run) -> bool:
    """Return whether a process of this run has made the entry of a key."""
    return key in run.renewed or any(note["key"] == key for note in run.crew.board.notes("renewed"))


def renew(key: str, run: Run) -> None:
    """Note that this run has the entry of a key: --fresh makes it once."""
    if run.fresh and key not in run.renewed:
        run.renewed.add(key)
        run.crew.board.note("renewed", key=key)


def race(arms: list[Arm], run: Run) -> str:
    """Time the arms in interleaved rounds, each trial in a fresh process; a finished round survives an interruption.

    A round that the machine's state taints is run again at the end, as often as the settings allow.

    Returns the key under which finished rounds are kept until their results are stored.
    """
    key = digest(["race", [keys.result_key(arm.case, run.settings) for arm in arms], run.fresh])
    names = {arm.case.id for arm in arms}
    kept = {number: trials for number, trials in run.store.parts(key).items() if names <= set(trials)}
    order, started = random.Random(run.settings.seed), time.monotonic()
    machine = snapshot() if arms else None
    rounds = Rounds(run.settings.rounds if arms else 0, run.settings.reruns if run.watch else 0)
    for number in rounds:
        order.shuffle(arms)
        stored = kept.pop(str(number), None)
        again = rounds.add(number, stored or one_round(arms, run))
        if not stored:
            run.store.keep_part(key, str(number), rounds.trials[number])
        seconds = time.monotonic() - started
        told = f"{seconds:.0f} s" if stored is None else "kept from the run that was interrupted"
        run.say(f"timed     {arms[0].case.model}: round {number + 1}/{run.settings.rounds}, {told}")
        if again:
            run.say(f"disturbed {arms[0].case.model}: {again}")
    for arm in (arm for arm in arms if arm.ended is None):
        arm.trials = [rounds.trials[number][arm.case.id] for number in range(run.settings.rounds)]
        arm.reruns, arm.machine, arm.noise_floor = rounds.reruns, machine, run.noise_floor
    return key


def one_round(arms: list[Arm], run: Run) -> dict[str, Any]:
    """Return one trial of every arm that is still going, one after the other; the run is alone on the machine."""
    trials: dict[str, Any] = {}
    for arm in arms:
        if arm.ended is not None or arm.built is None or arm.answered is None:
            continue
        with noting_the_end(arm, run, "timing"):
            folders = (arm.built.folder, arm.answered.folder)
            trials[arm.case.id] = run.crew.call(
                "trial", arm.case.backend, arm.case, *folders, run.settings, limits=run.settings.limits
            )
    return trials


@contextmanager
def noting_the_end(arm: Arm, run: Run, phase: str) -> Iterator[None]:
    """Turn an error of one case into that arm's end; an error of the storage ends the run."""
    try:
        yield
    except StorageError:
        raise
    except QuantizationError as error:
        arm.ended = error
        word = "unsupported" if isinstance(error, Unsupported) else "failed"
        if not run.crew.closed:  # else it was ended with the run, and the run says why
            run.say(f"{word}: {arm.case.id} at its {phase}: {error}")


def conclude(arm: Arm, original: Arm, baseline: Arm | None, run: Run) -> Result:
    """Return the record of an arm, compared with the original network and, where it got as far, with its baseline."""
    reference = baseline if baseline is not None and baseline is not arm and baseline.ended is None else None
    with noting_the_end(arm, run, "conclusion"):
        arm.ended = arm.ended or original.ended
        if arm.ended is None:
            done = result.assemble(arm, original, reference, run.settings)
    if arm.ended is not None:
        done = Result(arm.case, "unsupported" if isinstance(arm.ended, Unsupported) else "failed", str(arm.ended))
    told = fingerprint() | {"revision": revision()}  # not part of its id: the same code is measured at many commits
    return replace(done, key=keys.result_key(arm.case, run.settings), created=_now(), fingerprint=told)

"""A disturbed round is run again, whole and a stated number of times; what stays disturbed is said and not judged."""

import itertools
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace

import pytest

from quantkit.conclude.compare import comparisons
from quantkit.conclude.report import table
from quantkit.conclude.wording import state_lines
from quantkit.errors import ClockStepped, InvalidSetting
from quantkit.pipeline import taint
from quantkit.pipeline.arm import Arm
from quantkit.pipeline.crew import Crew
from quantkit.pipeline.execute import Run, execute, race
from quantkit.pipeline.noise import Trial, keep
from quantkit.pipeline.settings import Settings
from quantkit.pipeline.store import Store
from quantkit.pipeline.trial import _timed
from quantkit.records import Case

BASE, CANDIDATE = Case("tiny_plane", "fp32", "grid", "cpu"), Case("tiny_plane", "int8_static", "grid", "cpu")
SETTINGS = Settings.of("fast", rounds=3, reruns=2, items=100, time_limit_s=20.0)


@pytest.fixture(autouse=True)
def watching(monkeypatch):
    monkeypatch.setenv(taint.VARIABLE, "again")


class Told:
    """Stands in for a crew: every trial is disturbed as a script tells, in the order of the calls."""

    closed = False

    def __init__(self, script, interrupted=None):
        self.script, self.calls = itertools.chain(script, itertools.repeat("")), []
        self.interrupted = interrupted  # in this call

    def call(self, purpose, backend, case, *arguments, limits):
        self.calls.append(case.id)
        if len(self.calls) == self.interrupted:
            raise KeyboardInterrupt
        reason = next(self.script)
        return {"trial": {"number": len(self.calls), "disturbed": (reason,) if reason else ()}, "elapsed_s": 0.0}


@pytest.fixture
def raced(plugins, home):
    """Run a race of baseline and candidate whose trials are disturbed by script; return crew, arms, what was said."""

    def run(script, settings=SETTINGS, interrupted=None):
        said, crew = [], Told(script, interrupted)
        entry = SimpleNamespace(folder=home)
        arms = [Arm(case, built=entry, answered=entry) for case in (BASE, CANDIDATE)]
        race(list(arms), Run(settings, Store(home / "r.db"), crew, said.append))
        return crew, arms, said

    return run


def test_the_noise_floor_of_the_machine_goes_with_its_timings(raced):
    """As `quantkit selftest noise` has kept it: effects of 4 % between equal sides."""
    _, (before, _), _ = raced([])
    for speedup in [1.04, 0.96] * 10:
        keep(Trial(0.0, "same", speedup, 20, 0, 9.0, 0.01, 1, "2026-11-22"))
    _, (after, _), _ = raced([])

    assert taint.state_of(before)["noise_floor"] is None
    assert taint.state_of(after)["noise_floor"] == pytest.approx(0.04 / 0.67449 * 2.57583, rel=1e-4)


def numbers(arm):
    return [one["trial"]["number"] for one in arm.trials]


def test_a_quiet_race_runs_each_round_once(raced):
    crew, arms, said = raced([])

    assert len(crew.calls) == 6
    assert [arm.reruns for arm in arms] == [0, 0]
    assert taint.verdict(arms[1].trials, arms[0].trials, 0) == ""
    assert not [line for line in said if line.startswith("disturbed")]


def test_a_disturbed_round_is_replaced_whole_at_the_end(raced):
    """Six trials in three rounds; the third trial is disturbed, so both of round 2 come from calls 7 and 8."""
    crew, arms, said = raced(["", "", "a neighbour"])

    assert len(crew.calls) == 8
    assert sorted(numbers(arms[0]) + numbers(arms[1])) == [1, 2, 5, 6, 7, 8]
    assert sorted((numbers(arms[0])[1], numbers(arms[1])[1])) == [7, 8]
    assert taint.verdict(arms[1].trials, arms[0].trials, arms[1].reruns) == ""
    assert [line for line in said if "a neighbour" in line] == [
        "disturbed tiny_plane: round 2 will be run again: a neighbour"
    ]


def test_what_stays_disturbed_is_kept_and_said(raced):
    """Every trial is disturbed: two rounds are run again, then all three stand with their taint."""
    crew, arms, _ = raced(["took 0.5 of a core"] * 99)

    assert len(crew.calls) == 2 * (3 + SETTINGS.reruns)
    words = "took 0.5 of a core; 3 of 3 rounds, 2 run again"
    assert taint.verdict(arms[1].trials, arms[0].trials, arms[1].reruns) == words


def test_the_better_try_is_kept(raced):
    """Round 1 has one disturbed trial, its repeat two: the first try stays."""
    settings = Settings.of("fast", rounds=2, reruns=1, items=100)
    _, arms, _ = raced(["x", "", "", "", "y", "y"], settings)

    assert sorted(numbers(arms[0]) + numbers(arms[1])) == [1, 2, 3, 4]


def test_an_interrupted_race_goes_on_and_knows_what_was_disturbed(raced):
    """Interrupted in its third round, the first disturbed: two rounds are kept, the third and the first are run."""
    with pytest.raises(KeyboardInterrupt):
        raced(["x", "", "", ""], interrupted=5)

    crew, arms, said = raced([])

    assert len(crew.calls) == 4
    assert taint.verdict(arms[1].trials, arms[0].trials, 1) == ""
    assert [line for line in said if "again" in line] == ["disturbed tiny_plane: round 1 will be run again: x"]
    assert sum("kept from the run that was interrupted" in line for line in said) == 2


def test_no_reruns_means_none(raced):
    crew, arms, _ = raced(["x"] * 99, Settings.of("fast", rounds=3, reruns=0, items=100))

    assert len(crew.calls) == 6
    assert taint.verdict(arms[0].trials, (), 0) == "x; 3 of 3 rounds"


def test_keep_takes_rounds_as_they_are(raced, monkeypatch):
    monkeypatch.setenv(taint.VARIABLE, "keep")
    crew, arms, _ = raced(["x"] * 99)

    assert len(crew.calls) == 6
    assert taint.verdict(arms[0].trials, (), 0) == ""


def test_another_word_than_again_or_keep_is_refused(monkeypatch):
    monkeypatch.setenv(taint.VARIABLE, "maybe")

    with pytest.raises(InvalidSetting, match="'again' or 'keep': got 'maybe'"):
        taint.watched()


def test_a_candidate_is_tainted_by_its_baselines_trials_too():
    """Their rounds are compared: a disturbed baseline makes a candidate's ratio wrong."""
    clean, bad = {"trial": {"disturbed": []}}, {"trial": {"disturbed": ["swap 3 MiB", "took 0.9"]}}

    assert taint.verdict([clean, clean], [clean, bad], 0) == "swap 3 MiB; took 0.9; 1 of 2 rounds"
    assert taint.verdict([clean, clean], [clean, clean], 0) == ""


def test_of_reasons_of_one_kind_one_is_said():
    trials = [{"trial": {"disturbed": [f"others took {x} of a core"]}} for x in (0.3, 0.9, 0.5)]

    assert taint.verdict(trials, (), 3) == "others took 0.9 of a core; 3 of 3 rounds, 3 run again"


def test_a_clock_that_goes_back_in_a_call_is_refused_by_name():
    """The clock reads 5 s before the call and 3 s after it."""
    readings = iter((5.0, 3.0))
    target = SimpleNamespace(name="odd", clock=lambda: next(readings), synchronize=lambda: None)

    with pytest.raises(ClockStepped, match=r"clock of target 'odd' went back by 2 s .* measure again"):
        _timed(SimpleNamespace(run=lambda fed: None), target, None)


@contextmanager
def spinning(count):
    """So many neighbours that never rest."""
    started = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in started:
            process.kill()
            process.wait()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a neighbour's time is read from /proc")
def test_a_busy_neighbour_taints_a_real_run(plugins, home):
    """Two processes spin beside the run: it is measured, kept and shown, and nothing is said of its speed."""
    timing = {"round_s": 0.3, "most_calls": 10**6}
    settings = Settings.of("fast", rounds=2, reruns=1, items=100, time_limit_s=60.0, **timing)
    said, store = [], Store(home / "results.db")
    with Crew(1) as crew:
        execute([CANDIDATE], Run(replace(settings, rounds=0), store, crew, said.append))  # builds and judges
        with spinning(2):
            results = execute([CANDIDATE], Run(settings, store, crew, said.append))

    (pair,) = comparisons(results)
    assert [result.status for result in results] == ["tainted"] * 2
    assert "other processes used" in results[1].reason
    assert "2 of 2 rounds, 1 run again" in results[1].reason
    assert results[1].latencies_s and results[1].measurements["latency"].values
    assert (pair.speed, pair.verdict != "unavailable") == ("inconclusive", True)
    assert pair.speed_reason.startswith("tainted: other processes used")
    assert "tainted: other processes used" in table(results)
    assert state_lines(results)[0].startswith("2 of 2 timed results are tainted")
    assert store.find(results[1].key) is None, "it is measured again when it is asked for again"
    assert [line for line in said if line.startswith("disturbed")]
    trial = results[1].context["state"]["trials"][0]
    assert trial["own_s"] > 0 and trial["after"]["busy_s"] > trial["before"]["busy_s"]

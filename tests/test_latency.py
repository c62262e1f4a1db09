"""The paired latency protocol: on simulated clocks exactly, on real processes for what goes wrong.

A callable with attributes `clock` and `wait` is timed by them; `Ticking` has a clock of its own, so that every figure
is known beforehand.
"""

import json
import os
import random
import shutil
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest

from quantkit import compare_latency, state
from quantkit.errors import CaseFailed, CorruptFile, InvalidSetting, StorageError
from quantkit.latency import Pace, Rule, noise, own, protocol
from quantkit.latency.side import Host, Side
from quantkit.state.noise import LEAST_FLOOR, Trial, floor_of, keep, trials

QUICK = Pace(warmup_s=0.0, turns=2, turn_s=0.004)
FEW = Rule(first=3, looks=3)


class Ticking:
    """A factory of a call that takes exactly so many seconds of a clock of its own."""

    def __init__(self, seconds, spread=0.0):
        self.seconds, self.spread, self.now = seconds, spread, 0.0

    def __call__(self):
        seconds = self.seconds * (1 + self.spread * random.Random(os.getpid()).random())  # drawn once a load

        def call():
            self.now += seconds

        call.clock = lambda: self.now
        return call


def compared(reference, candidate, spread=0.0, **options):
    sides = Ticking(reference, spread), Ticking(candidate, spread)
    return compare_latency(*sides, load=True, **({"rule": FEW, "pace": QUICK} | options))


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    """These tests are of the protocol: what else runs on the machine is of no account."""
    monkeypatch.setenv("QUANTKIT_DISTURBED", "again")
    monkeypatch.setattr(state, "disturbances", lambda *_: ())


@pytest.mark.parametrize(
    ("candidate", "verdict"), [(0.002, "slower"), (0.0005, "faster"), (0.001005, "same"), (0.00105, "slower")]
)
def test_exact_times_give_exact_verdicts(candidate, verdict):
    found = compared(0.001, candidate)

    assert found.verdict == verdict and not found.reason
    assert found.speedup.value == pytest.approx(0.001 / candidate)
    assert (found.reference_s, found.candidate_s) == pytest.approx((0.001, candidate))
    assert len(found.blocks) == FEW.first, "decided at the first look"


def test_each_block_holds_the_calls_of_its_turns_without_the_first_of_a_turn():
    block = compared(0.001, 0.002).blocks[0]

    assert [len(calls) for calls in block.seconds] == [2 * 3, 2 * 2], (
        "4 calls less 1 in a turn of 4 ms; 2 calls, all kept"
    )


def test_loads_that_differ_too_much_are_never_decided():
    found = compared(0.001, 0.001, spread=1.0)

    assert found.verdict == "inconclusive" and found.reason == "3 looks did not decide it"
    assert len(found.blocks) == FEW.schedule[-1] and found.speedup.low < 1 < found.speedup.high


def test_when_the_time_is_up_it_says_so():
    found = compared(0.001, 0.001, spread=1.0, rule=Rule(first=50), limit_s=1.0)

    assert (found.verdict, found.reason) == ("inconclusive", "the time is up")
    assert 2 <= len(found.blocks) < 50 and found.speedup.value == pytest.approx(1.0, abs=0.7)


def test_a_disturbed_block_does_not_count_and_is_measured_again(monkeypatch):
    told = iter([("others took 80 % of a core",), (), ()])
    monkeypatch.setattr(state, "disturbances", lambda *_: next(told, ()))

    found = compared(0.001, 0.002)

    assert len(found.blocks) == 4 and len(found.tainted) == 1 and found.verdict == "slower"
    assert found.tainted[0].taint == ("others took 80 % of a core",)


def test_a_busy_machine_ends_it(monkeypatch):
    monkeypatch.setattr(state, "disturbances", lambda *_: ("others took 80 % of a core",))

    found = compared(0.001, 0.002)

    assert found.verdict == "inconclusive" and found.reason.startswith("the machine is busy: 4 of 4 blocks")
    assert found.speedup is None and found.reference_s is None


def test_the_command_writes_json_of_a_machine_too_busy_to_measure(repository, monkeypatch, capsys, tmp_path):
    from quantkit.cli import main

    monkeypatch.chdir(repository)
    monkeypatch.setenv("QUANTKIT_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(state, "disturbances", lambda *_: ("others took 80 % of a core",))
    file = tmp_path / "found.json"

    assert main(["latency", "HEAD@timed_here:Call", "HEAD@timed_here:Call", "--json", str(file)]) == 3

    assert "verdict: inconclusive: the machine is busy" in capsys.readouterr().out
    assert json.loads(file.read_text())["reference_s"] is None


def test_real_callables_in_processes_of_their_own():
    here = os.getpid()

    def short():
        assert os.getpid() != here
        time.sleep(0.001)

    found = compare_latency(short, lambda: time.sleep(0.004), rule=FEW, pace=QUICK, limit_s=30)

    assert found.verdict == "slower" and found.speedup.value < 0.6


def test_what_cannot_be_pickled_is_refused_with_the_way_out():
    with pytest.raises(InvalidSetting, match=r"baseline cannot be sent .* give a factory, load=True"):
        compare_latency(threading.Lock().acquire, time.time)
    with pytest.raises(InvalidSetting, match="candidate must be callable without arguments: got int"):
        compare_latency(time.time, 3)


def raising():
    raise ValueError("no such weight")


def dying():
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize(
    ("candidate", "message"),
    [(raising, "ValueError: no such weight"), (dying, "candidate dying.* crashed while it was timed")],
)
def test_an_error_of_what_is_timed_is_one_line(candidate, message):
    with pytest.raises(CaseFailed, match=message):
        compare_latency(time.time, candidate, rule=FEW, pace=QUICK)


def test_a_factory_that_returns_no_callable_is_one_line():
    with pytest.raises(CaseFailed, match="returned int: it must return what is to be timed"):
        compare_latency(lambda: 3, lambda: 3, load=True)


def test_an_injected_slow_down_has_its_size():
    def side(name, spec):
        import cloudpickle

        blob = ("pickled factory", cloudpickle.dumps(lambda: lambda: time.sleep(0.002)))
        return Side(name, ("slow", spec, blob) if spec else blob)

    found = protocol.compare(side("as it is", 0), side("slowed", 0.5), rule=FEW, pace=Pace(turns=4), limit_s=30)

    assert 1 / found.speedup.value == pytest.approx(1.5, abs=0.1)


def test_loads_are_fresh_and_end_with_their_host(tmp_path):
    import cloudpickle

    def make():
        (tmp_path / str(os.getpid())).touch()
        return os.getpid

    side = Side("pid", ("pickled factory", cloudpickle.dumps(make)))
    with Host(side) as host:
        first, second = host.load(side), host.load(side)
        assert (len(first.time(0.0, 3, 3)), len(second.time(0.0, 1, 1))) == (3, 1)
        made = {int(path.name) for path in tmp_path.iterdir()}
        assert len(made) == 2 and not made & {host._process.pid, os.getpid()}, "each load has a process of its own"
        gone = made | {host._process.pid}
    deadline = time.monotonic() + 60
    while any(Path(f"/proc/{pid}").exists() for pid in gone) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not [pid for pid in gone if Path(f"/proc/{pid}").exists()]


def test_a_process_that_is_killed_between_two_turns_fails_the_case():
    """Not a broken pipe: the command line takes that for the end of its own reader, and for success."""
    import cloudpickle

    side = Side("sleeper", ("pickled", cloudpickle.dumps(time.time)))
    with Host(side) as host:
        load = host.load(side)
        os.killpg(host._process.pid, signal.SIGKILL)
        host._process.wait()
        with pytest.raises(CaseFailed, match="sleeper crashed while it was timed"):
            load.time(0.0, 1, 1)
        with pytest.raises(CaseFailed, match="sleeper ended before it could be loaded"):
            host.load(side)


@pytest.fixture
def repository(tmp_path):
    """Two revisions of a module; in the second it takes twice as long on a clock of its own."""
    folder = tmp_path / "code"
    folder.mkdir()
    git(folder, "init", "-b", "main")
    for seconds in ("0.001", "0.002"):
        (folder / "timed_here.py").write_text(
            "class Call:\n    now = 0.0\n    def clock(self): return self.now\n"
            f"    def __call__(self): self.now += {seconds}\n"
        )
        git(folder, "add", "-A")
        git(folder, "commit", "-m", seconds)
    return folder


def git(folder, *words):
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    subprocess.run(["git", "-C", str(folder), *identity, *words], check=True, capture_output=True)


def test_two_revisions_are_compared_each_from_its_own_files(repository):
    with own.checkout("HEAD~1", repository) as old, own.checkout("main", repository) as new:
        sides = [own.named("timed_here:Call", str(folder), name) for folder, name in ((old, "old"), (new, "new"))]
        found = protocol.compare(*sides, rule=FEW, pace=QUICK)

    assert found.verdict == "slower" and found.speedup.value == pytest.approx(0.5)
    assert not old.exists() and not list(repository.glob(".git/worktrees/*"))


def test_a_revision_that_is_not_there_is_refused(repository):
    with pytest.raises(InvalidSetting, match="revision 'nowhere'"), own.checkout("nowhere", repository):
        pass


def test_the_command_compares_factories_of_revisions(repository, monkeypatch, capsys, tmp_path):
    from quantkit.cli import main

    monkeypatch.chdir(repository)
    monkeypatch.setenv("QUANTKIT_HOME", str(tmp_path / "home"))
    words = ["latency", "HEAD~1@timed_here:Call", "HEAD@timed_here:Call", "--json", str(tmp_path / "found.json")]

    status = main(words)

    said = capsys.readouterr().out
    assert status == 1 and "verdict: slower" in said and "0.500" in said
    assert json.loads((tmp_path / "found.json").read_text())["verdict"] == "slower"


@pytest.fixture
def project(plugins, home, monkeypatch):
    """A repository with the plug-ins of the tests; in its second revision their backend takes 2 ms longer a call."""
    folder = home / "project"
    shutil.copytree(os.environ["QUANTKIT_PLUGINS"], folder / "plugins", ignore=shutil.ignore_patterns("__pycache__"))
    git(folder, "init", "-b", "main")
    git(folder, "add", "-A")
    git(folder, "commit", "-m", "fast")
    backend = folder / "plugins" / "backends" / "grid.py"
    code = backend.read_text()
    slow = code.replace(
        "    def run(self, fed):\n", "    def run(self, fed):\n        __import__('time').sleep(0.002)\n"
    )
    assert slow != code
    backend.write_text(slow)
    git(folder, "commit", "-am", "slow")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("QUANTKIT_PLUGINS", "plugins")
    return folder


def test_a_case_is_compared_as_two_revisions_build_and_run_it(project, capsys):
    from quantkit.cli import main

    words = ["latency", "HEAD~1@tiny_plane-fp32-grid-cpu", "tiny_plane-fp32-grid-cpu"]

    assert main(words) == 1
    said = capsys.readouterr().out
    assert "tiny_plane-fp32-grid-cpu against HEAD~1@tiny_plane-fp32-grid-cpu" in said and "verdict: slower" in said


def test_a_revision_that_cannot_build_a_case_is_one_line(project, capsys):
    from quantkit.cli import main

    (project / "plugins" / "backends" / "grid.py").write_text("import nowhere\n")
    git(project, "commit", "-am", "broken")
    git(project, "checkout", "HEAD~1", ".")
    (project / "quantkit").mkdir()
    (project / "quantkit" / "__init__.py").touch()
    git(project, "add", "-A")
    git(project, "commit", "-m", "another quantkit")

    assert main(["latency", "HEAD~1@tiny_plane-fp32-grid-cpu", "tiny_plane-fp32-grid-cpu"]) == 2
    broken = capsys.readouterr().err
    assert main(["latency", "HEAD@tiny_plane-fp32-grid-cpu", "tiny_plane-fp32-grid-cpu"]) == 2
    older = capsys.readouterr().err

    assert "cannot be built at HEAD~1: " in broken and "nowhere" in broken and "Traceback" not in broken
    assert "HEAD has a quantkit that does not know this comparison" in older and "module:factory" in older


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nothing", "timed_here:Call"], "a case is MODEL-METHOD-BACKEND-TARGET"),
        (["fmnist_cnn-fp31-onnxruntime-cpu", "timed_here:Call"], "no method named 'fp31'"),
        (["timed_here:Call", "timed_here:Cal", "--limit", "2"], "AttributeError"),
        (["timed_here:Call", "nowhere:make"], "ModuleNotFoundError"),
        (["timed_here:Call", "timed_here:Call", "--limit", "0"], "--limit must be a positive number"),
        (["timed_here:Call", "timed_here:Call", "--alpha", "2"], "alpha must be between 0 and 1"),
    ],
)
def test_wrong_words_are_one_line(repository, monkeypatch, capsys, words, said):
    from quantkit.cli import main

    monkeypatch.chdir(repository)

    assert main(["latency", *words]) == 2
    error = capsys.readouterr().err
    assert said in error and "Traceback" not in error


def trial(speedup, slowed=0.0, verdict="same"):
    return Trial(slowed, verdict, speedup, 20, 0, 9.0, 0.01, 2, "2026-11-22")


def test_the_floor_is_what_one_equal_comparison_in_a_hundred_exceeds():
    """Effects of ±1 %: their median is 0.67449 sigma of a normal law, the floor 2.5758 sigma."""
    found = [trial(1.01), trial(0.99)] * 10

    assert floor_of(found) == pytest.approx(0.01 / 0.67449 * 2.57583, rel=1e-4)
    assert floor_of(found[:19]) is None, "too few"
    assert floor_of([trial(1.0)] * 20) == LEAST_FLOOR
    assert floor_of([trial(0.95, slowed=0.05)] * 20) is None, "slowed sides say nothing of it"


def test_the_rule_takes_the_floor_of_this_machine(tmp_path):
    path = tmp_path / "noise.jsonl"
    assert noise.rule(path=path) == Rule()

    for _ in range(10):
        keep(trial(1.005), path)
        keep(trial(0.995), path)

    assert noise.rule(path=path).floor == pytest.approx(0.01909, rel=1e-3)
    assert noise.rule(path=path).tolerance == pytest.approx(2 * 0.01909, rel=1e-3)


def test_rates_have_exact_intervals():
    """0 of 200: the upper end is 1 - 0.025^(1/200)."""
    found = [trial(1.0)] * 200 + [trial(0.95, 0.05, "slower")] * 3 + [trial(0.97, 0.05, "inconclusive")]

    assert noise.false_alarms(found).interval == pytest.approx((0.0, 1 - 0.025 ** (1 / 200)))
    assert (noise.detected(found, 0.05).count, noise.detected(found, 0.05).of) == (3, 4)


def test_comparisons_are_kept_and_a_cut_line_is_named(tmp_path):
    path = tmp_path / "noise.jsonl"
    keep(trial(float("nan")), path)
    assert trials(path)[0].speedup != trials(path)[0].speedup

    path.write_text(path.read_text() + '{"slowed": 0.0, "verd')

    with pytest.raises(CorruptFile, match="cannot be read"):
        trials(path)


def test_a_folder_that_cannot_be_written_is_said(tmp_path):
    (tmp_path / "file").write_text("")

    with pytest.raises(StorageError, match="cannot write"):
        keep(trial(1.0), tmp_path / "file" / "noise.jsonl")


def test_the_self_test_goes_on_where_it_was_cut(tmp_path, monkeypatch):
    path, asked = tmp_path / "noise.jsonl", []
    for _ in range(3):
        keep(trial(1.0), path)
    monkeypatch.setattr(noise.subject, "layers_for", lambda threads: 4)
    monkeypatch.setattr(noise, "_one", lambda share, *_, **__: asked.append(share) or trial(0.95, share, "slower"))

    found = noise.measure([0.0, 0.05], 4, threads=2, limit_s=1, say=lambda line: None, path=path)

    assert sorted(asked) == [0.0, 0.05, 0.05, 0.05, 0.05] and len(found) == len(trials(path)) == 8
    with pytest.raises(InvalidSetting, match="at least 1 comparison"):
        noise.measure([0.0], 0, threads=2, limit_s=1, say=print, path=path)


def test_the_report_is_a_table():
    lines = noise.report([trial(1.0)] * 20 + [trial(0.95, 0.05, "slower")] * 20)

    assert "| equal: false alarms | 20 | 0 (0.0%) | 0.0% to 16.8% |" in lines[2]
    assert "| slowed by 5%: found | 20 | 20 (100.0%) | 83.2% to 100.0% |" in lines[3]
    assert lines[-1] == "noise floor: 0.50%"


def test_the_network_of_the_self_test_runs():
    pytest.importorskip("onnxruntime")
    from quantkit.latency import subject

    (y,) = subject.opened(2, 1)()

    assert y.shape == (64, 512) and (y >= 0).all() and y.any()


def test_an_artifact_is_a_side(tmp_path, monkeypatch):
    from quantkit.latency.artifact import side_of
    from quantkit.pipeline.settings import Settings
    from quantkit.records import Case

    monkeypatch.setenv("QUANTKIT_HOME", str(tmp_path))
    case = Case("fmnist_cnn", "fp32", "onnxruntime", "cpu")

    side = side_of(case, Settings(), lambda line: None)
    with Host(side) as host:
        load = host.load(side)
        seconds = load.time(0.0, 10, 10)
        load.end()

    assert len(seconds) == 10 and 0 < min(seconds) < 1 and Path(side.spec[3]).is_dir()

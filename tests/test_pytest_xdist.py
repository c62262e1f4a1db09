"""`pytest benchmarks -n 2` as a user types it: the same results, timing alone, one line where it cannot go on."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import psutil
import pytest

from quantkit.pytest_plugin import summary
from tests.xdist_stand import METHODS, TOY, Place

pytest.importorskip("xdist")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """One place for the tests that may reuse what earlier ones measured."""
    return Place(tmp_path_factory.mktemp("shared"))


@pytest.fixture
def fresh(tmp_path):
    """A place where nothing is measured yet."""
    return Place(tmp_path)


def block(text, title):
    """Return the lines of one table."""
    lines = text.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith(title))
    return [line for line in lines[start : lines.index("", start)] if "QUANTKIT_DISTURBED" not in line]


def test_two_workers_store_what_one_process_stores(place, fresh):
    """Same keys, same outcomes, same told times; the controller shows the same table and says what ran where."""
    alone = fresh.bench(*TOY, "--methods", METHODS)
    beside = place.bench(*TOY, "--methods", METHODS, "-n", "2")

    assert (alone[0], beside[0]) == (0, 0), alone[1] + beside[1]
    one, two = fresh.stored(), place.stored()
    assert one.keys() == two.keys()
    assert len(one) == 6
    for name, result in one.items():
        assert two[name].key == result.key
        assert two[name].outcomes == result.outcomes
        assert two[name].sample == result.sample
        if "simulated" in name:
            assert two[name].latencies_s == result.latencies_s
    assert block(alone[1], "tiny_plane on simulated") == block(beside[1], "tiny_plane on simulated")
    assert len(block(alone[1], "tiny_plane on cpu")) == len(block(beside[1], "tiny_plane on cpu")) >= 6
    assert "6 passed" in beside[1]
    assert "what ran where: 2 workers" in beside[1]
    assert re.search(r"timing was alone: [\d.]+ s in 2 spans, no other work of this run beside them", beside[1])
    assert sum(map(int, re.findall(r"gw\d: (\d+) built", beside[1]))) == 3
    assert "what ran where" not in alone[1]
    assert place.left() == []


def test_pytest_benchmark_says_nothing_wrong_and_what_is_not_served_is_said(place):
    file = place.folder / "out.json"
    status, text = place.bench(*TOY, "--methods", METHODS, "-n", "2", f"--benchmark-json={file}")

    assert status == 0
    assert "disabled" not in text
    assert "--benchmark-json was not served: it needs one process" in text
    assert "everything was stored already" in text
    assert place.bench(*TOY, "--methods", METHODS, "-n", "0", f"--benchmark-json={file}")[0] == 0
    assert len(json.loads(file.read_text())["benchmarks"]) == 6


@pytest.mark.parametrize("off", [["-n", "0"], ["-p", "no:xdist"]], ids=["n0", "no-xdist"])
def test_without_workers_it_is_one_process(place, off):
    status, text = place.bench(*TOY, "--methods", METHODS, *off)

    assert status == 0
    assert "6 passed" in text
    assert "what ran where" not in text


@pytest.mark.parametrize(
    "dist", ["loadgroup", *(pytest.param(name, marks=pytest.mark.slow) for name in ("load", "loadfile", "worksteal"))]
)
def test_every_way_to_distribute_tests_will_do(place, dist):
    status, text = place.bench(*TOY, "--methods", METHODS, "-n", "2", "--dist", dist)

    assert status == 0
    assert "6 passed" in text


def spans(place):
    """Return (kind, process, start, stop) of all that the toolchain itself has noted."""
    rows = [line.split() for line in place.notes.read_text().splitlines()]
    return [(kind, int(pid), int(start), int(stop)) for kind, pid, start, stop in rows]


@pytest.mark.slow
def test_no_timed_call_is_beside_another_or_beside_a_build(fresh):
    """By the toolchain's own clock, in two runs at once with two workers each; builds do meet each other."""
    toy = [*TOY, "--backends", "logged", "--methods", METHODS]
    other = Place(fresh.folder / "other")
    shared = {"TMPDIR": str(fresh.folder / "tmp"), "NOTED": str(fresh.notes), "SLOW_BUILD": "0.8"}
    runs = [fresh.start(*toy, "-n", "2", **shared), other.start(*toy, "-n", "2", **shared)]
    texts = [run.communicate(timeout=100)[0] for run in runs]
    assert [run.returncode for run in runs] == [0, 0], texts

    found = spans(fresh)
    trials = {}
    for kind, pid, start, stop in found:
        if kind == "trial":
            first, last = trials.get(pid, (start, stop))
            trials[pid] = (min(first, start), max(last, stop))
    assert len(trials) == 2 * 6 * 2  # two runs, six cases, two rounds: a process each
    beside = [
        (kind, pid)
        for kind, pid, start, stop in found
        for timed, (first, last) in trials.items()
        if pid != timed and start < last and first < stop
    ]
    assert beside == []
    builds = [span for span in found if span[0] == "build"]
    assert any(a[2] < b[3] and b[2] < a[3] for i, a in enumerate(builds) for b in builds[i + 1 :])


@pytest.mark.slow
def test_kill_9_of_the_worker_that_times_costs_one_test_and_the_rest_goes_on(fresh):
    """The killed one holds the lock: it comes free, another worker continues the rounds, all results are stored."""
    toy = [*TOY, "--backends", "logged", "--methods", METHODS, "--rounds", "4"]
    run = fresh.start(*toy, "-n", "2", SLOW_OPEN="0.15")
    room = fresh.folder / "tmp" / f"quantkit-{os.getuid()}" / "room.lock"
    end, pid = time.monotonic() + 60, 0
    while not pid:
        assert run.poll() is None and time.monotonic() < end
        words = room.read_text().split() if room.exists() else []
        pid = int(words[0]) if words[-1:] in (["cpu"], ["simulated"]) else 0
        time.sleep(0.02)
    os.kill(pid, signal.SIGKILL)
    text = run.communicate(timeout=100)[0]

    assert run.returncode == 1, text
    assert re.search(r"worker 'gw\d' crashed while running", text)
    assert "1 failed, 5 passed" in text
    assert len(fresh.stored()) == 6
    assert all(len(result.latencies_s) == 4 for result in fresh.stored().values())
    assert "timing was alone" in text
    assert fresh.left() == []


@pytest.mark.slow
def test_ctrl_c_ends_all_and_what_is_finished_is_kept(fresh):
    """One group is stored, the second is being timed; SIGINT to all, as a terminal sends it."""
    toy = [*TOY, "--backends", "logged", "--methods", METHODS, "--rounds", "6"]
    run = fresh.start(*toy, "-n", "2", SLOW_OPEN="0.25")
    end = time.monotonic() + 60
    while len(fresh.stored() if fresh.results.exists() else ()) < 3:
        assert run.poll() is None and time.monotonic() < end
        time.sleep(0.05)
    family = [run, *psutil.Process(run.pid).children(recursive=True)]
    os.killpg(run.pid, signal.SIGINT)
    text = run.communicate(timeout=60)[0]

    assert run.returncode == 2, text
    assert "KeyboardInterrupt" in text
    assert len(fresh.stored()) >= 3
    assert "what ran where" in text
    time.sleep(0.5)
    assert not [p for p in family[1:] if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]
    assert fresh.left() == []
    status, text = fresh.bench(*toy, "-n", "2")
    assert status == 0
    assert "0 built" in text
    assert not re.search(r"[1-9]\d* built", text)


def test_timing_that_was_not_alone_is_said():
    """A build from 1.5 s to 3 s beside a race from 0 s to 2 s: half a second; one that begins at its end is not."""
    race = {"kind": "alone", "writer": "gw0", "what": "time tiny on cpu", "start": 0.0, "stop": 2.0}
    build = {"kind": "shared", "writer": "gw1", "what": "build and judge", "start": 1.5, "stop": 3.0}

    (said,) = summary.was_alone([race, build])

    assert said.startswith(
        "TIMING WAS NOT ALONE: gw0 was to time tiny on cpu while gw1 was to build and judge, 0.500 s"
    )
    assert list(summary.was_alone([race, build | {"start": 2.0}])) == [
        "timing was alone: 2.0 s in 1 span, no other work of this run beside them"
    ]
    assert list(summary.was_alone([build, build])) == []


def test_a_gate_fails_as_without_workers(place):
    """Two bits lose more than a point; 2,000 items prove it."""
    method = place.folder / "plugins" / "methods"
    method.mkdir(parents=True, exist_ok=True)
    (method / "two_bits.py").write_text(
        "from quantkit.methods._uniform import Uniform\nfrom quantkit.scheme import Scheme\n"
        "plugin = Uniform('two_bits', 'two bits', Scheme(bits=2))\n"
    )
    toy = [*TOY, "--targets", "simulated", "--items", "2000", "--methods", "fp32,two_bits", "--gate", "0.01"]
    status, text = place.bench(*toy, "-n", "2")

    assert status == 1
    assert "gate: tiny_plane-two_bits-grid-simulated" in text
    assert "gate: regression" in text.splitlines()
    assert "1 failed, 1 passed" in text


def test_a_case_that_crashes_fails_alone(place):
    toy = [*TOY, "--targets", "simulated", "--methods", "fp32,breaking", "-n", "2"]
    status, text = place.bench(*toy, TINY_BREAKS="abort")

    assert status == 1
    assert "1 failed, 1 passed" in text
    assert text.count("failed: tiny_plane-breaking-grid-simulated at its build") == 1
    assert place.bench(*toy, "-x", TINY_BREAKS="abort")[0] == 1  # as without workers


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["--methods", "int8_statik"], 4, "no method named 'int8_statik'. Did you mean 'int8_static'?"),
        (["--methods", "fp32", "--items", "0"], 4, "--items must be at least 1: got 0"),
        (["--methods", "fp32", "--gate", "nowhere.db"], 2, "no baseline at nowhere.db"),
        (["--methods", "fp32", "--results", "benchmarks"], 2, "benchmarks"),
        (["--models", "fmnist_cnn"], 5, ""),
    ],
    ids=["name", "items", "gate", "results", "nothing"],
)
def test_what_cannot_be_run_is_said_once_not_by_each_worker(place, arguments, status, message):
    found, text = place.bench(*TOY, *arguments, "-n", "2")

    assert found == status, text
    assert "Traceback" not in text
    assert "INTERNALERROR" not in text
    lines = [line for line in text.splitlines() if message in line and "quantkit: " in line]
    assert len(lines) == (1 if message else 0)
    assert place.left() == []


def test_other_suites_do_not_notice_the_plugin(tmp_path):
    (tmp_path / "test_other.py").write_text(
        "import sys\n\ndef test_one():\n    assert 'torch' not in sys.modules\n\ntest_two = test_one\n"
    )
    (tmp_path / "tmp").mkdir()
    command = [sys.executable, "-m", "pytest", "-q", "-n", "2", "-p", "no:cacheprovider", "."]
    done = subprocess.run(
        command, cwd=tmp_path, env=os.environ | {"TMPDIR": str(tmp_path / "tmp")}, capture_output=True, text=True
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert "quantkit" not in done.stdout + done.stderr
    assert not list((tmp_path / "tmp").glob("quantkit-*"))
    assert not (tmp_path / ".quantkit").exists()

"""Memory: hand-made /proc files, allocations of known size in real processes, and exact figures on a told target."""

import json
import os
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from quantkit.catalog import METRICS, TARGETS
from quantkit.contracts import Trial
from quantkit.errors import CaseFailed
from quantkit.pipeline.crew import Crew
from quantkit.pipeline.execute import Run, execute
from quantkit.pipeline.family import descendants, held_bytes
from quantkit.pipeline.isolate import Limits, Workshop
from quantkit.pipeline.settings import Settings
from quantkit.pipeline.store import Store
from quantkit.records import Case
from quantkit.state import Memory, driver_bytes, memory, reset_peak
from quantkit.state.memory import _linux

MIB = 2**20
ROLLUP = """55b4f0c76000-7ffd9e2b5000 ---p 00000000 00:00 0                          [rollup]
Rss:                2000 kB
Pss:                 700 kB
Shared_Clean:       1400 kB
Shared_Dirty:        100 kB
Private_Clean:        40 kB
Private_Dirty:       460 kB
Private_Hugetlb:       0 kB
Swap:                  0 kB
"""
STATUS = "Name:\tpython\nVmHWM:\t    2900 kB\nVmRSS:\t    2000 kB\nThreads:\t3\n"
linux_only = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")


@linux_only
def test_own_memory_is_the_private_pages_and_its_peak_adds_what_is_gone(tmp_path):
    """USS 40 + 460 kB; 2900 - 2000 kB were held once and are gone: own peak 1400 kB."""
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/smaps_rollup").write_text(ROLLUP)
    (tmp_path / "proc/self/status").write_text(STATUS)

    assert _linux(tmp_path) == {
        "own_bytes": 500 * 1024, "own_peak_bytes": 1400 * 1024, "proportional_bytes": 700 * 1024,
        "resident_bytes": 2000 * 1024, "resident_peak_bytes": 2900 * 1024,
    }  # fmt: skip


@linux_only
def test_a_system_that_tells_nothing_gives_none(tmp_path):
    assert Memory.from_dict(_linux(tmp_path)) == Memory()
    assert reset_peak(tmp_path) is False


def fresh(job):
    """Return what a job gives in a fork of a host that holds 64 MiB; the job is a function of this file."""
    with Workshop([f"{__name__}"]) as shop:
        return shop.call(f"{__name__}:{job}", limits=Limits(30, 2**32))


HOST = os.urandom(64 * MIB) if Path(sys.argv[0]).name == "host.py" else b""  # held by the host that jobs fork from


def holding():
    """In the fork: what is held before, while, and after holding 48 MiB, and after dropping 16 of them."""
    reset_peak()
    states = [memory()]
    big, small = os.urandom(32 * MIB), os.urandom(16 * MIB)
    states.append(memory())
    del small
    states.append(memory())
    return len(HOST), len(big), [state.as_dict() for state in states]


@linux_only
def test_an_allocation_shows_and_the_hosts_pages_do_not():
    """48 MiB held, 16 dropped: own memory grows by 48, then 32, its peak stays at 48, each within 3 %.

    The independent check is the size that was asked for; the host's 64 MiB are in the resident set, not in the own one.
    """
    host, _, states = fresh("holding")
    before, full, after = (Memory(**state) for state in states)

    assert host == 64 * MIB
    assert before.own_bytes < 16 * MIB < 64 * MIB < before.resident_bytes
    assert full.own_bytes - before.own_bytes == pytest.approx(48 * MIB, rel=0.03)
    assert after.own_bytes - before.own_bytes == pytest.approx(32 * MIB, rel=0.03)
    assert after.own_peak_bytes - before.own_bytes == pytest.approx(48 * MIB, rel=0.03)


def earlier_peak():
    os.urandom(64 * MIB)
    leaked = memory().own_peak_bytes
    reset_peak()
    return leaked, memory().own_peak_bytes


@linux_only
def test_an_earlier_peak_does_not_leak_in():
    leaked, clean = fresh("earlier_peak")

    assert leaked - clean == pytest.approx(64 * MIB, rel=0.03)


def trial(idle=None, loaded=None, steady=None, **changes):
    held = {"idle": idle or {}, "loaded": loaded or {}, "steady": steady or {}}
    return Trial(0.0, 0.0, 0.0, (0.1,), changes.get("peak", 900), changes.get("idle_peak", 400), memory=held)


def measured(*trials):
    observation = SimpleNamespace(trials=trials, untimed="")
    return {one.metric: one for one in METRICS.get("memory").measure(observation)}


def test_the_metrics_are_what_the_model_added():
    """Idle 100, 160 after the load, 150 at the end, at most 190: it added 60 at the load, 50 to stay, 90 at most."""
    found = measured(
        trial({"own_bytes": 100}, {"own_bytes": 160, "own_peak_bytes": 190}, {"own_bytes": 150, "own_peak_bytes": 170})
    )

    assert {name: one.values for name, one in found.items() if one.values} == {
        "peak_memory": (900.0,), "model_memory": (90.0,), "load_memory": (60.0,), "steady_memory": (50.0,),
    }  # fmt: skip
    assert "no memory of its own" in found["driver_memory"].reason


def test_a_system_without_own_memory_falls_back_for_the_peak_and_says_why_for_the_rest():
    found = measured(trial())

    assert found["model_memory"].values == (500.0,)
    assert "smaps_rollup" in found["load_memory"].reason
    assert "smaps_rollup" in found["steady_memory"].reason


def test_driver_memory_is_the_larger_of_load_and_end():
    found = measured(trial({"driver_bytes": None}, {"driver_bytes": 70}, {"driver_bytes": 50}))

    assert found["driver_memory"].values == (70.0,)


def test_told_memory_gives_exact_figures(plugins, home, monkeypatch):
    held = {"loaded": 200, "steady": 250, "driver": 64}
    script = {"*": {"latency_s": [0.001], "memory_bytes": 300, "held_bytes": held}}
    monkeypatch.setenv("QUANTKIT_SIMULATED", json.dumps(script))
    with Crew(1) as crew:
        run = Run(Settings.of("fast", rounds=2, items=50), Store(home / "r.db"), crew, lambda line: None)
        found = execute([Case("tiny_plane", "fp32", "grid", "simulated")], run)[0].measurements

    assert found["peak_memory"].values == found["model_memory"].values == (300.0, 300.0)
    assert found["load_memory"].values == (200.0, 200.0)
    assert found["steady_memory"].values == (250.0, 250.0)
    assert found["driver_memory"].values == (64.0, 64.0)


def test_frameworks_that_are_loaded_are_asked_for_their_drivers_memory(monkeypatch):
    """FIXTURES in the shape of the documented functions: 5 of MLX, 7 of Metal in PyTorch, 2 + 3 of two CUDA devices."""
    Fake = SimpleNamespace

    def torch(metal, cuda):
        return Fake(
            backends=Fake(mps=Fake(is_available=lambda: metal)),
            mps=Fake(driver_allocated_memory=lambda: 7),
            cuda=Fake(
                is_available=lambda: cuda, is_initialized=lambda: cuda, device_count=lambda: 2,
                max_memory_allocated=lambda device: 2 + device,
            ),
        )  # fmt: skip

    monkeypatch.delitem(sys.modules, "mlx.core", raising=False)
    monkeypatch.setitem(sys.modules, "torch", torch(False, False))
    assert driver_bytes() is None
    monkeypatch.setitem(sys.modules, "torch", torch(False, True))
    assert driver_bytes() == 5
    monkeypatch.setitem(sys.modules, "torch", torch(True, False))
    monkeypatch.setitem(sys.modules, "mlx.core", Fake(get_peak_memory=lambda: 5))
    assert driver_bytes() == 12
    assert TARGETS.get("mps").memory().driver_bytes == 12
    assert TARGETS.get("ane").memory().driver_bytes is None, "Core ML's own memory is in the footprint"


def children_that_hold():
    """In the job: three children of 48 MiB each, then wait to be killed."""
    for _ in range(3):
        if os.fork() == 0:
            hoard = os.urandom(48 * MIB)
            time.sleep(60)
            os._exit(len(hoard) % 2)
    time.sleep(60)


@linux_only
def test_the_memory_limit_counts_what_a_job_has_started():
    """3 times 48 MiB are above 128 MiB together; no process is above it alone."""
    with Workshop([]) as shop, pytest.raises(CaseFailed, match=r"killed at 0\.\d+ GiB: the memory limit is 0\.125 GiB"):
        shop.call(f"{__name__}:children_that_hold", limits=Limits(30, 128 * MIB))


@linux_only
def test_pages_that_forks_share_are_counted_once():
    """A parent of 64 MiB and two forks that write nothing hold 64 MiB together, not 192."""
    hoard = os.urandom(64 * MIB)
    children = [sleeping_fork(), sleeping_fork()]
    try:
        found = set(descendants(os.getpid()))
        together = held_bytes(os.getpid(), limit=0)
    finally:
        for pid in children:
            os.kill(pid, 9)
            os.waitpid(pid, 0)

    assert set(children) <= found
    assert len(hoard) < together < memory().resident_bytes + len(hoard)
    assert held_bytes(children[0], limit=0) == 0, "an ended process holds nothing"


def sleeping_fork():
    pid = os.fork()
    if pid == 0:
        time.sleep(60)
        os._exit(0)
    return pid

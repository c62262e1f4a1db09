"""The machine's state: what /proc and /sys say, in hand-made files of their documented shape, and what taints."""

import os
import subprocess
import sys
import time
from dataclasses import replace

import pytest

from quantkit.errors import ClockStepped
from quantkit.state import Limits, Snapshot, conditions, disturbances, linux, own_processor_s, snapshot

TICKS = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")
QUIET = Snapshot(100.0, 1e9, busy_s=50.0, stolen_s=1.0, cores=2, tick_s=0.01, swap_in_bytes=0, swap_out_bytes=0)
linux_only = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")


def later(seconds=1.0, *, busy=0.0, stolen=0.0, step=0.0, **changes):
    """The state so many seconds after QUIET, with so much work done meanwhile."""
    moved = {"monotonic_s": 100.0 + seconds, "wall_s": 1e9 + seconds + step, "busy_s": 50.0 + busy}
    return replace(QUIET, **moved, stolen_s=1.0 + stolen, **changes)


def write(root, path, text):
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


@linux_only
def test_only_the_allowed_cores_count(tmp_path):
    """Busy is user + nice + system + irq + softirq; guests are part of user; idle, iowait and steal are not work."""
    lines = ["cpu  99 99 99 99 99 99 99 99 99 99", "cpu0 100 20 30 9000 700 4 6 50 11 0", "cpu1 1 1 1 1 1 1 1 1 1 1"]
    write(tmp_path, "proc/stat", "\n".join([*lines, "cpu3 1000 0 0 0 0 0 0 0 0 0", "intr 5"]))

    told = linux.processors(tmp_path, [0, 3])

    assert told["cores"] == 2
    assert told["busy_s"] == pytest.approx((160 + 1000) / TICKS)
    assert told["stolen_s"] == pytest.approx(50 / TICKS)


@linux_only
@pytest.mark.parametrize("text", ["", "cpu 1 2 3\n", "cpu0 1 2 3 4\n", "nonsense"], ids=["empty", "sum", "short", "no"])
def test_a_stat_file_without_the_cores_says_nothing(tmp_path, text):
    write(tmp_path, "proc/stat", text)

    assert linux.processors(tmp_path, [0]) == {}


@linux_only
def test_what_is_not_there_is_none_and_never_zero(tmp_path):
    """An empty root: no /proc/stat, no vmstat, no throttle counts, no firmware profile."""
    told = linux.read(tmp_path)

    assert {name for name, value in told.items() if value is not None} <= {"affinity", "frequency_hz", "power_source"}
    assert "swap_in_bytes" not in told and told["throttles"] is None and told["low_power"] is None


@linux_only
def test_swap_counts_pages_and_used_is_total_less_free(tmp_path):
    write(tmp_path, "proc/vmstat", "nr_free_pages 12\npswpin 3\npswpout 5\n")
    write(tmp_path, "proc/meminfo", "MemTotal:  100 kB\nSwapTotal:   2000 kB\nSwapFree:   1500 kB\n")

    assert linux.swap(tmp_path) == {
        "swap_in_bytes": 3 * PAGE, "swap_out_bytes": 5 * PAGE, "swap_used_bytes": 500 * 1024,
    }  # fmt: skip


def test_throttle_counts_of_cores_and_packages_are_added(tmp_path):
    for number, (core, package) in enumerate([(2, 7), (0, 7)]):
        folder = f"sys/devices/system/cpu/cpu{number}/thermal_throttle"
        write(tmp_path, f"{folder}/core_throttle_count", f"{core}\n")
        write(tmp_path, f"{folder}/package_throttle_count", f"{package}\n")

    assert linux.throttles(tmp_path) == 2 + 0 + 7 + 7


@pytest.mark.parametrize(("profile", "low"), [("low-power\n", True), ("balanced\n", False), ("performance\n", False)])
def test_the_firmwares_profile_tells_the_low_power_mode(tmp_path, profile, low):
    write(tmp_path, "sys/firmware/acpi/platform_profile", profile)

    assert linux.low_power(tmp_path) is low


def test_a_snapshot_survives_json():
    full = replace(QUIET, affinity=(0, 2), threads={"OMP_NUM_THREADS": "4"}, power_source="battery", throttles=0)

    assert Snapshot.from_json(full.to_json()) == full
    assert Snapshot.from_json(snapshot().to_json()).monotonic_s <= time.monotonic()
    assert "load" not in QUIET.as_dict(), "what is not known is left out"


@pytest.mark.parametrize(
    ("text", "message"),
    [("[1]", "got list"), ("{}", "no clocks"), ('{"monotonic_s": 1, "wall_s": 1, "mood": 3}', "mood")],
)
def test_what_is_no_snapshot_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        Snapshot.from_json(text)


def test_the_environment_of_threads_is_recorded(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")

    assert snapshot(slow=False).threads["OMP_NUM_THREADS"] == "3"


@pytest.mark.parametrize(
    ("busy", "own", "tainted"),
    [(1.0, 1.0, False), (1.27, 1.0, False), (1.28, 1.0, True), (2.0, 1.0, True), (0.2, 0.25, False), (9, None, False)],
    ids=["alone", "at the limit", "above it", "a spinning neighbour", "counted late", "own unknown"],
)
def test_work_of_others_taints_above_a_quarter_of_a_core(busy, own, tainted):
    """One second, two cores: 0.25 s and two ticks of 0.01 s are allowed, 0.27 s in all."""
    reasons = disturbances(QUIET, later(busy=busy + 1e-9 * tainted - 1e-9), own)

    assert [reason.startswith("other processes used") for reason in reasons] == [True] * tainted


def test_many_cores_have_more_room_for_others():
    """A twentieth of 64 cores is 3.2 cores: 3 cores of others are fine, 4 are not."""
    many = {"cores": 64}

    assert not disturbances(QUIET, later(busy=3.0, **many), 0.0)
    assert disturbances(QUIET, later(busy=4.0, **many), 0.0) == (
        "other processes used 4.00 cores (limit 3.20)",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "start"),
    [
        ({"stolen": 0.5}, "the hypervisor took 0.50 cores (limit 0.10)"),
        ({"swap_in_bytes": 3 * 2**19, "swap_out_bytes": 2**20}, "2.5 MiB were swapped (limit 1.0 MiB)"),
        ({"step": -0.5}, "the wall clock stepped 0.500 s back"),
        ({"step": 3600.0}, "the wall clock stepped 3600.000 s ahead"),
        ({"thermal_pressure": "serious"}, "thermal pressure is serious (limit fair)"),
        ({"speed_limit": 0.62}, "the system limits the processor to 62 % of its speed"),
    ],
    ids=lambda value: "" if isinstance(value, str) else next(iter(value)),
)
def test_each_disturbance_has_a_line_with_figure_and_limit(changes, start):
    (reason,) = disturbances(QUIET, later(**changes), 0.0)

    assert reason.startswith(start)
    assert "\n" not in reason


@pytest.mark.parametrize(
    ("name", "one", "other", "words"),
    [
        ("power_source", "mains", "battery", "changed from mains to battery"),
        ("low_power", False, True, "switched on"),
        ("low_power", True, False, "switched off"),
        ("throttles", 4, 6, "slowed itself down 2 times"),
        ("swap_used_bytes", 0, 2**21, "2.0 MiB were swapped"),
    ],
)
def test_what_changes_in_between_taints_and_what_is_unknown_does_not(name, one, other, words):
    counters = {"swap_in_bytes": None, "swap_out_bytes": None}
    before, after = replace(QUIET, **counters, **{name: one}), later(**counters, **{name: other})

    assert words in " ".join(disturbances(before, after, 0.0))
    assert not disturbances(replace(before, **{name: None}), after, 0.0)
    assert not disturbances(before, replace(after, **{name: one}), 0.0)


def test_what_holds_all_the_time_is_a_condition_and_no_disturbance():
    held = {"power_source": "battery", "low_power": True, "thermal_pressure": "fair", "nice": 10, "qos": "background"}

    assert not disturbances(replace(QUIET, **held), later(**held), 0.0)
    assert conditions(replace(QUIET, **held)) == (
        "on battery power", "low-power mode", "thermal pressure fair", "quality of service background", "niceness 10",
    )  # fmt: skip
    assert conditions(QUIET) == ()


def test_a_slewed_clock_is_none_that_stepped():
    """Time servers slew by 500 parts in a million: 0.3 s in ten minutes, within 0.02 s + 0.001 of 600 s."""
    assert not disturbances(QUIET, later(600.0, step=0.3), 0.0)
    assert disturbances(QUIET, later(600.0, step=0.7), 0.0)


def test_a_monotonic_clock_that_goes_back_is_refused_by_name():
    with pytest.raises(ClockStepped, match=r"went back by 2\.000000 s .* measure again"):
        disturbances(QUIET, later(-2.0), 0.0)


def test_limits_can_be_others():
    assert not disturbances(QUIET, later(busy=1.0), 0.0, Limits(others_cores=1.5))
    assert disturbances(QUIET, later(busy=0.05), 0.0, Limits(others_cores=0.01, others_share=0.0))


def test_own_processor_seconds_count_every_thread_and_ended_children():
    """A child that burns 0.2 s of processor time and ends adds about as much, whatever else the machine does."""
    burn = "import time\nwhile time.process_time() < 0.2: pass"
    before = own_processor_s()

    subprocess.run([sys.executable, "-c", burn], check=True)

    assert 0.19 <= own_processor_s() - before < 2


@linux_only
def test_a_spinning_neighbour_taints_live():
    """The neighbour has a core, or half of ours, for half a second; a quiet machine is not presumed."""
    neighbour = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        end = time.monotonic() + 10
        while sum(neighbour_times(neighbour.pid)) < 0.05 and time.monotonic() < end:
            time.sleep(0.02)
        before, own = snapshot(slow=False), own_processor_s()
        time.sleep(0.5)
        reasons = disturbances(before, snapshot(slow=False), own_processor_s() - own)
    finally:
        neighbour.kill()
        neighbour.wait()

    assert any("other processes used" in reason for reason in reasons)


def neighbour_times(pid):
    import psutil

    return psutil.Process(pid).cpu_times()[:2]

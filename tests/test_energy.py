"""Energy: the procedure on a told meter with values worked out by hand, the counters on fixtures in their own shape."""

import json
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import stats

from quantkit.conclude.report import table
from quantkit.contracts import BuildReport, Observation
from quantkit.energy import meter, procedure
from quantkit.energy.apple import Apple
from quantkit.energy.nvml import Nvml
from quantkit.energy.procedure import Effort, Stand
from quantkit.energy.rapl import Rapl
from quantkit.energy.simulated import SimulatedMeter
from quantkit.errors import Unsupported
from quantkit.metrics.energy import plugin as metric
from quantkit.pipeline import energy as pipeline_energy
from quantkit.pipeline import keys
from quantkit.pipeline.crew import Crew
from quantkit.pipeline.execute import Run, execute
from quantkit.pipeline.settings import Settings
from quantkit.pipeline.store import Store
from quantkit.records import Case
from quantkit.stats.mean import mean_interval
from quantkit.targets.simulated import Simulated


class Told:
    """A clock that only moves when told, a call that takes 10 ms of it, and a meter over both."""

    def __init__(self, idle_w, active_w, **meter_settings):
        self.now, self.busy_s = 0.0, 0.0
        self.meter = SimulatedMeter(lambda: self.now, lambda: self.busy_s, idle_w, active_w, **meter_settings)

    def wait(self, seconds):
        self.now += seconds

    def work(self, count):
        self.now += 0.010 * count
        self.busy_s += 0.010 * count

    def measure(self, **effort):
        return procedure.measure(self.work, Stand(self.meter, lambda: self.now, self.wait, Effort(**effort)))


def test_idle_is_taken_off():
    """2 W idle, 5 W more at work, 10 ms a call: 5 W x 0.010 s = 0.05 J, whatever the idle power is."""
    found = Told({"cpu": 2.0}, {"cpu": 5.0}).measure()

    assert found.joules["total"] == pytest.approx([0.05] * 5, rel=1e-3)
    assert found.joules["cpu"] == pytest.approx([0.05] * 5, rel=1e-3)
    assert found.idle_w == pytest.approx((2.0, 2.0), rel=1e-3)
    assert found.active_w == pytest.approx([5.0] * 5, rel=1e-3)


def test_parts_are_told_apart_and_add_up():
    """1 W + 3 W at work for 10 ms: 0.01 J and 0.03 J, 0.04 J together."""
    found = Told({"cpu": 2.0, "ane": 0.5}, {"cpu": 1.0, "ane": 3.0}).measure()

    assert np.mean(found.joules["cpu"]) == pytest.approx(0.01, rel=2e-3)
    assert np.mean(found.joules["ane"]) == pytest.approx(0.03, rel=2e-3)
    assert np.mean(found.joules["total"]) == pytest.approx(0.04, rel=2e-3)


@pytest.mark.parametrize("resolution", [1e-3, 1e-1, 1.0])
def test_work_is_repeated_until_the_counters_step_is_below_1_percent(resolution):
    """A step of 1 J: at least 100 J above idle, 2,000 calls of 0.05 J; idle of 2 W adds its own step over 1 s."""
    told = Told({"cpu": 2.0}, {"cpu": 5.0}, resolution=resolution)
    found = told.measure(idle_s=100.0, most_s=1e4)

    assert min(found.inferences) * 0.05 >= 100 * resolution * 0.99
    assert found.joules["total"] == pytest.approx([0.05] * 5, rel=0.02)


def test_windows_last_a_hundred_updates_of_a_slow_counter():
    """A counter brought up to date every 0.2 s: each window lasts 20 s or more, 2,000 calls of 10 ms."""
    told = Told({"gpu": 50.0}, {"gpu": 100.0})
    told.meter.clock, told.meter.busy = lambda: told.now // 0.2 * 0.2, Slow(told)

    found = told.measure()

    assert found.period_s == pytest.approx(0.2, abs=0.001)
    assert min(found.inferences) >= 1_990
    assert found.joules["total"] == pytest.approx([1.0] * 5, rel=0.02)


class Slow:
    """Busy seconds as a counter sees them that looks five times a second."""

    def __init__(self, told):
        self.told, self.tick, self.seen = told, -1, 0.0

    def __call__(self):
        if self.told.now // 0.2 != self.tick:
            self.tick, self.seen = self.told.now // 0.2, self.told.busy_s
        return self.seen


def test_a_counter_that_stands_still_is_no_zero():
    with pytest.raises(Unsupported, match=r"did not move within 2 s: it counts nothing here"):
        Told({"package": 0.0}, {"package": 0.0}).measure()


def test_a_part_that_reads_zero_is_unavailable():
    found = Told({"cpu": 2.0, "ane": 0.0}, {"cpu": 5.0}).measure()

    assert "ane" not in found.joules
    assert found.reasons["ane"].startswith("simulated read 0 J all the time")


def test_a_part_that_uses_no_more_than_at_rest_is_unavailable():
    found = Told({"cpu": 2.0, "dram": 0.3}, {"cpu": 5.0}).measure()

    assert "above idle in a window: too little for a counter of steps" in found.reasons["dram"]


def test_work_too_small_for_the_counter_is_given_up():
    """1 mW of work against a step of 10 J needs 1,000 J, 11 days."""
    with pytest.raises(Unsupported, match=r"inferences in 60 s used too little above idle.*steps of 10 J"):
        Told({"cpu": 20.0}, {"cpu": 1e-3}, resolution=10.0).measure(idle_s=10.0)


class Drifting:
    """2 W idle until the first work, 4 W from then on; work takes 5 W more and 10 ms a call."""

    name, total, resolution = "drifting", ("cpu",), 1e-6

    def __init__(self):
        self.now, self.joules, self.idle_w = 0.0, 0.0, 2.0

    def counters(self):
        return {"cpu": self.joules}

    def wait(self, seconds):
        self.now, self.joules = self.now + seconds, self.joules + self.idle_w * seconds

    def work(self, count):
        self.idle_w = 4.0
        self.now, self.joules = self.now + 0.010 * count, self.joules + 9.0 * 0.010 * count


def test_idle_power_that_moves_meanwhile_is_said():
    """Idle is taken as (2 + 4) / 2 = 3 W, so the work's own is 6 W: idle moved by 2 W, more than a fifth of that."""
    told = Drifting()

    with pytest.raises(
        Unsupported, match=r"2 W before and 4 W after, the work's own is 6 W: let the machine come to rest"
    ):
        procedure.measure(told.work, Stand(told, lambda: told.now, told.wait))


def test_a_counter_that_falls_is_refused():
    told = Told({"cpu": 2.0}, {"cpu": 5.0})
    reads = iter([{"cpu": float(i)} for i in range(30)] + [{"cpu": 3.0}] * 9)
    told.meter.counters = lambda: next(reads)

    with pytest.raises(Unsupported, match="fell or vanished"):
        told.measure()


def test_the_interval_of_a_mean_is_students():
    """Against SciPy's own t-test interval."""
    values = np.random.default_rng(0).normal(3.0, 0.2, 5)
    found, other = mean_interval(values), stats.ttest_1samp(values, 0.0).confidence_interval(0.95)

    assert (found.low, found.high) == pytest.approx((other.low, other.high))


def powercap(root: Path, zones: dict[str, tuple[str, int]], limit: int = 262_143_328_850) -> Path:
    """Write files as Documentation/power/powercap/powercap.rst shows them."""
    for folder, (name, energy) in zones.items():
        place = root / folder
        place.mkdir(parents=True, exist_ok=True)
        (place / "name").write_text(f"{name}\n")
        (place / "energy_uj").write_text(f"{energy}\n")
        (place / "max_energy_range_uj").write_text(f"{limit}\n")
    return root


SERVER = {
    "intel-rapl:0": ("package-0", 5_000_000),
    "intel-rapl:0:0": ("core", 1_000_000),
    "intel-rapl:0:1": ("dram", 700_000),
    "intel-rapl:1": ("package-1", 3_000_000),
    "intel-rapl:1:0": ("dram", 300_000),
    "intel-rapl:2": ("psys", 99_000_000),
    "intel-rapl-mmio:0": ("package-0", 5_000_000),
}


def test_rapl_adds_up_packages_and_counts_nothing_twice(tmp_path):
    """5 + 3 J of packages, 0.7 + 0.3 J of memory; the platform and the second view of package 0 are left out."""
    found = Rapl(powercap(tmp_path, SERVER))

    assert found.counters() == pytest.approx({"package": 8.0, "cpu": 1.0, "dram": 1.0})
    assert found.total == ("package", "dram")


def test_rapl_goes_on_when_a_counter_starts_again(tmp_path):
    """From 262,143,000,000 to 500,000 µJ with range 262,143,328,850: 328,850 + 500,000 µJ = 0.82885 J."""
    found = Rapl(powercap(tmp_path, {"intel-rapl:0": ("package-0", 262_143_000_000)}))
    before = found.counters()["package"]
    powercap(tmp_path, {"intel-rapl:0": ("package-0", 500_000)})
    once = found.counters()["package"] - before
    powercap(tmp_path, {"intel-rapl:0": ("package-0", 400_000)})
    twice = found.counters()["package"] - before

    assert once == pytest.approx(0.828_850, abs=1e-6)
    assert twice == pytest.approx(0.828_850 + 262_143.328_850 - 0.1, abs=1e-4)


@pytest.mark.parametrize(
    ("zones", "message"),
    [
        (None, "does not exist here: a virtual machine, a container or not x86"),
        ({}, "no package is listed .* modprobe intel_rapl_msr"),
        ({"intel-rapl:0": ("psys", 1)}, "no package is listed"),
    ],
    ids=["no folder", "no zone", "platform only"],
)
def test_rapl_that_is_not_there_says_why(tmp_path, zones, message):
    root = tmp_path / "powercap"
    if zones is not None:
        root.mkdir()
        powercap(root, zones)

    with pytest.raises(Unsupported, match=message):
        Rapl(root)


def test_rapl_that_only_root_may_read_says_the_next_step(tmp_path, monkeypatch):
    """Tests may run as root, who may read all: the refusal is the file system's own, raised for this file."""
    powercap(tmp_path, {"intel-rapl:0": ("package-0", 1)})
    plain = Path.read_text

    def guarded(path, *rest, **more):
        if path.name == "energy_uj":
            raise PermissionError(13, "Permission denied", str(path))
        return plain(path, *rest, **more)

    monkeypatch.setattr(Path, "read_text", guarded)
    with pytest.raises(Unsupported, match=r"may be read by root only.*sudo chmod a\+r .*/\*/energy_uj"):
        Rapl(tmp_path)


@pytest.mark.parametrize("content", ["", "-3", "12.5", "nan", "\x00"])
def test_rapl_with_damaged_files_is_refused(tmp_path, content):
    powercap(tmp_path, {"intel-rapl:0": ("package-0", 1)})
    (tmp_path / "intel-rapl:0" / "energy_uj").write_text(content)

    with pytest.raises(Unsupported, match="must hold microjoules"):
        Rapl(tmp_path)


class Monitor:
    """`AppleEnergyMonitor` of zeus-apple-silicon 1.1, as documented: whole mJ, None where there is no channel."""

    def __init__(self, **fields):
        names = ("cpu_total_mj", "dram_mj", "gpu_mj", "gpu_sram_mj", "ane_mj")
        self.read = SimpleNamespace(**{name: fields.get(name) for name in names}, efficiency_cores_mj=[1, 2])

    def get_cumulative_energy(self):
        return self.read


def test_apple_counts_processor_gpu_neural_engine_and_memory():
    """1,500 mJ + (200 + 50) mJ + 3,000 mJ + 400 mJ."""
    found = Apple(Monitor(cpu_total_mj=1_500, gpu_mj=200, gpu_sram_mj=50, ane_mj=3_000, dram_mj=400))

    assert found.counters() == pytest.approx({"cpu": 1.5, "gpu": 0.25, "ane": 3.0, "dram": 0.4})
    assert found.total == ("cpu", "gpu", "ane", "dram")


def test_apple_without_a_channel_leaves_it_out():
    """An M1 without DRAM and SRAM channels: absent, not zero."""
    assert Apple(Monitor(cpu_total_mj=10, gpu_mj=20, ane_mj=0)).counters() == pytest.approx(
        {"cpu": 0.01, "gpu": 0.02, "ane": 0.0}
    )


def test_apple_that_knows_no_channel_is_refused():
    with pytest.raises(Unsupported, match="none of the channels"):
        Apple(Monitor())


class Library:
    """`pynvml`, by NVIDIA's documentation: millijoules since the driver was loaded, an error class of its own."""

    class NVMLError(Exception):
        pass

    def __init__(self, millijoules, fault=""):
        self.millijoules, self.fault = millijoules, fault

    def nvmlInit(self):
        if self.fault == "init":
            raise self.NVMLError("Driver Not Loaded")

    def nvmlDeviceGetCount(self):
        return len(self.millijoules)

    def nvmlDeviceGetHandleByIndex(self, index):
        return index

    def nvmlDeviceGetTotalEnergyConsumption(self, handle):
        if self.fault == "old":
            raise self.NVMLError("Not Supported")
        return self.millijoules[handle]


def test_nvml_adds_up_boards():
    """1,000 mJ + 2,500 mJ."""
    assert Nvml(Library([1_000, 2_500])).counters() == {"gpu": 3.5}


@pytest.mark.parametrize(
    ("library", "message"),
    [
        (Library([1], "init"), "NVML: Driver Not Loaded"),
        (Library([1], "old"), "NVML: Not Supported"),
        (Library([]), "lists no board"),
    ],
    ids=["no driver", "old board", "no board"],
)
def test_nvml_that_cannot_count_says_why(library, message):
    with pytest.raises(Unsupported, match=message):
        Nvml(library)


def test_each_target_has_the_meter_of_its_machine(monkeypatch):
    monkeypatch.setattr(meter, "apple_silicon", lambda: False)
    with pytest.raises(Unsupported, match="no counter of this machine belongs to target mps"):
        meter.find("mps")

    monkeypatch.setattr(meter, "apple_silicon", lambda: True)
    monkeypatch.setattr("quantkit.extras.importlib.util.find_spec", lambda name: None)
    with pytest.raises(Unsupported, match=r"zeus_apple_silicon is not installed: pip install 'quantkit\[energy\]'"):
        meter.find("ane")
    with pytest.raises(Unsupported, match="target cuda"):
        meter.find("cuda")


def observation(**energy):
    return Observation(None, "fp32", BuildReport((), 0, 0.0, "fp32"), 1, np.zeros(1), np.zeros(1), None, [], **energy)


def test_the_metric_gives_a_reason_or_joules():
    (none,) = metric.measure(observation(no_energy="RAPL: /sys/class/powercap does not exist here"))
    found = Told({"cpu": 2.0, "ane": 0.0}, {"cpu": 5.0}).measure()
    told = {one.metric: one for one in metric.measure(observation(energy=found))}

    assert (none.metric, none.values, none.reason[:5]) == ("energy", (), "RAPL:")
    assert set(told) == {"energy", "energy_cpu", "energy_ane"}
    assert (told["energy"].values, told["energy"].unit.value) == (found.joules["total"], "J")
    assert told["energy_ane"].reason


POWER = {"idle_w": {"cpu": 2.0, "ane": 0.1}, "active_w": {"cpu": 4.0, "ane": 1.0}}


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A cache that the tests below share: artifacts are built once."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture
def run(plugins, home, built, monkeypatch):
    monkeypatch.setenv("QUANTKIT_HOME", str(built))
    with Crew(1) as crew:
        yield Run(Settings.of("fast", rounds=2, items=50), Store(home / "results.db"), crew, lambda line: None)


def test_a_case_of_the_pipeline_gets_its_joules(run, monkeypatch):
    """5 W above idle x 2 ms = 0.01 J, 1 W x 2 ms = 0.002 J of it in the neural engine; fp32 takes 4 ms: 0.02 J."""
    script = {
        "*": {"latency_s": [0.002], "memory_bytes": 64, "power": POWER},
        "fp32": {"latency_s": [0.004], "memory_bytes": 64, "power": POWER},
    }
    monkeypatch.setenv("QUANTKIT_SIMULATED", json.dumps(script))

    full, small = execute([Case("tiny_plane", "int8_static", "grid", "simulated")], run)

    assert small.measurements["energy"].values == pytest.approx([0.01] * 5, rel=5e-3)
    assert small.measurements["energy_ane"].values == pytest.approx([0.002] * 5, rel=5e-3)
    assert full.measurements["energy"].values == pytest.approx([0.02] * 5, rel=5e-3)
    assert "mJ [interval]" in table([full, small])
    assert re.search(r" 10(\.0)? \[", table([full, small]))


def test_a_simulated_target_has_power_only_where_the_script_tells_it():
    target = Simulated({"*": {"latency_s": [0.5], "memory_bytes": 1}})
    target.start("fp32")

    with pytest.raises(Unsupported, match="the simulated target's script tells no power"):
        pipeline_energy.meter_of(target)


def test_without_a_meter_no_process_is_started_and_the_case_is_still_ok(run, monkeypatch):
    monkeypatch.setattr(meter, "find", refuse)
    purposes, plain = [], run.crew.call

    def call(purpose, *rest, **more):
        purposes.append(purpose)
        return plain(purpose, *rest, **more)

    monkeypatch.setattr(run.crew, "call", call)
    found = execute([Case("tiny_plane", "int8_static", "grid", "cpu")], run)[-1]

    assert "energy" not in purposes
    assert "trial" in purposes
    assert found.status == "ok"
    assert found.measurements["energy"].reason == "RAPL: not here"
    assert "mJ" not in table([found])


def refuse(target):
    raise Unsupported("RAPL: not here")


def test_a_meter_that_can_be_read_from_today_on_is_another_result(monkeypatch, plugins):
    case = Case("tiny_plane", "fp32", "grid", "cpu")
    monkeypatch.setattr(meter, "find", refuse)
    without = keys.result_key(case, Settings())
    monkeypatch.setattr(meter, "find", lambda target: SimpleNamespace(name="RAPL"))

    assert keys.result_key(case, Settings()) != without
    assert keys.result_key(case, Settings(rounds=0)) != without


def test_the_simulated_target_tells_busy_and_waiting_time_apart():
    """Two calls of 0.5 s and 3 s of waiting: 4 s in all, 1 s busy."""
    target = Simulated({"*": {"latency_s": [0.5], "memory_bytes": 1, "power": POWER}})
    target.start("fp32")
    target.call(), target.wait(3.0), target.call()

    assert (target.clock(), target.busy(), target.power) == (4.0, 1.0, POWER)

"""macOS on any machine: texts and structures in the documented shape. FIXTURES, not taken from a Mac."""

import ctypes
from types import SimpleNamespace

import pytest

from quantkit.state import Memory, Snapshot, macos

THERM_INTEL = """Note: No thermal warning level has been recorded
Note: No performance warning level has been recorded
2026-01-01 10:00:00 +0000 CPU Power notify
\tCPU_Scheduler_Limit \t= 100
\tCPU_Available_CPUs \t= 8
\tCPU_Speed_Limit \t= 76
"""
THERM_ARM = """Note: No thermal warning level has been recorded
Note: No performance warning level has been recorded
Note: No CPU power status has been recorded
"""
BATT = """Now drawing from 'Battery Power'
 -InternalBattery-0 (id=1234567)\t83%; discharging; 4:10 remaining present: true
"""
VM_STAT = """Mach Virtual Memory Statistics: (page size of 16384 bytes)
Pages free:                               12345.
Pageins:                                 999999.
Swapins:                                      3.
Swapouts:                                    10.
"""


def test_a_speed_limit_is_a_share_and_unknown_on_apple_silicon():
    assert macos.speed_limit(THERM_INTEL) == 0.76
    assert macos.speed_limit(THERM_ARM) is None
    assert macos.speed_limit("") is None


@pytest.mark.parametrize(
    ("name", "source"), [("AC Power", "mains"), ("Battery Power", "battery"), ("UPS Power", "ups"), ("Sun", None)]
)
def test_the_power_source_is_named(name, source):
    assert macos.source(BATT.replace("Battery Power", name)) == source


def test_swap_counters_are_pages_of_the_size_that_is_said():
    assert macos.swap_counters(VM_STAT) == {"swap_in_bytes": 3 * 16384, "swap_out_bytes": 10 * 16384}
    assert macos.swap_counters("") == {}


@pytest.mark.parametrize(
    ("number", "name"), [(0x21, "user-interactive"), (0x15, "default"), (0x09, "background"), (0, "unspecified")]
)
def test_quality_of_service_has_the_numbers_of_its_header(number, name):
    assert macos.qos(SimpleNamespace(qos_class_self=lambda: number)) == name


def test_a_library_without_the_function_says_nothing():
    assert macos.qos(SimpleNamespace()) is None
    assert macos.reset_peak(SimpleNamespace()) is False
    assert macos.memory(SimpleNamespace()) == {}


@pytest.mark.parametrize(("state", "name"), [(0, "nominal"), (1, "fair"), (2, "serious"), (3, "critical"), (7, None)])
def test_heat_and_mode_come_from_the_process_information(monkeypatch, state, name):
    """NSProcessInfoThermalState counts from 0; a macOS without low-power mode does not know the selector."""
    monkeypatch.setattr(macos, "message", lambda selector, result: {"thermalState": state}.get(selector))

    assert macos.heat_and_mode() == {"thermal_pressure": name, "low_power": None}


def test_all_that_is_read_has_a_place_in_a_snapshot(monkeypatch):
    """Slow and fast reading give fields of `Snapshot`; psutil is a stand-in with macOS's fields."""
    said = {"vm_stat": VM_STAT, "therm": THERM_INTEL, "batt": BATT}
    fake = SimpleNamespace(
        cpu_times=lambda: SimpleNamespace(user=5.0, system=2.0, idle=90.0, nice=1.0),
        cpu_count=lambda: 8,
        swap_memory=lambda: SimpleNamespace(used=4096),
        sensors_battery=lambda: None,
        cpu_freq=lambda: SimpleNamespace(current=3200.0),
    )
    monkeypatch.setattr(macos, "psutil", fake)
    monkeypatch.setattr(macos, "_said", lambda *command: said[command[-1].rpartition("/")[2]])
    monkeypatch.setattr(macos, "message", lambda selector, result: 0)

    fast, slow = macos.read(False), macos.read(True)

    assert (fast["busy_s"], fast["cores"], fast["frequency_hz"]) == (8.0, 8, 3.2e9)
    assert fast["power_source"] is None and "swap_in_bytes" not in fast
    assert (slow["power_source"], slow["speed_limit"], slow["swap_out_bytes"]) == ("battery", 0.76, 163840)
    assert Snapshot(monotonic_s=0.0, wall_s=0.0, **slow).thermal_pressure == "nominal"


def test_a_tool_that_is_not_there_says_nothing():
    assert macos._said("/no/such/tool") == ""
    assert macos._said("/bin/sh", "-c", "exit 3") == ""


class Library:
    """A FIXTURE, not macOS: fills in `rusage_info_v4` as <sys/resource.h> lays it out."""

    def __init__(self, **values):
        self.values = values

    def proc_pid_rusage(self, pid, flavour, pointer):
        assert flavour == macos.FLAVOUR == 4
        for name, value in self.values.items():
            setattr(pointer._obj, name, value)
        return 0

    def proc_reset_footprint_interval(self, pid):
        return 0


def test_the_peak_is_the_one_since_the_reset_else_the_processes_own():
    told = {"phys_footprint": 50, "lifetime_max_phys_footprint": 900, "resident_size": 40}
    reset, never = (Library(**told, interval_max_phys_footprint=peak) for peak in (70, 0))

    assert macos.reset_peak(reset)
    assert macos.memory(reset) == {"own_bytes": 50, "own_peak_bytes": 70, "resident_bytes": 40}
    assert Memory.from_dict(macos.memory(never)).own_peak_bytes == 900


def test_the_structure_is_laid_out_as_in_the_header():
    """16 bytes of uuid, then 35 numbers of 8 bytes; phys_footprint is the 8th of them, at byte 16 + 7 * 8 = 72."""
    assert ctypes.sizeof(macos.RusageInfo) == 16 + 35 * 8
    assert macos.RusageInfo.phys_footprint.offset == 72

"""What macOS tells, through documented interfaces only; written to their documentation, not tried on a Mac here.

Fast: psutil (ticks, swap in use, battery), `NSProcessInfo.thermalState` and `.lowPowerModeEnabled` (Foundation),
`qos_class_self` (<sys/qos.h>), `proc_pid_rusage` and `proc_reset_footprint_interval` (<libproc.h>). Slow, each by a
process of its own: `pmset -g therm` (speed limit on Intel), `pmset -g batt` (knows a UPS), `vm_stat` (swap counters).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import subprocess
from typing import Any

import psutil

PRESSURES = ("nominal", "fair", "serious", "critical")  # NSProcessInfoThermalState 0..3
CLASSES = {0x21: "user-interactive", 0x19: "user-initiated", 0x15: "default", 0x11: "utility", 0x09: "background"}
SOURCES = {"AC Power": "mains", "Battery Power": "battery", "UPS Power": "ups"}
FLAVOUR = 4  # RUSAGE_INFO_V4


def read(slow: bool) -> dict[str, Any]:
    """Return what is known, by the names of `Snapshot`'s fields."""
    times = psutil.cpu_times()
    told: dict[str, Any] = {
        "busy_s": times.user + times.system + times.nice,
        "cores": psutil.cpu_count(),
        "tick_s": 1 / os.sysconf("SC_CLK_TCK"),
        "swap_used_bytes": psutil.swap_memory().used,  # of vm.swapusage; its sin and sout count file pages too
        "power_source": battery(),
        "qos": qos(),
        "frequency_hz": frequency_hz(),
        **heat_and_mode(),
    }
    if slow:
        told |= swap_counters(_said("/usr/bin/vm_stat"))
        told["speed_limit"] = speed_limit(_said("/usr/bin/pmset", "-g", "therm"))
        told["power_source"] = source(_said("/usr/bin/pmset", "-g", "batt")) or told["power_source"]
    return told


def _said(*command: str) -> str:
    """Return what a command of the system writes; nothing where it is not there, fails or hangs."""
    with contextlib.suppress(OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return subprocess.run(command, capture_output=True, text=True, timeout=5, check=True).stdout
    return ""


def battery() -> str | None:
    """Return `mains` or `battery`; None on a Mac without a battery."""
    told = psutil.sensors_battery()
    return None if told is None or told.power_plugged is None else "mains" if told.power_plugged else "battery"


def frequency_hz() -> float | None:
    """Return the current frequency (psutil gives MHz); None where the chip does not tell."""
    with contextlib.suppress(OSError, NotImplementedError, RuntimeError, AttributeError):
        told = psutil.cpu_freq()
        return told.current * 1e6 if told and told.current else None
    return None


def speed_limit(text: str) -> float | None:
    """Return the share of its speed that the processor is allowed, from `pmset -g therm`; None where nothing is noted.

    >>> speed_limit("CPU Power notify\\n\\tCPU_Scheduler_Limit \\t= 100\\n\\tCPU_Speed_Limit \\t= 62\\n")
    0.62
    """
    found = re.search(r"CPU_Speed_Limit\s*=\s*(\d+)", text)
    return int(found[1]) / 100 if found else None


def source(text: str) -> str | None:
    """Return where power comes from, by `pmset -g batt`.

    >>> source("Now drawing from 'AC Power'\\n")
    'mains'
    """
    found = re.search(r"drawing from '([^']*)'", text)
    return SOURCES.get(found[1]) if found else None


def swap_counters(text: str) -> dict[str, int]:
    """Return the bytes swapped in and out since the start, by `vm_stat`; nothing where it does not say."""
    page = re.search(r"page size of (\d+) bytes", text)
    counts = {name: re.search(rf"^{name}:\s+(\d+)\.", text, re.MULTILINE) for name in ("Swapins", "Swapouts")}
    names = {"Swapins": "swap_in_bytes", "Swapouts": "swap_out_bytes"}
    return {names[name]: int(found[1]) * int(page[1]) for name, found in counts.items() if found and page}


def qos(library: Any = None) -> str | None:
    """Return the quality-of-service class of this thread; `unspecified` where none was asked for."""
    with contextlib.suppress(OSError, AttributeError):
        library = library or ctypes.CDLL(None)
        return CLASSES.get(library.qos_class_self(), "unspecified")
    return None


def heat_and_mode() -> dict[str, Any]:
    """Return thermal pressure and low-power mode, of NSProcessInfo; nothing where Foundation cannot be asked."""
    told: dict[str, Any] = {}
    with contextlib.suppress(OSError, AttributeError, ValueError):
        heat = message("thermalState", ctypes.c_long)
        told["thermal_pressure"] = PRESSURES[heat] if heat is not None and 0 <= heat < len(PRESSURES) else None
        told["low_power"] = message("isLowPowerModeEnabled", ctypes.c_bool)
    return told


def message(selector: str, result: Any) -> Any:
    """Return what `[NSProcessInfo.processInfo selector]` gives; None on a macOS that does not know the selector.

    Args:
        selector: one without arguments.
        result: its C type.
    """
    ctypes.CDLL("/System/Library/Frameworks/Foundation.framework/Foundation")
    runtime = ctypes.CDLL("/usr/lib/libobjc.A.dylib")
    pointer = ctypes.c_void_p
    by_name = ctypes.CFUNCTYPE(pointer, ctypes.c_char_p)
    name, kind = by_name(("sel_registerName", runtime)), by_name(("objc_getClass", runtime))
    send = ctypes.CFUNCTYPE(pointer, pointer, pointer)(("objc_msgSend", runtime))
    knows = ctypes.CFUNCTYPE(ctypes.c_bool, pointer, pointer, pointer)(("objc_msgSend", runtime))
    process = send(kind(b"NSProcessInfo"), name(b"processInfo"))
    if not knows(process, name(b"respondsToSelector:"), name(selector.encode())):
        return None
    return ctypes.CFUNCTYPE(result, pointer, pointer)(("objc_msgSend", runtime))(process, name(selector.encode()))


class RusageInfo(ctypes.Structure):
    """`struct rusage_info_v4` of <sys/resource.h>, in the order of its fields."""

    _fields_ = [
        ("uuid", ctypes.c_uint8 * 16),
        *((name, ctypes.c_uint64) for name in (
            "user_time", "system_time", "pkg_idle_wkups", "interrupt_wkups", "pageins", "wired_size", "resident_size",
            "phys_footprint", "proc_start_abstime", "proc_exit_abstime", "child_user_time", "child_system_time",
            "child_pkg_idle_wkups", "child_interrupt_wkups", "child_pageins", "child_elapsed_abstime",
            "diskio_bytesread", "diskio_byteswritten", "cpu_time_qos_default", "cpu_time_qos_maintenance",
            "cpu_time_qos_background", "cpu_time_qos_utility", "cpu_time_qos_legacy", "cpu_time_qos_user_initiated",
            "cpu_time_qos_user_interactive", "billed_system_time", "serviced_system_time", "logical_writes",
            "lifetime_max_phys_footprint", "instructions", "cycles", "billed_energy", "serviced_energy",
            "interval_max_phys_footprint", "runnable_time",
        )),
    ]  # fmt: skip


def usage(library: Any = None) -> RusageInfo | None:
    """Return the kernel's account of this process; None where it refuses.

    Args:
        library: where `proc_pid_rusage` is; None takes the system's (macOS only).
    """
    info = RusageInfo()
    library = library or ctypes.CDLL("/usr/lib/libproc.dylib", use_errno=True)
    return info if library.proc_pid_rusage(os.getpid(), FLAVOUR, ctypes.byref(info)) == 0 else None


def reset_peak(library: Any = None) -> bool:
    """Start a new interval for `interval_max_phys_footprint`; return whether the system did."""
    with contextlib.suppress(OSError, AttributeError):
        library = library or ctypes.CDLL("/usr/lib/libproc.dylib", use_errno=True)
        return library.proc_reset_footprint_interval(os.getpid()) == 0
    return False


def memory(library: Any = None) -> dict[str, int | None]:
    """Return what this process holds, by the names of `Memory`'s fields.

    The peak is the one since `reset_peak`, or the process's own where it was never reset (the interval then says 0).
    """
    with contextlib.suppress(OSError, AttributeError):
        info = usage(library)
        if info is not None:
            peak = info.interval_max_phys_footprint or info.lifetime_max_phys_footprint
            return {
                "own_bytes": info.phys_footprint,
                "own_peak_bytes": max(peak, info.phys_footprint),
                "resident_bytes": info.resident_size,
            }
    return {}

"""What Linux tells, from /proc and /sys as the kernel documents them; what a kernel does not have is left out.

`/proc/stat` is read here and not by psutil, because only the cores that this process may use count: a benchmark that
is pinned away from its neighbours is not disturbed by them. Paths and units: proc(5), Documentation/ABI/testing/
sysfs-devices-system-cpu (thermal_throttle), Documentation/ABI/testing/sysfs-platform_profile.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection
from pathlib import Path
from typing import Any

import psutil

USER, NICE, SYSTEM, IRQ, SOFTIRQ, STEAL = 0, 1, 2, 5, 6, 7  # columns of a line `cpuN`; guests are part of USER, NICE
ROOT = Path("/")


def read(root: Path = ROOT) -> dict[str, Any]:
    """Return what is known, by the names of `Snapshot`'s fields."""
    allowed = sorted(os.sched_getaffinity(0))
    return {
        "affinity": tuple(allowed),
        **processors(root, allowed),
        **swap(root),
        "throttles": throttles(root),
        "low_power": low_power(root),
        "frequency_hz": frequency_hz(),
        "power_source": power_source(),
    }


def _text(path: Path) -> str | None:
    """Return a small file's text; None where it is not there or may not be read."""
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError):
        return None


def processors(root: Path, allowed: Collection[int]) -> dict[str, Any]:
    """Return the processor seconds used and stolen on the allowed cores, and how many cores they are."""
    names = {f"cpu{number}" for number in allowed}
    lines = [line.split() for line in (_text(root / "proc/stat") or "").splitlines() if line.startswith("cpu")]
    rows = [[int(value) for value in words[1:]] for words in lines if words[0] in names]
    if not rows or min(map(len, rows)) <= SOFTIRQ:
        return {}
    tick = 1 / os.sysconf("SC_CLK_TCK")
    busy = sum(row[column] for row in rows for column in (USER, NICE, SYSTEM, IRQ, SOFTIRQ))
    stolen = sum(row[STEAL] for row in rows) * tick if min(map(len, rows)) > STEAL else None
    return {"busy_s": busy * tick, "stolen_s": stolen, "cores": len(rows), "tick_s": tick}


def swap(root: Path) -> dict[str, int]:
    """Return the bytes swapped in and out since the start (psutil gives 0 where the kernel says nothing)."""
    page = os.sysconf("SC_PAGE_SIZE")
    names = {"pswpin": "swap_in_bytes", "pswpout": "swap_out_bytes"}
    words = [line.split() for line in (_text(root / "proc/vmstat") or "").splitlines()]
    found = {names[name]: int(value) * page for name, value in words if name in names}
    used = {name: int(value.split()[0]) * 1024 for name, _, value in _colons(root / "proc/meminfo")}
    if "SwapTotal" in used and "SwapFree" in used:
        found["swap_used_bytes"] = used["SwapTotal"] - used["SwapFree"]
    return found


def _colons(path: Path) -> list[tuple[str, str, str]]:
    return [line.partition(":") for line in (_text(path) or "").splitlines() if ":" in line]


def throttles(root: Path) -> int | None:
    """Return how often cores and packages were slowed down by heat; a package counts once for each of its cores."""
    files = (root / "sys/devices/system/cpu").glob("cpu[0-9]*/thermal_throttle/*_throttle_count")
    counts = [int(text) for text in map(_text, files) if text is not None]
    return sum(counts) if counts else None


def low_power(root: Path) -> bool | None:
    """Return whether the firmware's profile is the one that saves power; None without such profiles."""
    profile = _text(root / "sys/firmware/acpi/platform_profile")
    return None if profile is None else profile.strip() == "low-power"


def frequency_hz() -> float | None:
    """Return the mean current frequency of the cores (psutil gives MHz); None where nobody knows."""
    with contextlib.suppress(OSError, NotImplementedError, RuntimeError, ValueError):
        told = psutil.cpu_freq()
        return told.current * 1e6 if told and told.current else None
    return None


def power_source() -> str | None:
    """Return `mains` or `battery`; None where there is no battery, or nobody knows."""
    with contextlib.suppress(OSError, NotImplementedError, RuntimeError, AttributeError):
        battery = psutil.sensors_battery()
        if battery is not None and battery.power_plugged is not None:
            return "mains" if battery.power_plugged else "battery"
    return None

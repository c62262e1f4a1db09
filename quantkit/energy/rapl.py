"""RAPL: the energy counters of x86 processors, read from Linux's powercap files.

Each zone is a folder `intel-rapl:0` (a package) or `intel-rapl:0:1` (a part of it) below /sys/class/powercap, on AMD
too, with `name`, `energy_uj` and `max_energy_range_uj`, all text. `energy_uj` starts again at zero when it reaches the
range (a quarter of an hour at 250 W on common servers); one restart between two readings is undone here.
Source: Linux, Documentation/power/powercap/powercap.rst.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from quantkit.errors import Unsupported

ROOT = Path("/sys/class/powercap")
ZONE = re.compile(r"intel-rapl(:\d+)+")  # not intel-rapl-mmio, which counts the same package again
PARTS = {"core": "cpu", "uncore": "gpu", "dram": "dram"}  # uncore is the graphics unit on those processors that have it
MICRO = 1e-6


@dataclass
class Zone:
    """One counter: its last reading in µJ, and what it held before it started again."""

    folder: Path
    component: str
    limit_uj: int
    last_uj: int
    before_uj: int = 0

    def joules(self) -> float:
        """Read it; return joules since the zone's first reading started from zero."""
        now = number(self.folder / "energy_uj")
        if now < self.last_uj:
            self.before_uj += self.limit_uj
        self.last_uj = now
        return (self.before_uj + now) * MICRO


class Rapl:
    """Package and its parts; packages of several sockets are added up (satisfies `meter.Meter`).

    Args:
        root: where the powercap files are; a test names a folder of its own.
    """

    name = "RAPL"
    resolution = 61e-6  # 2^-14 J, the energy unit of most processors (Intel SDM, MSR_RAPL_POWER_UNIT)

    def __init__(self, root: Path = ROOT):
        if not root.is_dir():
            raise Unsupported(f"RAPL: {root} does not exist here: a virtual machine, a container or not x86")
        found = [(path, component(path)) for path in sorted(root.iterdir()) if ZONE.fullmatch(path.name)]
        self.zones = [zone(path, name) for path, name in found if name]
        self.total = tuple(name for name in ("package", "dram") if any(z.component == name for z in self.zones))
        if "package" not in self.total:
            raise Unsupported(f"RAPL: no package is listed in {root}: try modprobe intel_rapl_msr")

    def counters(self) -> Mapping[str, float]:
        """Return joules by component."""
        sums: dict[str, float] = {}
        for one in self.zones:
            sums[one.component] = sums.get(one.component, 0.0) + one.joules()
        return sums


def component(folder: Path) -> str:
    """Return our name of a zone; empty for those that count what others count already (psys: the whole platform)."""
    name = text(folder / "name")
    return "package" if name.startswith("package") else PARTS.get(name, "")


def zone(folder: Path, name: str) -> Zone:
    """Return a zone with its first reading."""
    return Zone(folder, name, number(folder / "max_energy_range_uj"), number(folder / "energy_uj"))


def number(path: Path) -> int:
    """Return a file's whole number."""
    found = text(path)
    if not found.isdigit():
        raise Unsupported(f"RAPL: {path} must hold microjoules: got {found[:40]!r}")
    return int(found)


def text(path: Path) -> str:
    """Return a file's text; an operating system's refusal is said with the next step.

    Raises:
        Unsupported: it cannot be read.
    """
    try:
        return path.read_text().strip()
    except PermissionError:
        raise Unsupported(
            f"RAPL: {path} may be read by root only (since CVE-2020-8694): "
            f"sudo chmod a+r {path.parent.parent}/*/energy_uj"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise Unsupported(f"RAPL: {path} cannot be read: {getattr(error, 'strerror', None) or error}") from error

"""What this process holds in memory, without what it shares with others.

A trial is a fork of a host that has imported the runtime: its resident set holds pages that the host holds too, and
libraries that every process maps. Linux tells them apart: `own` is the unique set (private pages, USS), `proportional`
(PSS) adds to it each shared page's part. On macOS `own` is the physical footprint, which counts GPU memory as well.

The kernel keeps no peak of the unique set, only one of the resident set (VmHWM). What the resident set lost since its
peak was private, since shared pages do not come and go with a model; so own peak = own now + (VmHWM - VmRSS).
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import psutil

from quantkit.state import macos

ROOT = Path("/")


@dataclass(frozen=True)
class Memory:
    """Bytes that this process holds now, and at most since `reset_peak`; None is not known, never 0.

    Args:
        own_bytes: private pages (USS) on Linux, physical footprint on macOS.
        own_peak_bytes: largest of those.
        proportional_bytes: PSS, Linux only.
        resident_bytes, resident_peak_bytes: all pages in memory, shared ones included.
        driver_bytes: what a GPU's driver or framework has allocated for this process, at most where it keeps a peak.
    """

    own_bytes: int | None = None
    own_peak_bytes: int | None = None
    proportional_bytes: int | None = None
    resident_bytes: int | None = None
    resident_peak_bytes: int | None = None
    driver_bytes: int | None = None

    def as_dict(self) -> dict[str, int | None]:
        """Return it as plain data that JSON can hold."""
        return asdict(self)

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Memory:
        """Return the record that `as_dict` gave."""
        return cls(**{one.name: raw.get(one.name) for one in fields(cls)})


def memory(root: Path = ROOT) -> Memory:
    """Return what this process holds; a few milliseconds for each GiB that is mapped."""
    if sys.platform == "darwin":
        return Memory.from_dict(macos.memory())
    return Memory.from_dict(_linux(root))


def reset_peak(root: Path = ROOT) -> bool:
    """Forget earlier peaks of this process; return whether the system could (Linux: 5, see proc_pid_clear_refs(5))."""
    if sys.platform == "darwin":
        return macos.reset_peak()
    with contextlib.suppress(OSError):
        (root / "proc/self/clear_refs").write_text("5")
        return True
    return False


def _linux(root: Path) -> dict[str, int | None]:
    kept, status = _fields(root / "proc/self/smaps_rollup"), _fields(root / "proc/self/status")
    private = [value for name, value in kept.items() if name.startswith("Private_")]
    own, proportional = sum(private) if private else None, kept.get("Pss")
    if own is None and root == ROOT:  # psutil knows the real one only
        own, proportional = _by_psutil()
    resident, peak = status.get("VmRSS"), status.get("VmHWM")
    gone = None if resident is None or peak is None else max(0, peak - resident)
    return {
        "own_bytes": own,
        "own_peak_bytes": None if own is None or gone is None else own + gone,
        "proportional_bytes": proportional,
        "resident_bytes": resident,
        "resident_peak_bytes": peak,
    }


def _fields(path: Path) -> dict[str, int]:
    """Return the lines `Name: 12 kB` of a file in bytes; nothing where it cannot be read."""
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError):
        return {}
    pairs = [(line.partition(":")[0], line.split()) for line in lines if line.endswith(" kB")]
    return {name: int(words[-2]) * 1024 for name, words in pairs if words[-2].isdigit()}


def _by_psutil() -> tuple[int | None, int | None]:
    """Return USS and PSS by psutil, which adds up each mapping: for kernels older than 4.14."""
    with contextlib.suppress(psutil.Error, OSError, NotImplementedError):
        full = psutil.Process().memory_full_info()
        return getattr(full, "uss", None), getattr(full, "pss", None)
    return None, None

"""What the units of Apple silicon have in common: they exist on a Mac only, and their memory is the whole process's."""

from __future__ import annotations

import ctypes
import os
import resource
import sys
import time
from typing import Any

from quantkit.contracts import Session
from quantkit.environment import apple_silicon
from quantkit.records import Case


class RusageInfo(ctypes.Structure):
    """`struct rusage_info_v4` of macOS's <sys/resource.h>, in the order of its fields."""

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


def peak_footprint(library: Any = None) -> int:
    """Return the largest physical footprint of this process, bytes: unlike the resident set it counts GPU memory.

    Args:
        library: where `proc_pid_rusage` is; None takes the system's (macOS only).
    """
    info = RusageInfo()
    library = library or ctypes.CDLL("/usr/lib/libproc.dylib", use_errno=True)
    if library.proc_pid_rusage(os.getpid(), 4, ctypes.byref(info)) != 0:  # flavour RUSAGE_INFO_V4
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS
    return info.lifetime_max_phys_footprint


class AppleUnit:
    """A compute unit of Apple silicon (satisfies `contracts.Target`)."""

    simulated = False

    def __init__(self, name: str, title: str):
        self.name, self.title = name, title

    def unavailable(self) -> str | None:
        """Artifacts for it are built, and their answers checked, anywhere."""
        return None

    def untimed(self) -> str | None:
        """Return why nothing can be timed: this is no Mac."""
        return None if apple_silicon() else "needs macOS on Apple silicon"

    def attach(self, session: Session, case: Case) -> Session:
        """Return the session unchanged."""
        return session

    def clock(self) -> float:
        """Return seconds of the clock that no adjustment moves."""
        return time.perf_counter()

    def synchronize(self) -> None:
        """Wait for MLX and Metal where this process uses them; Core ML's predictions are done when they return."""
        if "mlx.core" in sys.modules:
            sys.modules["mlx.core"].synchronize()
        torch = sys.modules.get("torch")
        if torch is not None and torch.backends.mps.is_available():
            torch.mps.synchronize()

    def peak_memory(self) -> int:
        """Return the largest physical footprint of this process, bytes."""
        return peak_footprint()

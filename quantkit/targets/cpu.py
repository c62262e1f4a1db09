"""The processor: work is done when the call returns."""

from __future__ import annotations

import resource
import sys
import time
from pathlib import Path

from quantkit.contracts import Session
from quantkit.records import Case


class Cpu:
    """Monotonic clock, and the largest resident set that the operating system has counted for this process."""

    name = "cpu"
    title = "processor"
    simulated = False

    def unavailable(self) -> str | None:
        """Every machine has one."""
        return None

    def untimed(self) -> str | None:
        """It is here: it can be timed."""
        return None

    def attach(self, session: Session, case: Case) -> Session:
        """Return the session unchanged."""
        return session

    def clock(self) -> float:
        """Return seconds of the clock that no adjustment moves."""
        return time.perf_counter()

    def synchronize(self) -> None:
        """Nothing is ever pending."""

    def peak_memory(self) -> int:
        """Return the peak resident set size of this process, bytes."""
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else _high_water_mark() or peak * 1024


def _high_water_mark() -> int:
    """Return VmHWM: unlike ru_maxrss it is not inherited from the process that started this one."""
    with Path("/proc/self/status").open() as file:
        for line in file:
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return 0


plugin = Cpu()

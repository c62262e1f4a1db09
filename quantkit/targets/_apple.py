"""What the units of Apple silicon have in common: they exist on a Mac only, and their memory is the whole process's."""

from __future__ import annotations

import resource
import sys
import time
from dataclasses import replace
from typing import Any

from quantkit.contracts import Session
from quantkit.environment import apple_silicon
from quantkit.records import Case
from quantkit.state import Memory, driver_bytes, macos, memory
from quantkit.state.macos import RusageInfo as RusageInfo


def peak_footprint(library: Any = None) -> int:
    """Return the largest physical footprint of this process, bytes: unlike the resident set it counts GPU memory.

    Args:
        library: where `proc_pid_rusage` is; None takes the system's (macOS only).
    """
    info = macos.usage(library)
    if info is None:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS
    return info.lifetime_max_phys_footprint


class AppleUnit:
    """A compute unit of Apple silicon (satisfies `contracts.Target`)."""

    simulated = False

    def __init__(self, name: str, title: str, *, gpu: bool = False):
        self.name, self.title, self._gpu = name, title, gpu

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

    def memory(self) -> Memory:
        """Return what this process holds, and on the GPU what its driver holds for it."""
        return replace(memory(), driver_bytes=driver_bytes() if self._gpu else None)

"""The memory of a process and of all that it has started, cheap enough to ask ten times a second while it is timed."""

from __future__ import annotations

import contextlib
import time
from functools import lru_cache
from pathlib import Path

import psutil

GONE = (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess, OSError)


def held_bytes(pid: int, limit: int) -> int:
    """Return the memory of a process and its descendants, bytes; 0 where it has ended.

    Pages that they share are counted once where it matters: resident sets are added up first, which is quick and too
    much, and only a sum above the limit is looked at closely, by the proportional sets.
    """
    pids = (pid, *descendants(pid))
    resident = sum(_resident(one) for one in pids)
    return resident if resident <= limit or len(pids) == 1 else sum(_proportional(one) for one in pids)


def descendants(pid: int) -> tuple[int, ...]:
    """Return the processes that a process has started, and those that they have started."""
    found = _children(pid)
    if found is None:
        return _by_psutil(pid, int(time.monotonic()))
    return _below(found)


def _below(pids: tuple[int, ...]) -> tuple[int, ...]:
    """Return processes and their descendants; one that has ended meanwhile has none."""
    return (*pids, *(later for pid in pids for later in _below(_children(pid) or ())))


def _children(pid: int) -> tuple[int, ...] | None:
    """Return a process's children by the kernel's own list (proc_pid_task_tid_children(5)); None where it has none."""
    try:
        texts = [(task / "children").read_text() for task in Path(f"/proc/{pid}/task").iterdir()]
    except OSError:
        return None
    return tuple(int(word) for text in texts for word in text.split())


@lru_cache(maxsize=1)
def _by_psutil(pid: int, second: int) -> tuple[int, ...]:
    """Return the descendants by looking at every process of the machine: at most once a second."""
    with contextlib.suppress(*GONE):
        return tuple(child.pid for child in psutil.Process(pid).children(recursive=True))
    return ()


def _resident(pid: int) -> int:
    with contextlib.suppress(*GONE):
        return psutil.Process(pid).memory_info().rss
    return 0


def _proportional(pid: int) -> int:
    """Return PSS on Linux, the resident set elsewhere or where PSS may not be read."""
    with contextlib.suppress(*GONE):
        full = psutil.Process(pid).memory_full_info()
        return getattr(full, "pss", full.rss)
    return _resident(pid)

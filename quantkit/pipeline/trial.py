"""One timed trial: one round of one arm, in a fresh process; its state before and after, and what it held in memory."""

from __future__ import annotations

import gc
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from quantkit.catalog import TARGETS
from quantkit.contracts import Session, Target, Trial
from quantkit.errors import ClockStepped
from quantkit.pipeline.inside import TIMED_INPUTS, opened
from quantkit.pipeline.settings import Settings
from quantkit.records import Case
from quantkit.state import Memory, disturbances, memory, own_processor_s, reset_peak, snapshot


def trial(case: Case, folder: Path, kept: Path, settings: Settings) -> dict[str, Any]:
    """Open the artifact, call it once, warm up, then time call after call.

    The state is taken around all of it, because the system counts processor time in steps that a short round is hardly
    longer than; on macOS around warm-up and timed calls only: there toolchains compile in other processes while they
    load (Core ML, Metal), which would be taken for neighbours.
    """
    started = time.perf_counter()
    before, own = snapshot(slow=False), own_processor_s()
    inputs = timed_inputs(kept)
    target = TARGETS.get(case.target)
    reset_peak()
    idle, held = target.peak_memory(), {"idle": _held(target)}
    session, target = opened(case, folder, settings)
    held["loaded"] = _held(target)
    fed = [session.feed(item) for item in inputs]
    first = _timed(session, target, fed[0])
    if sys.platform == "darwin":
        before, own = snapshot(slow=False), own_processor_s()
    latencies = _steady(session, target, fed, settings)
    own, after = own_processor_s() - own, snapshot(slow=False)
    peak, held["steady"] = target.peak_memory(), _held(target)
    session.close()
    done = Trial(
        session.load_s, session.compile_s, first, tuple(latencies), peak, idle, own, before.as_dict(), after.as_dict(),
        () if target.simulated else disturbances(before, after, own), {name: m.as_dict() for name, m in held.items()},
    )  # fmt: skip
    return {"trial": asdict(done), "elapsed_s": time.perf_counter() - started}


def timed_inputs(kept: Path) -> list[tuple[np.ndarray, ...]]:
    """Return the items that timed calls go round, each as a batch of one."""
    with np.load(kept / TIMED_INPUTS) as file:
        columns = [file[name] for name in file.files]
    return [tuple(column[i : i + 1] for column in columns) for i in range(len(columns[0]))]


def _held(target: Target) -> Memory:
    """Return what this process holds, as the target counts it where that is not the system's business alone."""
    return target.memory() if hasattr(target, "memory") else memory()


def _timed(session: Session, target: Target, fed: Any) -> float:
    """Return the seconds of one call, the target waited for at both ends."""
    target.synchronize()
    start = target.clock()
    session.run(fed)
    target.synchronize()
    seconds = target.clock() - start
    if seconds < 0:
        raise ClockStepped(
            f"the clock of target '{target.name}' went back by {-seconds:g} s during one call: nothing can be timed by "
            "it; measure again, and if it stays, time on another machine"
        )
    return seconds


def _steady(session: Session, target: Target, fed: list[Any], settings: Settings) -> list[float]:
    """Warm up, then time calls until the round is over; the garbage collector waits."""
    gc.collect()
    gc.disable()
    _calls(session, target, fed, settings.warmup_s, settings.most_calls)
    latencies = _calls(session, target, fed, settings.round_s, settings.most_calls)
    gc.enable()
    return latencies


def _calls(session: Session, target: Target, fed: list[Any], budget_s: float, most: int) -> list[float]:
    """Time calls until their sum reaches the budget: at least 3, at most `most`."""
    latencies: list[float] = []
    spent = 0.0
    while len(latencies) < 3 or (spent < budget_s and len(latencies) < most):
        latencies.append(_timed(session, target, fed[len(latencies) % len(fed)]))
        spent += latencies[-1]
    return latencies

"""A clock and a memory counter that a test sets, so that every metric and verdict can be checked exactly.

Answers are computed for real, on the processor; only time and memory are told. The script comes from the environment
variable QUANTKIT_SIMULATED (JSON), so that it reaches the case's own process: method name -> {"latency_s": seconds of
each call, repeated in a circle, "memory_bytes": peak, where wanted "held_bytes": {"loaded": after the load, "steady":
after the first call, "driver": on a GPU}, and where energy is wanted "power": {"idle_w": by component, "active_w": what
work adds to it, "resolution": joules}}; "*" stands for every other method. Results carry `simulated: true` and are
never mixed with measured ones.

>>> clock = Simulated({"*": {"latency_s": [0.5, 0.25], "memory_bytes": 64}})
>>> clock.start("fp32"); clock.call(); clock.call(); clock.clock(), clock.peak_memory()
(0.75, 64)
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Mapping
from typing import Any

from quantkit.contracts import Arrays, Session
from quantkit.records import Case
from quantkit.state import Memory

VARIABLE = "QUANTKIT_SIMULATED"
DEFAULT: Mapping[str, Any] = {"*": {"latency_s": [1e-3], "memory_bytes": 2**20}}


class Simulated:
    """A target whose time passes only when a session runs."""

    name = "simulated"
    title = "simulated clock and memory"
    simulated = True

    def __init__(self, script: Mapping[str, Any] | None = None):
        self._script, self._now = script, 0.0
        self._busy = 0.0
        self.power: Mapping[str, Any] = {}
        self._latency, self._memory = itertools.cycle([0.0]), 0
        self._held: Mapping[str, int] = {"loaded": 0, "steady": 0}

    def unavailable(self) -> str | None:
        """It can be had everywhere."""
        return None

    def untimed(self) -> str | None:
        """Its time is told by a script."""
        return None

    def start(self, method: str) -> None:
        """Take the script of one method."""
        script = self._script or json.loads(os.environ.get(VARIABLE, "null")) or DEFAULT
        told = script.get(method) or script["*"]
        self._latency, self._memory = itertools.cycle(told["latency_s"]), told["memory_bytes"]
        self.power = told.get("power", {})
        self._held = told.get("held_bytes", {})

    def call(self) -> None:
        """Let the time of one call pass."""
        seconds = next(self._latency)
        self._now += seconds
        self._busy += seconds

    def wait(self, seconds: float) -> None:
        """Let time pass in which nothing is done."""
        self._now += seconds

    def busy(self) -> float:
        """Return the seconds of all calls so far."""
        return self._busy

    def attach(self, session: Session, case: Case) -> Session:
        """Return the session with its clock ticking here."""
        self.start(case.method)
        return _Ticking(session, self)

    def clock(self) -> float:
        """Return the told time, seconds."""
        return self._now

    def synchronize(self) -> None:
        """Nothing is ever pending."""

    def peak_memory(self) -> int:
        """Return the told peak, bytes."""
        return self._memory

    def memory(self) -> Memory:
        """Return what the script says is held now: nothing before the load."""
        held = self._held.get("steady" if self._busy else "loaded")
        return Memory(own_bytes=held, own_peak_bytes=self._memory, driver_bytes=self._held.get("driver"))


class _Ticking:
    """A session that answers for real and takes the told time."""

    def __init__(self, session: Session, target: Simulated):
        self._session, self._target = session, target
        self.load_s, self.compile_s = 0.0, 0.0

    def feed(self, inputs: Arrays) -> Any:
        return self._session.feed(inputs)

    def run(self, fed: Any) -> Any:
        self._target.call()
        return self._session.run(fed)

    def fetch(self, output: Any) -> Any:
        return self._session.fetch(output)

    def close(self) -> None:
        self._session.close()


plugin = Simulated()

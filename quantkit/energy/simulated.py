"""A meter that is told its power: idle all the time, more while busy; exact, for tests and the simulated target."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass
class SimulatedMeter:
    """Joules = idle watts x seconds + active watts x busy seconds, cut to whole steps (satisfies `meter.Meter`).

    Args:
        clock: told seconds.
        busy: told seconds of work so far.
        idle_w: by component.
        active_w: by component, on top of idle.
        resolution: step of the counter, joules.

    >>> SimulatedMeter(lambda: 10.0, lambda: 2.0, {"cpu": 1.0}, {"cpu": 3.0}, 0.5).counters()
    {'cpu': 16.0}
    """

    clock: Callable[[], float]
    busy: Callable[[], float]
    idle_w: Mapping[str, float]
    active_w: Mapping[str, float]
    resolution: float = 1e-6
    name: str = "simulated"

    @property
    def total(self) -> tuple[str, ...]:
        """All that is told."""
        return tuple(self.idle_w)

    def counters(self) -> Mapping[str, float]:
        """Return joules by component."""
        seconds, busy = self.clock(), self.busy()
        joules = {name: watts * seconds + self.active_w.get(name, 0.0) * busy for name, watts in self.idle_w.items()}
        return {name: math.floor(value / self.resolution + 1e-9) * self.resolution for name, value in joules.items()}

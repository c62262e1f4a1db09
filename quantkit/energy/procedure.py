"""Joules per inference: idle power before and after, taken off what the machine uses while it does nothing but infer.

Every window lasts until the counter's own coarseness is below 1 % of what was consumed in it, both in joules (its step)
and in time (how often it is brought up to date, which is measured first). Several such windows give an interval.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from quantkit.energy.meter import Meter
from quantkit.errors import Unsupported

TOTAL = "total"
POLL_S = 5e-4
BLOCK_S = 0.05  # work between two readings
DRIFT = 0.2  # of the workload's own power that the idle power may move: half of it is the largest error of the mean


@dataclass(frozen=True)
class Effort:
    """How long it is measured.

    Args:
        repeats: windows of work, at least 2: an interval needs them.
        share: of the consumed energy that the counter's coarseness may be.
        idle_s: least seconds of each idle window.
        most_s: seconds after which a window that is still too coarse is given up.
        still_s: seconds after which a counter that has not moved counts nothing.
    """

    repeats: int = 5
    share: float = 0.01
    idle_s: float = 1.0
    most_s: float = 60.0
    still_s: float = 2.0


@dataclass(frozen=True)
class Energy:
    """What one inference used above idle.

    Args:
        joules: by component, and their sum as `total`: joules per inference, one value a repeat.
        reasons: components that cannot be told, and why.
        idle_w: power of the whole before and after, watts.
        active_w: power of the whole above idle, watts, one value a repeat.
        inferences: of each repeat.
        period_s: longest time between two updates of the counter.
    """

    meter: str
    joules: Mapping[str, tuple[float, ...]]
    reasons: Mapping[str, str]
    idle_w: tuple[float, float]
    active_w: tuple[float, ...]
    inferences: tuple[int, ...]
    period_s: float


@dataclass(frozen=True)
class Window:
    """Joules by component in some seconds, and the inferences done in them."""

    seconds: float
    joules: dict[str, float]
    inferences: int = 0

    def watts(self, names: tuple[str, ...]) -> float:
        """Return the power of some components together."""
        return sum(self.joules[name] for name in names) / self.seconds


@dataclass(frozen=True)
class Stand:
    """A counter, a clock and a way to wait: real ones, or told ones."""

    meter: Meter
    clock: Callable[[], float]
    wait: Callable[[float], None]
    effort: Effort = Effort()

    def whole(self, joules: Mapping[str, float]) -> float:
        """Return the sum that holds each joule once."""
        return sum(joules[name] for name in self.meter.total)


def measure(work: Callable[[int], None], stand: Stand) -> Energy:
    """Return the energy of one inference.

    Args:
        work: does that many inferences and returns when all are done; it has been warmed up.
        stand: what measures.

    Raises:
        Unsupported: there is no number, with the reason: the counter does not move, the work is too little for it, or
            the machine's idle power moved meanwhile.
    """
    effort = stand.effort
    updated_s = period(stand)
    least_s = updated_s / effort.share
    before = idle(stand, max(effort.idle_s, least_s))
    calls = block(work, stand)
    idle_w = before.watts(stand.meter.total)

    def act() -> int:
        work(calls)
        return calls

    def enough(seconds: float, joules: Mapping[str, float]) -> bool:
        own = stand.whole(joules) - idle_w * seconds
        return seconds >= least_s and own >= stand.meter.resolution / effort.share

    windows = [window(stand, act, enough) for _ in range(effort.repeats)]
    after = idle(stand, max(effort.idle_s, least_s))
    return concluded(stand, (before, after), windows, updated_s)


def period(stand: Stand) -> float:
    """Return the longest time between two changes of the counter, seconds, looking at it twenty times or for a while.

    Raises:
        Unsupported: it did not change at all.
    """
    changed: list[float] = []
    started, last = stand.clock(), stand.whole(stand.meter.counters())
    while len(changed) < 20 and stand.clock() - started < stand.effort.still_s:
        stand.wait(POLL_S)
        now = stand.whole(stand.meter.counters())
        if now != last:
            changed.append(stand.clock())
            last = now
    if len(changed) < 2:
        raise Unsupported(
            f"{stand.meter.name}: its counter did not move within {stand.effort.still_s:g} s: it counts nothing here"
        )
    return max(later - earlier for earlier, later in itertools.pairwise(changed))


def block(work: Callable[[int], None], stand: Stand) -> int:
    """Return how many inferences fill the time between two readings."""
    started = stand.clock()
    work(4)
    each = (stand.clock() - started) / 4
    return max(1, math.ceil(BLOCK_S / each)) if each > 0 else 1


def idle(stand: Stand, seconds: float) -> Window:
    """Return what is used while nothing is done."""

    def act() -> int:
        stand.wait(seconds)
        return 0

    return window(stand, act, lambda elapsed, _: elapsed >= seconds * 0.999)


def window(
    stand: Stand, act: Callable[[], int], enough: Callable[[float, Mapping[str, float]], bool]
) -> Window:  # fmt: skip
    """Act and read until it is enough.

    Raises:
        Unsupported: it never is, or a counter fell.
    """
    started, first = stand.clock(), dict(stand.meter.counters())
    done = 0
    while True:
        done += act()
        seconds, now = stand.clock() - started, stand.meter.counters()
        joules = {name: now[name] - value for name, value in first.items() if name in now}
        if len(joules) < len(first) or min(joules.values()) < 0:
            raise Unsupported(f"{stand.meter.name}: a counter fell or vanished while measuring: measure again")
        if enough(seconds, joules):
            return Window(seconds, joules, done)
        if seconds >= stand.effort.most_s:
            raise Unsupported(
                f"{stand.meter.name}: {done} inferences in {seconds:.0f} s used too little above idle for a counter "
                f"of steps of {stand.meter.resolution:g} J: measure a larger model"
            )


def concluded(stand: Stand, idles: tuple[Window, Window], windows: list[Window], updated_s: float) -> Energy:
    """Return the energy of an inference by component, idle taken off."""
    names = stand.meter.total
    idle_w = tuple(one.watts(names) for one in idles)
    active = tuple(one.watts(names) - sum(idle_w) / 2 for one in windows)
    own = sum(active) / len(active)
    if own <= 0 or abs(idle_w[1] - idle_w[0]) > DRIFT * own:
        raise Unsupported(
            f"{stand.meter.name}: idle power was {idle_w[0]:.3g} W before and {idle_w[1]:.3g} W after, the work's own "
            f"is {own:.3g} W: let the machine come to rest and measure again"
        )
    joules = {TOTAL: tuple(w * one.seconds / one.inferences for w, one in zip(active, windows, strict=True))}
    reasons: dict[str, str] = {}
    for name in idles[0].joules:
        values = above_idle(name, idles, windows)
        if reason := doubt(stand, values, windows, name):
            reasons[name] = reason
        else:
            joules[name] = tuple(value / one.inferences for value, one in zip(values, windows, strict=True))
    return Energy(
        stand.meter.name,
        joules,
        reasons,
        (idle_w[0], idle_w[1]),
        active,
        tuple(w.inferences for w in windows),
        updated_s,
    )


def above_idle(name: str, idles: tuple[Window, Window], windows: list[Window]) -> tuple[float, ...]:
    """Return the joules of a component in each window, without its idle power."""
    rest_w = sum(one.watts((name,)) for one in idles) / 2
    return tuple(one.joules[name] - rest_w * one.seconds for one in windows)


def doubt(stand: Stand, own: tuple[float, ...], windows: list[Window], name: str) -> str:
    """Return why a component's energy cannot be told, or nothing."""
    if not any(one.joules[name] for one in windows):
        return f"{stand.meter.name} read 0 J all the time: not used, or not counted on this machine"
    if min(own) < stand.meter.resolution / stand.effort.share:
        steps = f"too little for a counter of steps of {stand.meter.resolution:g} J"
        return f"used {min(own):.3g} J above idle in a window: {steps}"
    return ""

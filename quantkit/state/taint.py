"""Was a measurement disturbed? Two snapshots around it, compared; a line for every reason, with figure and limit."""

from __future__ import annotations

from dataclasses import dataclass

from quantkit.errors import ClockStepped
from quantkit.state.record import Snapshot

MIB = 2**20


@dataclass(frozen=True)
class Limits:
    """From where on a measurement counts as disturbed.

    Args:
        others_cores: processor time of others, in cores. A quarter of a core is more than an idle system's own
            services take, and less than any process that computes.
        others_share: the same as a share of the cores that may be used; the larger limit of the two holds. Idle
            desktops with ten cores use half of one, on cores that a measurement of few threads does not need.
        stolen_cores: time given by the hypervisor to other machines. It is taken from under a running process, so
            that a tenth of a core is a tenth of the speed.
        ticks: steps of the system's own counting by which a figure may be wrong without any disturbance.
        swap_bytes: moved from or to the disk. A stray page costs microseconds, a MiB is 256 page faults.
        clock_s: difference of the two clocks. Time servers slew by at most half a millisecond a second
            (`clock_share`); what differs by more was set, or the machine slept.
        clock_share: the same, for each second between the snapshots.
    """

    others_cores: float = 0.25
    others_share: float = 0.05
    stolen_cores: float = 0.10
    ticks: float = 2.0
    swap_bytes: int = MIB
    clock_s: float = 0.02
    clock_share: float = 0.001


def disturbances(before: Snapshot, after: Snapshot, own_s: float | None, limits: Limits = Limits()) -> tuple[str, ...]:
    """Return why a measurement between the two is tainted, a line for each reason; empty where nothing disturbed it.

    What either snapshot does not know gives no reason. A battery or a low-power mode that was on all the time is
    no disturbance (all arms of a round saw it): `conditions` states it.

    Args:
        own_s: processor seconds that the measurement used in between; None is not known, and others' are not judged.

    Raises:
        ClockStepped: the monotonic clock went backwards, or both are from different starts of the machine.
    """
    wall = after.monotonic_s - before.monotonic_s
    if wall < 0:
        raise ClockStepped(
            f"the monotonic clock went back by {-wall:.6f} s between two looks at the machine: nothing timed in "
            "between can be used; measure again, and if it stays, on another machine"
        )
    reasons = (
        _others(before, after, wall, own_s, limits), _stolen(before, after, wall, limits),
        _swapped(before, after, limits), _stepped(before, after, wall, limits), _throttled(before, after),
        _hot(after), _power(before, after),
    )  # fmt: skip
    return tuple(reason for reason in reasons if reason)


def _others(before: Snapshot, after: Snapshot, wall: float, own_s: float | None, limits: Limits) -> str:
    if own_s is None or before.busy_s is None or after.busy_s is None:
        return ""
    others = after.busy_s - before.busy_s - own_s
    allowed = max(limits.others_cores, limits.others_share * (after.cores or 1))
    if others <= allowed * wall + limits.ticks * (after.tick_s or 0.0) or not wall:
        return ""
    return f"other processes used {others / wall:.2f} cores (limit {allowed:.2f})"


def _stolen(before: Snapshot, after: Snapshot, wall: float, limits: Limits) -> str:
    if before.stolen_s is None or after.stolen_s is None:
        return ""
    stolen = after.stolen_s - before.stolen_s
    if stolen <= limits.stolen_cores * wall + limits.ticks * (after.tick_s or 0.0) or not wall:
        return ""
    return f"the hypervisor took {stolen / wall:.2f} cores (limit {limits.stolen_cores:.2f})"


def _swapped(before: Snapshot, after: Snapshot, limits: Limits) -> str:
    counters = ((before.swap_in_bytes, after.swap_in_bytes), (before.swap_out_bytes, after.swap_out_bytes))
    known = [later - earlier for earlier, later in counters if earlier is not None and later is not None]
    if not known and before.swap_used_bytes is not None and after.swap_used_bytes is not None:
        known = [abs(after.swap_used_bytes - before.swap_used_bytes)]
    if sum(known) <= limits.swap_bytes:
        return ""
    return f"{sum(known) / MIB:.1f} MiB were swapped (limit {limits.swap_bytes / MIB:.1f} MiB)"


def _stepped(before: Snapshot, after: Snapshot, wall: float, limits: Limits) -> str:
    ahead = after.wall_s - before.wall_s - wall
    allowed = limits.clock_s + limits.clock_share * wall
    if abs(ahead) <= allowed:
        return ""
    word = "ahead, it was set or the machine slept" if ahead > 0 else "back, it was set"
    return f"the wall clock stepped {abs(ahead):.3f} s {word} (limit {allowed:.3f} s)"


def _throttled(before: Snapshot, after: Snapshot) -> str:
    if before.throttles is None or after.throttles is None or after.throttles <= before.throttles:
        return ""
    return f"the processor slowed itself down {after.throttles - before.throttles} times because of heat (limit 0)"


def _hot(after: Snapshot) -> str:
    if after.speed_limit is not None and after.speed_limit < 1:
        return f"the system limits the processor to {after.speed_limit * 100:.0f} % of its speed (limit 100 %)"
    if after.thermal_pressure in ("serious", "critical"):
        return f"thermal pressure is {after.thermal_pressure} (limit fair)"
    return ""


def _power(before: Snapshot, after: Snapshot) -> str:
    if None not in (before.power_source, after.power_source) and before.power_source != after.power_source:
        return f"the power source changed from {before.power_source} to {after.power_source}"
    if None not in (before.low_power, after.low_power) and before.low_power != after.low_power:
        return f"the low-power mode was switched {'on' if after.low_power else 'off'}"
    return ""


def conditions(state: Snapshot) -> tuple[str, ...]:
    """Return what makes this machine or process slower all the time: no disturbance, but a reader should know."""
    said = {
        f"on {state.power_source} power": state.power_source in ("battery", "ups"),
        "low-power mode": bool(state.low_power),
        f"thermal pressure {state.thermal_pressure}": state.thermal_pressure not in (None, "nominal"),
        f"quality of service {state.qos}": state.qos in ("utility", "background"),
        f"niceness {state.nice}": bool(state.nice),
    }
    return tuple(line for line, holds in said.items() if holds)

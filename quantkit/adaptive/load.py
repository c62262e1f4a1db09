"""Load: how much precision the queue leaves time for, without flapping; and how many requests to answer at once.

Level 0 is the cascade as calibrated. Each level above caps the precision at one step cheaper, down to a stated floor:
the capped precision has the last word, so nothing escalates past it. The level rises when the queue's expected wait
(depth times the mean service time at the present level) exceeds `high` times the latency target, and falls only when
the *next lower, slower* level would keep the wait below `low` times the target and could serve the arrivals at all
(arrivals per second times its service time below `busy`). Between the two nothing changes, and after any change nothing
changes for `dwell_s`: a load that swings inside the band never switches, and there is at most one switch per dwell
time. All of it is a pure function of state and observation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from quantkit.errors import InvalidSetting


@dataclass(frozen=True, slots=True)
class Policy:
    """What is promised under load.

    Args:
        target_s: the wait in the queue that is aimed at.
        floor: index of the cheapest precision that may have the last word under load, whatever its confidence
            (0 = the cheapest of all).
        high, low: the band, as shares of the target.
        busy: largest share of time that the level to fall back to may be busy.
        dwell_s: least time between two switches.
    """

    target_s: float
    floor: int = 0
    high: float = 1.0
    low: float = 0.5
    busy: float = 0.9
    dwell_s: float = 1.0

    def __post_init__(self) -> None:
        if not (0 < self.low < self.high and self.target_s > 0 and self.dwell_s >= 0 and self.floor >= 0):
            raise InvalidSetting(
                "a load policy needs target_s > 0, 0 < low < high, dwell_s >= 0 and floor >= 0: got "
                f"{self.target_s}, {self.low}, {self.high}, {self.dwell_s}, {self.floor}"
            )


@dataclass(frozen=True, slots=True)
class Observation:
    """What is seen when a request is about to be served.

    Args:
        depth: requests that wait, this one included.
        arrivals: requests per second, of late.
        service_s: mean seconds of one request at each level, 0 first.
    """

    now_s: float
    depth: int
    arrivals: float
    service_s: Sequence[float]


@dataclass(frozen=True, slots=True)
class State:
    """The level, when it was entered, and how often it changed."""

    level: int = 0
    since_s: float = float("-inf")
    switches: int = 0


def step(state: State, seen: Observation, policy: Policy) -> State:
    """Return the state after an observation: the same one, or one level higher or lower.

    >>> policy = Policy(target_s=0.1, dwell_s=1.0)
    >>> busy = step(State(), Observation(0.0, 20, 50.0, (0.02, 0.005)), policy)  # 20 · 0.02 s > 0.1 s
    >>> busy.level, step(busy, Observation(0.5, 1, 1.0, (0.02, 0.005)), policy).level  # the dwell time is not over
    (1, 1)
    >>> step(busy, Observation(1.0, 1, 1.0, (0.02, 0.005)), policy).level
    0
    """
    if seen.now_s - state.since_s < policy.dwell_s:
        return state
    level, service = state.level, seen.service_s
    if level + 1 < len(service) and seen.depth * service[level] > policy.high * policy.target_s:
        level += 1
    elif level and _eased(seen, service[level - 1], policy):
        level -= 1
    return (
        state if level == state.level else replace(state, level=level, since_s=seen.now_s, switches=state.switches + 1)
    )


def _eased(seen: Observation, slower_s: float, policy: Policy) -> bool:
    return seen.depth * slower_s < policy.low * policy.target_s and seen.arrivals * slower_s < policy.busy


def levels(precisions: int, policy: Policy | None) -> int:
    """Return how many levels there are: one for each precision from the full one down to the floor."""
    return 1 if policy is None else precisions - min(policy.floor, precisions - 1)


def cap(level: int, precisions: int) -> int:
    """Return the index of the most precise precision that a level allows."""
    return precisions - 1 - level


def batch(depth: int, sizes: Sequence[int]) -> int:
    """Return how many of the waiting requests to answer at once: the largest size that they fill.

    Args:
        sizes: batch sizes that artifacts were built for; 1 is always among them.

    >>> [batch(depth, (1, 4, 16)) for depth in (1, 3, 4, 40)]
    [1, 1, 4, 16]
    """
    return max(size for size in sizes if size <= max(1, depth))


def parts(count: int, sizes: Sequence[int]) -> list[int]:
    """Return sizes that add up to a count, the largest first.

    >>> parts(11, (1, 4))
    [4, 4, 1, 1, 1]
    """
    found: list[int] = []
    while count:
        found.append(batch(count, sizes))
        count -= found[-1]
    return found

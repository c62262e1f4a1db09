"""One block: both sides loaded anew, then timed in turn; the load is the experimental unit.

Caches, memory layout and the placement of threads are drawn once per load, so a load's calls resemble each other and a
block of many calls is one pair of numbers (Kalibera and Jones 2013, "Rigorous benchmarking in reasonable time").
Order is random twice: which side is loaded first, and which has the first turn of each pair of turns, because the load
that came first is about 1 % off on some runtimes.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from quantkit import state
from quantkit.latency.side import Host, Load, Side
from quantkit.pipeline.taint import watched

DROPPED_FROM = 4  # calls in a turn, from which on the first is dropped: it finds the other side's data in the caches


@dataclass(frozen=True)
class Pace:
    """How long a block is.

    Args:
        warmup_s: seconds of untimed calls of each load.
        turns: of each side.
        turn_s: seconds of a turn; a call that takes longer is a turn by itself.
        most: calls of one turn.
    """

    warmup_s: float = 0.015
    turns: int = 10
    turn_s: float = 0.008
    most: int = 500


@dataclass(frozen=True)
class Block:
    """What one pair of fresh loads gave.

    Args:
        seconds: of every timed call, reference then candidate.
        taint: why the block does not count; empty where it does.
        before: state of the machine and of this process before the first turn.
        after: state after the last turn.
    """

    seconds: tuple[tuple[float, ...], tuple[float, ...]]
    taint: tuple[str, ...]
    before: state.Snapshot
    after: state.Snapshot


class Pair:
    """Two sides, and the process or processes that their loads come from."""

    def __init__(self, reference: Side, candidate: Side, hosts: tuple[Host, Host], pace: Pace, seed: int):
        self.sides, self._hosts, self._pace = (reference, candidate), hosts, pace
        self._random = random.Random(seed)

    def block(self) -> Block:
        """Measure one block.

        Raises:
            CaseFailed: a side cannot be loaded, raised an error or crashed.
        """
        order = self._random.sample((0, 1), 2)
        if self._hosts[0] is not self._hosts[1]:
            for host in self._hosts:
                host.renew()
        with ExitStack() as stack:
            loads: dict[int, Load] = {}
            for which in order:
                loads[which] = self._hosts[which].load(self.sides[which])
                stack.callback(loads[which].end)
            for which in order:
                loads[which].time(self._pace.warmup_s, 1, self._pace.most)
            used, before = _cpu(loads), state.snapshot(slow=False)
            seconds = self._turns(loads)
            after = state.snapshot(slow=False)
            taint = state.disturbances(before, after, _cpu(loads) - used) if watched() else ()
        return Block((tuple(seconds[0]), tuple(seconds[1])), taint, before, after)

    def _turns(self, loads: dict[int, Load]) -> tuple[list[float], list[float]]:
        seconds: tuple[list[float], list[float]] = ([], [])
        for _ in range(self._pace.turns):
            for which in self._random.sample((0, 1), 2):
                calls = loads[which].time(self._pace.turn_s, 1, self._pace.most)
                seconds[which].extend(calls[1:] if len(calls) >= DROPPED_FROM else calls)
        return seconds


def _cpu(loads: dict[int, Load]) -> float:
    """Return the processor seconds of the loads and of this process so far."""
    return sum(load.cpu_s for load in loads.values()) + time.process_time()


@contextmanager
def paired(reference: Side, candidate: Side, pace: Pace, seed: int = 0) -> Iterator[Pair]:
    """Open the processes of two sides: one for both where they may share it, so that both have one memory layout."""
    with ExitStack() as stack:
        if reference.surroundings == candidate.surroundings:
            host = stack.enter_context(Host(reference, candidate))
            hosts = host, host
        else:
            hosts = stack.enter_context(Host(reference)), stack.enter_context(Host(candidate))
        yield Pair(reference, candidate, hosts, pace, seed)

"""One block: both sides loaded anew, then timed in turn; the load is the experimental unit.

Caches, memory layout and the placement of threads are drawn once per load, so a load's calls resemble each other and a
block of many calls is one pair of numbers (Kalibera and Jones 2013, "Rigorous benchmarking in reasonable time").
Order is random twice: which side is loaded first, and which has the first turn of each pair of turns, because the load
that came first is about 1 % off on some runtimes.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from quantkit import state
from quantkit.errors import InvalidSetting
from quantkit.latency.side import Host, Load, Say, Side
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

    Raises:
        InvalidSetting: no turn, no call, or a time that is no number from 0 on.
    """

    warmup_s: float = 0.015
    turns: int = 10
    turn_s: float = 0.008
    most: int = 500

    def __post_init__(self) -> None:
        if min(self.turns, self.most) < 1 or not (0 <= self.warmup_s < math.inf and 0 <= self.turn_s < math.inf):
            raise InvalidSetting(f"a pace has 1 turn and 1 call at least, and no negative seconds: got {self}")


class LimitTooShort(Exception):
    """Two blocks do not fit into the time; the message says how much they need."""


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

    def __init__(self, reference: Side, candidate: Side, hosts: tuple[Host, Host], pace: Pace, seed: int, say: Say):
        self.sides, self._hosts, self._pace, self._say = (reference, candidate), hosts, pace, say
        self._random = random.Random(seed)
        self.turns: int | None = None  # of a block; known when the first block has begun

    def block(self, limit_s: float, wanted: int) -> Block:
        """Measure one block; the first one settles how many turns the blocks have.

        Args:
            limit_s: of the comparison.
            wanted: blocks, as many of which as fit are aimed at where two whole ones do not.

        Raises:
            CaseFailed: a side cannot be loaded, raised an error or crashed.
            LimitTooShort: two blocks cannot fit, however few turns they have.
        """
        began, order = time.monotonic(), self._random.sample((0, 1), 2)
        if self._hosts[0] is not self._hosts[1]:
            for host in self._hosts:
                host.renew()
        with ExitStack() as stack:
            loads: dict[int, Load] = {}
            for which in order:
                loads[which] = self._hosts[which].load(self.sides[which])
                stack.callback(loads[which].end)
            calls_s: list[float] = []
            for which in order:
                calls_s.append(self._warm(loads[which]))
                self._afford(time.monotonic() - began, calls_s, limit_s)
            used, before = _cpu(loads), state.snapshot(slow=False)
            seconds = self._turns(loads, began, limit_s, wanted)
            after = state.snapshot(slow=False)
            taint = state.disturbances(before, after, _cpu(loads) - used) if watched() else ()
        return Block((tuple(seconds[0]), tuple(seconds[1])), taint, before, after)

    def _warm(self, load: Load) -> float:
        """Warm a load up; return the seconds of a call, by our own clock."""
        start = time.monotonic()
        calls = len(load.time(self._pace.warmup_s, 1, self._pace.most))
        return (time.monotonic() - start) / calls

    def _afford(self, taken_s: float, calls_s: list[float], limit_s: float) -> None:
        """End a comparison of slow calls before its first turn where two blocks cannot fit."""
        if self.turns is None and 2 * taken_s > limit_s:
            turn_s = 2 * sum(calls_s) / len(calls_s)
            raise LimitTooShort(too_short(taken_s + turn_s - sum(calls_s) + turn_s))

    def _turns(
        self, loads: dict[int, Load], began: float, limit_s: float, wanted: int
    ) -> tuple[list[float], list[float]]:
        seconds: tuple[list[float], list[float]] = ([], [])
        done, start = 0, time.monotonic()
        while done < (self.turns or self._pace.turns):
            for which in self._random.sample((0, 1), 2):
                calls = loads[which].time(self._pace.turn_s, 1, self._pace.most)
                seconds[which].extend(calls[1:] if len(calls) >= DROPPED_FROM else calls)
            done += 1
            if self.turns is None:
                self.turns = self._fitting(start - began, time.monotonic() - start, limit_s, wanted)
        return seconds

    def _fitting(self, before_s: float, turn_s: float, limit_s: float, wanted: int) -> int:
        """Return how many turns a block has: as many as the pace says, unless two such blocks do not fit."""
        whole = self._pace.turns
        if 2 * (before_s + whole * turn_s) <= limit_s:
            return whole
        turns = min(whole, max(1, int((limit_s / wanted - before_s) / turn_s)))
        self._say(f"a turn of both takes {turn_s:.2g} s: {turns} in a block, not {whole}, to keep to {limit_s:g} s")
        return turns

    @property
    def cut(self) -> bool:
        """Return whether blocks have fewer turns than the pace says."""
        return self.turns is not None and self.turns < self._pace.turns


def too_short(block_s: float) -> str:
    """Return the reason of a comparison whose limit two blocks of so many seconds do not fit into."""
    return f"two blocks do not fit into the limit: they need {math.ceil(2 * block_s)} s, and 8 are better; raise it"


def _cpu(loads: dict[int, Load]) -> float:
    """Return the processor seconds of the loads and of this process so far."""
    return sum(load.cpu_s for load in loads.values()) + time.process_time()


@contextmanager
def paired(reference: Side, candidate: Side, pace: Pace, seed: int = 0, say: Say = lambda line: None) -> Iterator[Pair]:
    """Open the processes of two sides: one for both where they may share it, so that both have one memory layout."""
    with ExitStack() as stack:
        if reference.surroundings == candidate.surroundings:
            host = stack.enter_context(Host(reference, candidate, say=say))
            hosts = host, host
        else:
            hosts = stack.enter_context(Host(reference, say=say)), stack.enter_context(Host(candidate, say=say))
        yield Pair(reference, candidate, hosts, pace, seed, say)

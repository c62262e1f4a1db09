"""The highest rate of arrivals at which a server keeps its latency bound: double or halve, then close in."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from quantkit.scenarios.load import LoadResult

CLOSE = 1.05  # the search ends when the lowest rate that failed is at most 5 % above the highest that passed
MOST = 16  # runs
SLOWEST = 64  # times slower than the start is slow enough


@dataclass
class Search:
    """Rates tried so far."""

    best: LoadResult | None = None  # the highest rate that was valid
    lowest: LoadResult | None = None  # the lowest that was tried, valid or not
    failed: float = math.inf

    def take(self, found: LoadResult) -> None:
        """Learn from one run.

        A rate that passed above one that failed is luck or noise: what failed stays the upper end.
        """
        rate = rate_of(found)
        if self.lowest is None or rate < rate_of(self.lowest):
            self.lowest = found
        if found.valid and (self.best is None or rate > rate_of(self.best)):
            self.best = found
        elif not found.valid:
            self.failed = min(self.failed, rate)

    def next(self) -> float:
        """Return the rate to try next."""
        assert self.lowest is not None
        if self.best is None:
            return self.failed / 2
        passed = rate_of(self.best)
        return 2 * passed if math.isinf(self.failed) else math.sqrt(passed * self.failed)


def rate_of(found: LoadResult) -> float:
    """Return the rate that a run was asked for."""
    assert found.load.rate is not None
    return found.load.rate


def highest(attempt: Callable[[float | None], LoadResult]) -> LoadResult:
    """Return the run with the highest rate that was valid, with all that was tried; else the one with the lowest rate.

    Args:
        attempt: runs one rate; None stands for the rate to begin with, which the run chooses from its own probe.
    """
    search, rate = Search(), None
    tried: list[dict[str, Any]] = []
    while len(tried) < MOST:
        found = attempt(rate)
        tried.append({"rate": rate_of(found), "valid": found.valid, "judged_s": found.judged_s})
        search.take(found)
        if search.best is None and found.item_s > found.load.latency_s:
            why = f"one answer alone takes {found.item_s * 1e3:.3g} ms, more than the bound: no rate keeps it"
            return replace(found, tried=tuple(tried), reasons=(why, *found.reasons))
        slow = search.best is None and rate_of(found) < tried[0]["rate"] / SLOWEST
        near = search.best is not None and search.failed <= CLOSE * rate_of(search.best)
        if slow or near:
            break
        rate = search.next()
    kept = search.best or search.lowest
    assert kept is not None
    return replace(kept, tried=tuple(tried))

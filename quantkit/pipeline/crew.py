"""The places where cases run: one host process for each toolchain and purpose, two side by side for untimed work.

Untimed work shares the machine with that of other runs, timed work has it alone: see `pipeline.locks`.
"""

from __future__ import annotations

import os
import queue
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from typing import Any, Literal, TypeVar

from quantkit.catalog import BACKENDS
from quantkit.errors import CaseFailed
from quantkit.pipeline.board import Board
from quantkit.pipeline.isolate import Limits, Workshop
from quantkit.pipeline.locks import Room, Tell
from quantkit.pipeline.settings import cache_folder

Purpose = Literal["original", "build", "evaluate", "trial", "energy"]
PLACES: dict[Purpose, Purpose] = {"original": "build", "energy": "trial"}  # hosts that have what these need
T = TypeVar("T")


@contextmanager
def alone(what: str = "time something") -> Iterator[None]:
    """Wait until no other work of this user's runs is done on this machine, and keep others waiting meanwhile."""
    with Room().alone(what):
        yield


def slots(processes: int = 1) -> int:
    """Return how many untimed jobs may run at once in each of the processes that share this machine."""
    return max(1, min(4, os.cpu_count() or 1) // processes)


class Crew:
    """Keeps the hosts of a run and counts the time that was spent inside the models' own building and running.

    Args:
        size: how many untimed jobs run at once; timed jobs always run alone.
        environment: variables that the hosts get besides this process's own.
        say: is told once for whom this run waits.
        board: where it is noted what was done when; by default nowhere.
    """

    def __init__(
        self,
        size: int | None = None,
        environment: Mapping[str, str] | None = None,
        *,
        say: Tell = lambda line: None,
        board: Board | None = None,
    ):
        self._environment = dict(environment or {})
        self._room = Room(say, self._go_on)
        self.board = board or Board()
        self.board.check = self._go_on
        self.size = size or slots()
        self._slots: queue.LifoQueue[int] = queue.LifoQueue()  # timed jobs find their host again
        for slot in range(self.size):
            self._slots.put(slot)
        self._shops: dict[tuple[int, Purpose, str], Workshop] = {}
        self._spans: list[tuple[float, float]] = []
        self.closed = False

    def __enter__(self) -> Crew:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End all hosts and what runs in them; nothing is started afterwards."""
        self.closed = True
        self.rest()

    def rest(self) -> None:
        """End all hosts, so that none of them holds memory; the next job opens its own again."""
        while self._shops:
            self._shops.popitem()[1].close()

    def _go_on(self) -> None:
        if self.closed:
            raise CaseFailed("the run is ending")

    def call(self, purpose: Purpose, backend: str, *arguments: Any, limits: Limits) -> dict[str, Any]:
        """Run the function of `pipeline.inside` (`.energy`, `.trial`) that has the purpose's name, in its own process.

        Its value has the key `elapsed_s`: the seconds inside its own work.
        """
        slot = self._slots.get()
        place = PLACES.get(purpose, purpose)
        module = purpose if purpose in ("energy", "trial") else "inside"
        try:
            shop = self._shops.get((slot, place, backend)) or self._hire(slot, place, backend)
            value = shop.call(f"quantkit.pipeline.{module}:{purpose}", *arguments, limits=limits)
            now = time.monotonic()
            self._spans.append((now - value["elapsed_s"], now))
            of = getattr(arguments[0], "model", "")
            self.board.note("work", purpose=purpose, of=of, start=now - value["elapsed_s"], stop=now)
            return value
        finally:
            self._slots.put(slot)

    def _hire(self, slot: int, purpose: Purpose, backend: str) -> Workshop:
        """Open a host that has imported what the purpose needs; for trials that is the deployed runtime alone."""
        self._go_on()
        plugin, judging = BACKENDS.get(backend), "quantkit.numerics.outcomes"
        evaluating = (*plugin.run_modules, judging)
        modules = {
            "build": plugin.build_modules,
            "evaluate": evaluating,
            "trial": ("quantkit.pipeline.trial", *plugin.run_modules),
        }
        compiler_cache = {"TORCHINDUCTOR_CACHE_DIR": str(cache_folder() / "inductor")}
        shop = Workshop(("quantkit.pipeline.inside", *modules[purpose]), compiler_cache | self._environment)
        self._shops[slot, purpose, backend] = shop
        return shop

    def each(self, items: Iterable[T], work: Callable[[T], None]) -> None:
        """Do untimed work on every item, `size` at a time; the first error that is not a case's own ends it."""

        def in_company(item: T) -> None:
            with self.shared("build and judge"):
                work(item)

        with ThreadPoolExecutor(self.size) as pool:
            futures = [pool.submit(in_company, item) for item in items]
            try:
                for future in as_completed(futures):
                    future.result()
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                self.close()
                raise

    @contextmanager
    def shared(self, what: str) -> Iterator[None]:
        """Do untimed work on the machine, beside that of others."""
        with self._noted("shared", what):
            yield

    @contextmanager
    def alone(self, what: str) -> Iterator[None]:
        """Do timed work alone on the machine, as `alone` above."""
        with self._noted("alone", what):
            yield

    @contextmanager
    def _noted(self, kind: Literal["shared", "alone"], what: str) -> Iterator[None]:
        asked = time.monotonic()  # one clock for all processes of a machine
        with self._room.alone(what) if kind == "alone" else self._room.shared(what):
            start = time.monotonic()
            try:
                yield
            finally:
                self.board.note(kind, what=what, asked=asked, start=start, stop=time.monotonic())

    def busy_s(self) -> float:
        """Return the time during which at least one job was inside its own work, seconds."""
        return union_s(self._spans)


def union_s(spans: Iterable[tuple[float, float]]) -> float:
    """Return the length of the union of intervals.

    >>> union_s([(4.0, 5.0), (0.0, 2.0), (1.0, 3.0)])
    4.0
    """
    total, end = 0.0, float("-inf")
    for start, stop in sorted(spans):
        total += max(0.0, stop - max(start, end))
        end = max(end, stop)
    return total

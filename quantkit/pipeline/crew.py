"""The places where cases run: one host process for each toolchain and purpose, two side by side for untimed work."""

from __future__ import annotations

import fcntl
import os
import queue
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, TypeVar

from quantkit.catalog import BACKENDS
from quantkit.errors import CaseFailed
from quantkit.pipeline.isolate import Limits, Workshop
from quantkit.pipeline.settings import cache_folder

Purpose = Literal["original", "build", "evaluate", "trial"]
T = TypeVar("T")


@contextmanager
def alone() -> Iterator[None]:
    """Wait until no other run of this user is timing on this machine, and keep others waiting meanwhile."""
    with (Path(tempfile.gettempdir()) / f"quantkit-{os.getuid()}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


class Crew:
    """Keeps the hosts of a run and counts the time that was spent inside the models' own building and running.

    Args:
        size: how many untimed jobs run at once; timed jobs always run alone.
        environment: variables that the hosts get besides this process's own.
    """

    def __init__(self, size: int | None = None, environment: Mapping[str, str] | None = None):
        self._environment = dict(environment or {})
        self.size = size or max(1, min(4, os.cpu_count() or 1))
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
        for shop in list(self._shops.values()):
            shop.close()

    def call(self, purpose: Purpose, backend: str, *arguments: Any, limits: Limits) -> dict[str, Any]:
        """Run the function of `pipeline.inside` that has the purpose's name, in a process of its own.

        Its value has the key `elapsed_s`: the seconds inside its own work.
        """
        slot = self._slots.get()
        place: Purpose = "build" if purpose == "original" else purpose  # builders have PyTorch already
        try:
            shop = self._shops.get((slot, place, backend)) or self._hire(slot, place, backend)
            value = shop.call(f"quantkit.pipeline.inside:{purpose}", *arguments, limits=limits)
            now = time.monotonic()
            self._spans.append((now - value["elapsed_s"], now))
            return value
        finally:
            self._slots.put(slot)

    def _hire(self, slot: int, purpose: Purpose, backend: str) -> Workshop:
        """Open a host that has imported what the purpose needs; for trials that is the deployed runtime alone."""
        if self.closed:
            raise CaseFailed("the run is ending")
        plugin, judging = BACKENDS.get(backend), "quantkit.numerics.outcomes"
        evaluating = (*plugin.run_modules, judging)
        modules = {"build": plugin.build_modules, "evaluate": evaluating, "trial": plugin.run_modules}
        compiler_cache = {"TORCHINDUCTOR_CACHE_DIR": str(cache_folder() / "inductor")}
        shop = Workshop(("quantkit.pipeline.inside", *modules[purpose]), compiler_cache | self._environment)
        self._shops[slot, purpose, backend] = shop
        return shop

    def each(self, items: Iterable[T], work: Callable[[T], None]) -> None:
        """Do untimed work on every item, `size` at a time; the first error that is not a case's own ends it."""
        with ThreadPoolExecutor(self.size) as pool:
            futures = [pool.submit(work, item) for item in items]
            try:
                for future in as_completed(futures):
                    future.result()
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                self.close()
                raise

    def busy_s(self) -> float:
        """Return the time during which at least one job was inside its own work (the union of all spans), seconds."""
        total, end = 0.0, 0.0
        for start, stop in sorted(self._spans):
            total += max(0.0, stop - max(start, end))
            end = max(end, stop)
        return total

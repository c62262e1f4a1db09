"""Artifacts as sides: a case of the zoo is built as for a benchmark, and loaded as when deployed."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from quantkit.catalog import BACKENDS, DATASETS, MODELS
from quantkit.contracts import Arrays, steps
from quantkit.errors import Unsupported
from quantkit.latency.side import Side
from quantkit.pipeline.artifact import artifact
from quantkit.pipeline.inside import INPUTS, opened
from quantkit.pipeline.plan import untimed
from quantkit.pipeline.settings import Settings
from quantkit.records import Case

Say = Callable[[str], None]


def side_of(case: Case, settings: Settings, say: Say) -> Side:
    """Return the side of a case; its artifact is taken from the cache or built.

    Raises:
        Unsupported: the case cannot run here, or nothing can be timed on its target.
    """
    if reason := untimed(case):
        raise Unsupported(f"{case.id} cannot be timed here: {reason}")
    folder = artifact(case, settings, say).folder
    backend = BACKENDS.get(case.backend)
    arguments = case, str(folder), _inputs(case.model), settings.threads
    spec = "factory", "quantkit.latency.artifact:Opened", *arguments
    return Side(case.id, spec, modules=(__name__, *backend.run_modules))


def _inputs(model: str) -> list[Arrays]:
    """Return the inputs of the timed calls: the first evaluation items, or the first positions of one."""
    entry = MODELS.get(model)
    split = DATASETS.get(entry.info.dataset).evaluation(INPUTS)
    if entry.info.stepwise:
        return list(islice(steps(split.item(0)), INPUTS))
    return [split.item(i) for i in range(len(split))]


class Opened:
    """An artifact on its target; each call answers the next input. Made in the process that is timed."""

    def __init__(self, case: Case, folder: str, inputs: list[Arrays], threads: int):
        self._session, target = opened(case, Path(folder), Settings(threads=threads))
        self._fed: list[Any] = [self._session.feed(tuple(map(np.ascontiguousarray, item))) for item in inputs]
        self._next = 0
        self.clock, self.wait = target.clock, target.synchronize

    def __call__(self) -> None:
        """Answer the next input."""
        self._session.run(self._fed[self._next])
        self._next = (self._next + 1) % len(self._fed)

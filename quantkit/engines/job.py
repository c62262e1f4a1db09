"""A user's network and items in the hands of the pipeline: lent to the catalog, built, answered, timed, judged."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import nn

from quantkit.catalog import DATASETS, METHODS, MODELS, VARIABLE, Catalog
from quantkit.contracts import Arrays, BuildReport, ModelInfo, Plan
from quantkit.deploy import export
from quantkit.deploy.request import Request, Subject
from quantkit.engines import face, loader, own
from quantkit.engines.warn import warn
from quantkit.errors import CalibrationError
from quantkit.pipeline import execute
from quantkit.pipeline.arm import Arm
from quantkit.pipeline.crew import Crew
from quantkit.pipeline.result import build_report
from quantkit.pipeline.settings import Settings, cache_folder
from quantkit.pipeline.store import Store
from quantkit.procedures.calibration import cleaned
from quantkit.records import Case, Result

LOG = logging.getLogger("quantkit")


@dataclass(frozen=True)
class Made:
    """A finished artifact in the pipeline's cache, its answers judged.

    Args:
        reference: outcomes of the original network, or None where the loader has no usable targets.
    """

    case: Case
    folder: Path
    report: BuildReport
    result: Result
    reference: list[float] | None
    arms: tuple[Arm, Arm] = field(repr=False)


class Job:
    """Use it as a context manager; folders and processes end with it, artifacts stay in the pipeline's cache.

    Args:
        model: never changed; what is quantized is a copy.
        data: a DataLoader, or another iterable of batches.
        settings: of the pipeline; `calibration` is the number of items to calibrate with.
        parts: how the loader is divided; by default a fifth, at most 256 items, is kept apart to judge on.

    Raises:
        CalibrationError: there are no usable items.
        QuantizationError: the model cannot be copied or called; Unsupported: it refuses its own data.
    """

    def __init__(self, model: nn.Module, data: Any, settings: Settings, parts: loader.Parts | None = None):
        copied, said = face.copied(model)
        self.given, self.settings = model, replace(settings, items=None, few_items=False)
        self.fallbacks: list[str] = []
        self.trained: dict[tuple[str, str], tuple[str, dict[str, Any]]] = {}  # by method and grid: trained only once
        self.items = self._items(model, data, parts or loader.Parts(settings.calibration))
        few = tuple(x[: own.PROBED] for x in self.items.evaluation.inputs)
        self.network, answers, more = face.face(copied, self.items.names, few)
        self.notes = (*said, *self.items.notes, *more)
        self.original_bytes = stored_bytes(model)
        self._answers, self._open = answers, ExitStack()

    def _items(self, model: nn.Module, data: Any, parts: loader.Parts) -> loader.Items:
        try:
            return loader.items_of(model, data, parts)
        except CalibrationError as error:
            if not isinstance(data, Iterable) or iter(data) is data:  # what an iterator gave is gone
                raise
            try:
                items = loader.items_of(model, data, parts, cleaned)
            except CalibrationError:
                raise error from None
            self.fall_back(f"calibration: {error}; instead: {'; '.join(items.notes)}")
            return items

    def fall_back(self, message: str) -> None:
        """Say and keep that something else was done than what was asked."""
        self.fallbacks.append(warn(message))

    def __enter__(self) -> Job:
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="quantkit-own-")))
            (folder / "methods").mkdir()
            data = self._lend(stack, DATASETS, own.data_file(folder, self.items))
            file = own.model_file(folder, self.network, self.items, self._answers, data)
            self.model, self._folder = self._lend(stack, MODELS, file), folder
            places = [str(folder), *filter(None, [os.environ.get(VARIABLE)])]
            self._crew = stack.enter_context(Crew(1, {VARIABLE: os.pathsep.join(places)}, say=LOG.info))
            self.run = execute.Run(self.settings, Store(cache_folder() / "own" / "results.db"), self._crew, LOG.info)
            self._open = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def _lend(self, stack: ExitStack, catalog: Catalog, file: Path) -> str:
        plugin = own.read(str(file))
        stack.enter_context(catalog.lend(file.stem, plugin, file))
        return file.stem

    @property
    def info(self) -> ModelInfo:
        """The description that was read off the network's layers."""
        info: ModelInfo = MODELS.get(self.model).info
        return info

    @property
    def example(self) -> Arrays:
        """Inputs of one item, a batch of one: they fix the artifact's shapes."""
        return self.items.evaluation.item(0)

    def theirs(self, layer: str) -> str:
        """Return a layer's name in the given network, which a `Face` may be wrapped around."""
        return layer.removeprefix("network.") if isinstance(self.network, face.Face) else layer

    def planned(self, title: str, plan: Plan, trained: nn.Module | None = None) -> str:
        """Return the name of a method that gives this plan, and these weights where they were trained for it."""
        return self._lend(self._open, METHODS, own.method_file(self._folder, title, plan, trained))

    def refuse(self, case: Case) -> None:
        """Raise what stands in the way of a case, before anything is built.

        Raises:
            Unsupported: method or backend cannot do this; MissingExtra: a toolchain is not installed.
        """
        export.refuse(Request(Subject(case.model), case.method, case.backend, self.settings), self.info)

    def quantize(self, method: str, backend: str, target: str = "cpu") -> Made:
        """Build one artifact, answer the held-out items on it, and compare the answers with the original's.

        Raises:
            QuantizationError: what ended it, of its own class.
        """
        case = Case(self.model, method, backend, target)
        self.refuse(case)
        run = replace(self.run, settings=replace(self.settings, rounds=0))
        original, arm = Arm(case), execute.enter(case, run)
        for step, one in ((execute.ask, original), (execute.build, arm), (execute.answer, arm)):
            step(one, run)
            if one.ended is not None:
                raise one.ended
        result = execute.conclude(arm, original, None, run)
        if arm.ended is not None:
            raise arm.ended
        assert arm.built is not None and original.answered is not None
        report = build_report(arm.built.facts["report"])
        return Made(case, arm.built.folder, report, result, original.answered.facts["outcomes"], (original, arm))

    def benchmark(self, cases: Sequence[Case]) -> dict[Case, Result]:
        """Return the results of cases and of the full-precision ones that they are compared with, all timed."""
        return {result.case: result for result in execute.execute(cases, self.run)}


def stored_bytes(network: nn.Module) -> int:
    """Return the bytes of all weights and buffers of a network, each counted once."""
    tensors = {id(t): t for t in (*network.parameters(), *network.buffers())}
    return sum(t.numel() * t.element_size() for t in tensors.values())

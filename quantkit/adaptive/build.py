"""The precisions of a session: artifacts from the same cache as all others, opened, asked, and calibrated.

An artifact has the fixed shapes of its example, so each batch size is an artifact of its own. The items of a static
method's calibration are then handed over in groups of that size. Methods that take ranges at run time are not batched:
one range for a whole batch would make an answer depend on its neighbours. Models that keep a state are not either.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from quantkit.adaptive import cascade, feedback
from quantkit.adaptive.confidence import kind, scores
from quantkit.adaptive.inputs import Guard, guard
from quantkit.adaptive.ladder import Precision
from quantkit.adaptive.load import Policy
from quantkit.adaptive.session import AdaptiveSession, Rules
from quantkit.catalog import BACKENDS, DATASETS, METHODS, MODELS, TARGETS
from quantkit.contracts import Arrays, Model, Session, Split, Target
from quantkit.errors import InvalidSetting, Unsupported
from quantkit.pipeline import artifact as pipeline_artifact
from quantkit.pipeline import inside, keys
from quantkit.pipeline.cache import Entry, digest, obtain
from quantkit.pipeline.plan import unsupported
from quantkit.pipeline.settings import Settings, cache_folder
from quantkit.pipeline.sources import source_hash
from quantkit.records import Case

Say = Callable[[str], None]
FALSE_ALARMS = 0.01  # share of ordinary requests that the guard may send to full precision


@dataclass(frozen=True)
class Grouped(Split):
    """Items that are handed over `size` at a time; what does not fill a group is left out."""

    size: int = 1

    def __len__(self) -> int:
        return len(self.inputs[0]) // self.size

    def item(self, index: int) -> Arrays:
        """Return the inputs of one group as a batch."""
        return tuple(x[index * self.size : (index + 1) * self.size].copy() for x in self.inputs)


def grouped(split: Split, size: int) -> Grouped:
    """Return the items in groups, named after the first of each."""
    count = len(split) // size
    return Grouped(
        tuple(x[: count * size] for x in split.inputs),
        split.targets[: count * size],
        split.ids[: count * size : size],
        size,
    )


def batched(case: Case, folder: Path, settings: Settings, size: int) -> dict[str, Any]:
    """Build the artifact for a batch of `size` items, as `pipeline.inside.build` does for one; runs in its process."""
    started = time.perf_counter()
    model, method = MODELS.get(case.model), METHODS.get(case.method)
    dataset = DATASETS.get(model.info.dataset)
    calibration = None
    if method.needs_calibration:
        items = dataset.calibration(settings.calibration)
        inside.check_calibration(items)
        calibration = grouped(items, size)
    example = grouped(dataset.evaluation(size), size).item(0)
    prepared = method.prepare(model.load(), example, calibration)
    report = BACKENDS.get(case.backend).build(prepared, folder, settings.threads)
    return {"report": asdict(report), "elapsed_s": time.perf_counter() - started}


def artifact(case: Case, settings: Settings, say: Say, *, size: int = 1) -> Entry:
    """Return the artifact of a case for batches of `size` from the cache, or build it first in a process of its own.

    Raises:
        Unsupported: the case cannot run here, or cannot be batched.
    """
    if size == 1:
        return pipeline_artifact.artifact(case, settings, say)
    if reason := unsupported(case) or unbatched(case):
        raise Unsupported(f"{case.id}: {reason}")

    def make(folder: Path) -> dict[str, Any]:
        say(f"building  {case.id} for batches of {size}")
        return pipeline_artifact.built(case, "quantkit.adaptive.build:batched", folder, settings, settings, size)

    key = digest([keys.artifact_key(case, settings), size, source_hash(Path(__file__))])
    return obtain(cache_folder() / "artifacts", key, make, say)


def unbatched(case: Case) -> str | None:
    """Return why a case's items cannot be answered together, or None."""
    if MODELS.get(case.model).info.stepwise:
        return "a model that keeps a state answers one request at a time"
    if METHODS.get(case.method).scheme.activations == "dynamic":
        return "ranges taken at run time would be shared by the batch: answers would depend on their neighbours"
    return None


@contextmanager
def opened(
    cases: Sequence[Case], settings: Settings, say: Say, *, sizes: Sequence[int] = (1,)
) -> Iterator[list[Precision]]:
    """Give the precisions of these cases, named by method, in this order; close them at the end.

    Raises:
        InvalidSetting: cases of different models, backends or targets, or batch sizes without 1.
        Unsupported: a model that keeps a state or answers no class scores, or a case that cannot run here.
    """
    if len({(case.model, case.backend, case.target) for case in cases}) != 1 or 1 not in sizes:
        raise InvalidSetting(f"a session has one model, backend and target, and batch size 1: got {cases}, {sizes}")
    info = MODELS.get(cases[0].model).info
    if not info.logits:
        raise Unsupported(f"{info.name} answers no class scores, so that it has no confidence to decide by")
    if info.stepwise:
        raise Unsupported(f"{cases[0].model} keeps a state between calls: a cascade would need one for each precision")
    target = TARGETS.get(cases[0].target)
    precisions: list[Precision] = []
    try:
        for case in cases:
            sessions: dict[int, Session] = {}
            precisions.append(Precision(case.method, sessions))
            for size in sorted(set(sizes)):
                folder = artifact(case, settings, say, size=size).folder
                session = BACKENDS.get(case.backend).open(folder, target, settings.threads)
                sessions[size] = target.attach(session, case)
        yield precisions
    finally:
        for precision in precisions:
            for session in precision.sessions.values():
                session.close()


def answers(precisions: Sequence[Precision], items: Split, target: Target) -> tuple[np.ndarray, tuple[float, ...]]:
    """Return every precision's scores for every item, [precisions, n, classes], and the seconds of one answer.

    Items go one by one, all precisions in turn, so that what drifts meanwhile meets all of them alike. The time is the
    median, from inputs to answer in NumPy.
    """
    found: list[list[np.ndarray]] = [[] for _ in precisions]
    seconds: list[list[float]] = [[] for _ in precisions]
    for i in range(len(items)):
        item = items.item(i)
        for k, precision in enumerate(precisions):
            started = target.clock()
            output = precision.outputs([item])
            seconds[k].append(target.clock() - started)
            found[k].append(scores(output))
    return np.stack([np.concatenate(rows) for rows in found]), tuple(float(np.median(s)) for s in seconds)


def evidence(
    model: Model,
    said: np.ndarray,
    items: Split,
    costs: tuple[float, ...],
    *,
    confidence: str = "margin",
    like: Guard | None = None,
) -> cascade.Evidence:
    """Return what the scores [precisions, n, classes] say of thresholds.

    Right is the item's label or, of a sequence, the token that came next; where a model has no such labels (random
    weights), right is what full precision says.
    """
    best = said.argmax(-1)
    labelled = model.info.logits and model.info.quality.outcome != "none"
    labels = items.targets if items.targets.ndim == 1 else items.targets[:, -1]
    right = best == (labels if labelled else best[-1])
    guarded = None if like is None else np.array([like.alarm(items.item(i)) for i in range(len(items))])
    return cascade.Evidence(np.stack([kind(confidence)(rows) for rows in said]), right, costs, guarded)


@dataclass(frozen=True)
class Wanted:
    """What a session is made for.

    Args:
        cases: cheapest first, full precision last.
        false_alarms: None has no guard.
        policy: None ignores load.
        audit: None compares nothing; its `allowed` is replaced by what validation shows.
    """

    cases: tuple[Case, ...]
    requirement: cascade.Requirement = field(default_factory=cascade.Requirement)
    confidence: str = "margin"
    false_alarms: float | None = FALSE_ALARMS
    policy: Policy | None = None
    audit: feedback.Audit | None = None

    def __post_init__(self) -> None:
        kind(self.confidence)  # an unknown name is refused before anything is built


def calibrated(
    wanted: Wanted, precisions: Sequence[Precision], validation: Split, *, seed: int = 0
) -> tuple[AdaptiveSession, cascade.Thresholds]:
    """Return a session whose thresholds keep the requirement, and how they were found.

    Args:
        precisions: of the cases, as `opened` gives them; the session uses them and does not close them.
        validation: labelled items that nothing was trained or calibrated on, drawn like the requests to come.

    Raises:
        CalibrationError: too few items for the guard or the thresholds.
    """
    model, target = MODELS.get(wanted.cases[0].model), TARGETS.get(wanted.cases[0].target)
    like = None
    if wanted.false_alarms is not None:
        like = guard(DATASETS.get(model.info.dataset).calibration(), rate=wanted.false_alarms, seed=seed)
    said, costs = answers(precisions, validation, target)
    seen = evidence(model, said, validation, costs, confidence=wanted.confidence, like=like)
    thresholds = cascade.calibrate(seen, wanted.requirement, seed=seed)
    audit = wanted.audit and replace(wanted.audit, allowed=_allowed(said, seen, thresholds))
    rules = Rules(thresholds.levels, wanted.confidence, like, wanted.policy, audit)
    return AdaptiveSession(precisions, rules, target, example=validation.item(0), seed=seed), thresholds


def _allowed(said: np.ndarray, seen: cascade.Evidence, thresholds: cascade.Thresholds) -> float:
    """Return the share of answers that may differ from full precision's: what validation shows, with its bound."""
    chosen = cascade.apply(seen, thresholds.values).chosen
    classes = said.argmax(-1)
    differ = classes[chosen, np.arange(len(chosen))] != classes[-1]
    return min(0.5, feedback.allowed(int(differ.sum()), len(differ), loss=thresholds.requirement.loss or 0.0))

"""What happens inside a case's own process: build the artifact, or answer every item (`trial.py` times it)."""

from __future__ import annotations

import hashlib
import time
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from quantkit.catalog import BACKENDS, DATASETS, METHODS, MODELS, TARGETS
from quantkit.contracts import (
    Arrays,
    Backend,
    LayerReport,
    Method,
    Model,
    Plan,
    Prepared,
    Session,
    Split,
    Target,
    steps,
)
from quantkit.errors import QuantizationError
from quantkit.pipeline.settings import Settings
from quantkit.procedures.calibration import check as check_calibration
from quantkit.records import Case

OUTPUTS, TIMED_INPUTS = "outputs.npy", "inputs.npz"
FIDELITY_VALUES = (
    2**23
)  # outputs that are kept to be compared with the baseline's: all of a classifier's, 32 MiB of logits
BATCH = 32  # items that the original network answers at once
INPUTS = 8  # timed calls go round this many items, so that no answer is served from a warm branch predictor alone


def build(case: Case, folder: Path, settings: Settings) -> dict[str, Any]:
    """Turn the model into the artifact's files in `folder`; return the build report and the seconds it took."""
    started = time.perf_counter()
    model, method = MODELS.get(case.model), METHODS.get(case.method)
    dataset = DATASETS.get(model.info.dataset)
    calibration = dataset.calibration(settings.items_for(method)) if method.needs_calibration else None
    example = dataset.evaluation(INPUTS).item(0)
    doubts: tuple[str, ...] = ()
    if calibration is not None:
        judged_on = evaluation_items(case.model, settings)
        doubts = check_calibration(calibration, example=example, evaluation=judged_on)
    if model.info.stepwise:
        example = next(steps(example))
    backend = BACKENDS.get(case.backend)
    prepared = prepare(method, model, backend, example, calibration, settings)
    report = backend.build(prepared, folder, settings.threads)
    layers, notes = explained(report.layers, prepared.plan), (*report.notes, *prepared.notes, *doubts)
    facts = {"report": asdict(replace(report, layers=layers, notes=notes)), "schemes": schemes_of(prepared.plan)}
    return facts | {"elapsed_s": time.perf_counter() - started}


def schemes_of(plan: Plan) -> list[str]:
    """Return the names of a plan's schemes where layers have several, the layers' own; else nothing."""
    names = {"float" if scheme is None else scheme.name for scheme in plan.layers.values()}
    return sorted(names) if len(names) > 1 else []


def explained(layers: tuple[LayerReport, ...], plan: Plan) -> tuple[LayerReport, ...]:
    """Return the layers; those that the plan itself keeps in floats, and no toolchain explained, say so."""
    kept = {name: "float" if s is None else s.name for name, s in plan.layers.items() if s is None or not s.quantized}
    return tuple(
        replace(x, reason=f"the plan keeps it in {kept[x.name]}") if x.name in kept and not x.reason else x
        for x in layers
    )


def prepare(
    method: Method, model: Model, backend: Backend, example: Arrays, calibration: Split | None, settings: Settings
) -> Prepared:  # fmt: skip
    """Return the prepared model; ranges are taken from as many items with one method as with another."""
    if hasattr(method, "for_model"):
        method = method.for_model(model)
    if hasattr(method, "for_backend"):
        method = method.for_backend(backend)
    prepared = method.prepare(model.load(), example, calibration)
    if prepared.calibration is None or len(prepared.calibration) <= settings.calibration:
        return prepared
    return replace(prepared, calibration=prepared.calibration.first(settings.calibration))


def evaluate(case: Case, folder: Path, kept: Path, settings: Settings) -> dict[str, Any]:
    """Answer every evaluation item one by one, on the artifact itself; keep the outputs, return the outcomes.

    The inputs of the first items are kept too, so that a timed process needs neither the data set nor the model.
    """
    started = time.perf_counter()
    model = MODELS.get(case.model)
    split = evaluation_items(case.model, settings)
    session, _ = opened(case, folder, settings)
    answer_item = _stepwise if model.info.stepwise else _at_once
    answers = np.concatenate([answer_item(session, split.item(i)) for i in range(len(split))])
    residency = dict(session.residency()) if hasattr(session, "residency") else {}
    session.close()
    np.savez(kept / TIMED_INPUTS, *map(np.concatenate, zip(*timed_inputs(model, split), strict=True)))
    answered = judged(case.id, model, answers, split, kept) | {"residency": residency}
    return answered | {"elapsed_s": time.perf_counter() - started}


def timed_inputs(model: Model, split: Split) -> list[Arrays]:
    """Return what the timed calls answer in turn: the first items, or the first positions of the first item."""
    if model.info.stepwise:
        return list(islice(steps(split.item(0)), INPUTS))
    return [split.item(i) for i in range(min(INPUTS, len(split)))]


def _at_once(session: Session, item: Arrays) -> np.ndarray:
    return session.fetch(session.run(session.feed(item)))


def _stepwise(session: Session, item: Arrays) -> np.ndarray:
    """Return [1, t, ...]: one call a position, the session's state kept from one to the next."""
    session.reset()  # type: ignore[attr-defined]  # the plan gives stepwise models to stateful backends only
    return np.concatenate([_at_once(session, step) for step in steps(item)], axis=1)


def judged(name: str, model: Model, answers: np.ndarray, split: Split, kept: Path) -> dict[str, Any]:
    """Keep the answers that fidelity is computed from; return the outcomes and how many items they are of."""
    answers = answers.astype(np.float32, copy=False)
    if not np.isfinite(answers).all():
        wrong = int((~np.isfinite(answers.reshape(len(answers), -1)).all(axis=1)).sum())
        raise QuantizationError(
            f"{name} answers nan or inf on {wrong} of {len(answers)} items: the artifact is not usable"
        )
    compared = max(1, min(len(answers), FIDELITY_VALUES // answers[0].size))
    np.save(kept / OUTPUTS, answers[:compared])
    outcomes = None
    if model.info.quality.outcome != "none":
        outcomes = model.outcomes(answers, split.targets).astype(float).tolist()
    named = hashlib.sha256("\n".join(split.ids).encode()).hexdigest()
    return {"outcomes": outcomes, "items": len(split), "item_ids": named, "fidelity_items": compared}


def original(case: Case, kept: Path, settings: Settings) -> dict[str, Any]:
    """Answer every item by the original network, PyTorch eager in float32: what all cases are compared with."""
    import torch

    started = time.perf_counter()
    torch.set_num_threads(settings.threads)
    model = MODELS.get(case.model)
    split, network = evaluation_items(case.model, settings), model.load()
    size = 1 if model.info.stepwise else BATCH
    with torch.inference_mode():
        rows = [_by_network(network, model, split, slice(i, i + size)) for i in range(0, len(split), size)]
    answers = np.concatenate(rows)
    return judged(f"{case.model} in PyTorch", model, answers, split, kept) | {
        "elapsed_s": time.perf_counter() - started
    }


def _by_network(network: Any, model: Model, split: Split, rows: slice) -> np.ndarray:
    """Return the network's answers to some items; a stepwise one starts with an empty state."""
    import torch

    item = tuple(x[rows] for x in split.inputs)
    if not model.info.stepwise:
        return network(*map(torch.from_numpy, item)).float().numpy()
    for name in network.states:
        network.get_buffer(name).zero_()
    return np.concatenate([network(*map(torch.from_numpy, step)).float().numpy() for step in steps(item)], axis=1)


def evaluation_items(model: str, settings: Settings) -> Split:
    """Return the evaluation items that these settings ask for."""
    dataset = DATASETS.get(MODELS.get(model).info.dataset)
    few = dataset.info.fast_items if settings.few_items else None
    return dataset.evaluation(few if settings.items is None else settings.items)


def opened(case: Case, folder: Path, settings: Settings) -> tuple[Session, Target]:
    """Return the artifact loaded on its target, and the target."""
    target = TARGETS.get(case.target)
    session = BACKENDS.get(case.backend).open(folder, target, settings.threads)
    return target.attach(session, case), target

"""Puts together the record of a case that went all the way: measurements by every metric, context, raw values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from quantkit.catalog import BACKENDS, DATASETS, METHODS, METRICS, MODELS, TARGETS
from quantkit.contracts import BuildReport, LayerReport, Observation, TensorInfo, Trial
from quantkit.errors import QuantizationError
from quantkit.pipeline import taint
from quantkit.pipeline.arm import Arm
from quantkit.pipeline.inside import OUTPUTS
from quantkit.pipeline.settings import Settings
from quantkit.records import Measurement, Result

ENDS = ("inputs", "outputs")
SAMPLED = 256
WIDEST_CODE = 8  # bits; wider weights are floats


def assemble(arm: Arm, original: Arm, baseline: Arm | None, settings: Settings) -> Result:
    """Return the result of an arm that was built, answered and timed; `baseline` is None for a baseline itself."""
    observation = observe(arm, original)
    measured = [m for name in METRICS.names() for m in measure(name, observation)]
    beside = baseline.trials if baseline is not None else []
    tainted = taint.verdict(arm.trials, beside, arm.reruns)
    return Result(
        arm.case,
        "tainted" if tainted else "ok",
        tainted,
        measurements={m.metric: m for m in measured},
        outcomes=tuple(observation.outcomes.tolist()) if observation.outcomes is not None else (),
        latencies_s=tuple(trial.latencies_s for trial in observation.trials),
        reference_latencies_s=tuple(tuple(t["trial"]["latencies_s"]) for t in beside),
        sample=sample(observation.outputs),
        context=context(arm, settings)
        | ({"baseline_key": baseline.answered.key} if baseline and baseline.answered else {}),
        elapsed_s=elapsed(arm),
    )


def sample(outputs: np.ndarray) -> tuple[float, ...]:
    """Return outputs at places that are the same for all cases of a model: two toolchains are compared by them."""
    places = np.random.PCG64(SAMPLED).random_raw(SAMPLED) % outputs.size
    return tuple(outputs.reshape(-1)[places].astype(float).tolist())


def measure(name: str, observation: Observation) -> Sequence[Measurement]:
    """Return what a metric measured.

    Raises:
        QuantizationError: a metric refused the outputs, or gave a value that is not finite.
    """
    try:
        measured = METRICS.get(name).measure(observation)
    except ValueError as error:
        raise QuantizationError(f"metric {name}: {error}") from error
    for measurement in measured:
        if not np.isfinite(measurement.values).all():
            raise QuantizationError(
                f"metric {name} gave a {measurement.metric} that is nan or inf: give a reason instead"
            )
    return measured


def observe(arm: Arm, original: Arm) -> Observation:
    """Return what metrics may look at."""
    assert arm.built is not None and arm.answered is not None and original.answered is not None
    outcomes = arm.answered.facts["outcomes"]
    return Observation(
        model=MODELS.get(arm.case.model).info,
        method=arm.case.method,
        build=build_report(arm.built.facts["report"]),
        artifact_bytes=arm.built.size_bytes,
        outputs=np.load(arm.answered.folder / OUTPUTS),
        reference=np.load(original.answered.folder / OUTPUTS),
        outcomes=None if outcomes is None else np.array(outcomes),
        trials=[trial_of(t["trial"]) for t in arm.trials],
        untimed=arm.untimed,
        energy=arm.energy,
        no_energy=arm.no_energy,
    )


def trial_of(raw: dict[str, Any]) -> Trial:
    """Return the trial that the store keeps as JSON until its race has ended."""
    return Trial(**raw | {name: tuple(raw.get(name, ())) for name in ("latencies_s", "disturbed")})


def build_report(raw: dict[str, Any]) -> BuildReport:
    """Return the report that the manifest keeps as JSON."""
    layers = tuple(LayerReport(**layer) for layer in raw["layers"])
    ends = {end: tuple(TensorInfo(t["name"], tuple(t["shape"]), t["dtype"]) for t in raw[end]) for end in ENDS}
    return BuildReport(**raw | {"layers": layers, "notes": tuple(raw["notes"])} | ends)


def context(arm: Arm, settings: Settings) -> dict[str, Any]:
    """Return the facts that a reader of the result needs and that no measurement holds."""
    assert arm.built is not None and arm.answered is not None
    case, report, backend = arm.case, arm.built.facts["report"], BACKENDS.get(arm.case.backend)
    model, method = MODELS.get(case.model).info, METHODS.get(case.method)
    dataset = DATASETS.get(model.dataset).info
    quality, data = model.quality, {"name": dataset.name, "licence": dataset.licence, "provenance": dataset.provenance}
    return {
        "profile": settings.profile,
        "baseline": method.baseline,
        "simulated": TARGETS.get(case.target).simulated,
        "threads": settings.threads,
        "items": arm.answered.facts["items"],
        "item_ids": arm.answered.facts.get("item_ids", ""),
        "fidelity_items": arm.answered.facts["fidelity_items"],
        "quality": asdict(quality),
        "model": {name: getattr(model, name) for name in ("domain", "family", "licence", "provenance")}
        | {"sha256": [source.sha256 for source in model.sources]},
        "data": data | {"sha256": dict(dataset.sha256)},
        "scheme": " + ".join(arm.built.facts.get("schemes", ()))
        or (method.scheme.name if method.scheme.quantized else report["format"]),
        "artifact": arm.built.key,
        "answers": arm.answered.key,
        "left_in_float": left_in_float(report) if method.scheme.quantized else [],
        **{name: report[name] for name in ("notes", "inputs", "outputs")},
        "executor": backend.executor(case.target),
        "residency": arm.answered.facts.get("residency", {}),
        "untimed": arm.untimed,
        "state": taint.state_of(arm),
        "backend_versions": dict(backend.versions()),
    }


def left_in_float(report: dict[str, Any]) -> list[str]:
    """Return every layer that a quantized artifact keeps in float, with the toolchain's reason."""
    float_layers = [layer for layer in report["layers"] if layer["reason"] or layer["bits"] > WIDEST_CODE]
    return [f"{layer['name']}: {layer['reason'] or 'the toolchain gives no reason'}" for layer in float_layers]


def elapsed(arm: Arm) -> dict[str, float]:
    """Return the seconds inside the model's own building and running, by phase."""
    assert arm.built is not None and arm.answered is not None
    return {
        "build": arm.built.facts["elapsed_s"],
        "evaluation": arm.answered.facts["elapsed_s"],
        "timing": sum(t["elapsed_s"] for t in arm.trials),
    }

"""Says so when a result keeps too little of the original's accuracy, with the layers that cost most."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from quantkit.catalog import METHODS
from quantkit.engines.job import Job, Made
from quantkit.engines.warn import warn
from quantkit.errors import QuantizationError, Unsupported
from quantkit.pipeline.result import WIDEST_CODE
from quantkit.procedures.blame import Blame, blame, judge
from quantkit.scheme import Scheme

TESTED = {"pass": "the paired test still passes", "regression": "the paired test agrees",
          "unavailable": "without targets there is no test"}  # fmt: skip


def hold(job: Job, made: Made, stats: dict[str, Any], threshold: float, *, strict: bool) -> None:
    """Warn, or refuse, when less than `threshold` of the accuracy is left; the layers to blame are named.

    Raises:
        QuantizationError: it is below and `strict`.
    """
    kept = stats["accuracy_retention"]
    if kept >= threshold:
        return
    tested = TESTED.get(stats["accuracy_verdict"], f"{stats['items']} items are too few for the paired test to decide")
    figures = f"{stats['original_accuracy']:.4g} -> {stats['accuracy']:.4g} on {stats['items']} items, {tested}"
    said = judge(kept, threshold, blamed(job, made)) or "its accuracy is not a number"
    message = f"{stats['quantization_method']}: {stats['accuracy_metric']} {figures}: {said}"
    if strict:
        raise QuantizationError(f"{message}; or take strict=False")
    stats["warnings"].append(warn(message))


def blamed(job: Job, made: Made) -> list[Blame]:
    """Return the layers that cost most, worst first; none where the scheme cannot be simulated."""
    method = METHODS.get(made.case.method)
    prepared = method.prepare(job.network, job.example, job.items.calibration)
    floats: dict[str, Scheme | None] = {layer.name: None for layer in made.report.layers if layer.bits > WIDEST_CODE}
    plan = replace(prepared.plan, layers={**prepared.plan.layers, **floats})  # what was left in float costs nothing
    try:
        found = blame(prepared.network, plan, job.items.calibration)
    except Unsupported:
        return []
    return [replace(one, layer=job.theirs(one.layer)) for one in found]

"""Whether an artifact kept the original's accuracy: the figures that an engine gives back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from quantkit.engines.job import Job, Made
from quantkit.records import Result
from quantkit.stats.retention import compare

NAN = float("nan")


@dataclass(frozen=True)
class Accuracy:
    """What is left of the original's accuracy.

    Args:
        metric: `top1_accuracy` or `mean_squared_error` where there are targets, else `top1_agreement` or `cosine`
            with the original, whose own is 1.
        retention: share of the original's that is left, 1 = all; where less is better, original over quantized.
        verdict: of the paired test on these items at the metric's margin; `unavailable` without targets.
    """

    metric: str
    original: float
    quantized: float
    retention: float
    verdict: str


def accuracy_of(result: Result, reference: Sequence[float] | None) -> Accuracy:
    """Return an artifact's accuracy beside that of the original, whose outcomes are given."""
    quality = result.context["quality"]
    if quality["outcome"] == "none" or reference is None:
        metric = next((m for m in ("top1_agreement", "cosine") if value(result, m) == value(result, m)), "cosine")
        kept = value(result, metric)
        return Accuracy(metric, 1.0, kept, kept, "unavailable")
    before, after = (sum(values) / len(values) for values in (reference, result.outcomes))
    over, under = (after, before) if quality["better"] == "higher" else (before, after)
    retention = 1.0 if over == under else over / under if under > 0 else NAN
    verdict = "unavailable"
    if quality["outcome"] == "binary" or before != 0:
        how = {name: quality[name] for name in ("outcome", "better", "margin")}
        verdict = compare(reference, result.outcomes, **how).verdict
    return Accuracy(quality["name"], before, after, retention, verdict)


def value(result: Result, metric: str) -> float:
    """Return the mean of a measurement, or nan where it cannot be had."""
    found = result.measurements.get(metric)
    return sum(found.values) / len(found.values) if found is not None and found.values else NAN


def stats_of(job: Job, made: Made, name: str) -> dict[str, Any]:
    """Return what an engine tells of an artifact, its size compared with the given network's as stored."""
    accuracy = accuracy_of(made.result, made.reference)
    ratio = made.report.weight_bytes / job.original_bytes
    return {
        "compression_ratio": ratio,
        "size_reduction": 1 - ratio,
        "quantization_method": name,
        "scheme": made.result.context["scheme"],
        "original_bytes": job.original_bytes,
        "quantized_bytes": made.report.weight_bytes,
        "artifact_bytes": int(value(made.result, "artifact_size")),
        "coverage": value(made.result, "coverage"),
        "left_in_float": list(made.result.context["left_in_float"]),
        "accuracy_metric": accuracy.metric,
        "original_accuracy": accuracy.original,
        "accuracy": accuracy.quantized,
        "accuracy_retention": accuracy.retention,
        "accuracy_verdict": accuracy.verdict,
        "sqnr_db": value(made.result, "sqnr_db"),
        "items": made.result.context["items"],
        "calibration_items": len(job.items.calibration),
        "build_s": made.result.elapsed_s["build"],
        "fallbacks": list(job.fallbacks),
        "warnings": [],
        "notes": list(dict.fromkeys([*job.notes, *made.report.notes])),  # both may doubt the same items
    }

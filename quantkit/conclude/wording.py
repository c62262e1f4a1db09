"""Numbers as people read them: friendly units, intervals, and a sentence for a verdict."""

from __future__ import annotations

from quantkit.conclude.compare import Comparison
from quantkit.records import Measurement, Result
from quantkit.stats.summary import summarize


def measured(result: Result, metric: str) -> Measurement | None:
    """Return a measurement that has values, or None."""
    found = result.measurements.get(metric)
    return found if found is not None and found.values else None


def middle(result: Result, metric: str, scale: float = 1.0, digits: int = 2) -> str:
    """Return the median of a measurement as text; a dash where there is none."""
    found = measured(result, metric)
    return f"{summarize(found.values).p50 * scale:.{digits}f}" if found else "–"


def mean(result: Result, metric: str, digits: int = 4) -> str:
    """Return the mean of a measurement as text; a dash where there is none."""
    found = measured(result, metric)
    return f"{sum(found.values) / len(found.values):.{digits}f}" if found else "–"


def percentile(result: Result, name: str) -> str:
    """Return `p50`, `p90` or `p99` of the latency in ms; a dash where the sample is too small for it."""
    found = measured(result, "latency")
    value = getattr(summarize(found.values), name) if found else None
    return f"{value * 1e3:.2f}" if value is not None else "–"


def speedup(pair: Comparison) -> str:
    """Return e.g. `1.95 [1.88, 2.02]`, with `~` in front where it may be none."""
    if pair.speedup is None:
        return "–"
    estimate = pair.speedup
    doubt = "~" if pair.speed == "inconclusive" else ""
    return f"{doubt}{estimate.value:.2f} [{estimate.low:.2f}, {estimate.high:.2f}]"


def loss(pair: Comparison) -> str:
    """Return the loss of quality with its upper bound: points for right/wrong items, per cent for scores."""
    retention = pair.retention
    if retention is None:
        return "–"
    sign = "points" if pair.result.context["quality"]["outcome"] == "binary" else "%"
    return f"{retention.drop * 100:+.2f} {sign} (at most {retention.drop_high * 100:.2f})"


def explain(pair: Comparison) -> str:
    """Return one sentence: what was found, on how many items, and what would decide it."""
    retention = pair.retention
    if retention is None:
        return f"unavailable: {pair.reason}"
    quality = pair.result.context["quality"]
    said = f"{pair.verdict}: {quality['name']} lost {loss(pair)} at a margin of {retention.margin * 100:g}"
    said += f" on {retention.items} items"
    if pair.verdict == "inconclusive" and retention.items_needed:
        said += f"; about {retention.items_needed} items would decide (--items or a larger --profile)"
    if pair.verdict == "regression":
        said += "; keep this model's most sensitive layers in float, or use a method with more bits"
    return said

"""Numbers as people read them: friendly units, intervals, and a sentence for a verdict."""

from __future__ import annotations

from collections.abc import Sequence

from quantkit.conclude.compare import Comparison
from quantkit.records import Measurement, Result
from quantkit.stats.mean import mean_interval
from quantkit.stats.retention import Retention
from quantkit.stats.summary import summarize


def state_lines(results: Sequence[Result]) -> list[str]:
    """Return what the machine's state says of these results: how many are tainted, and what held all the time."""
    tainted, timed = sum(r.status == "tainted" for r in results), sum(bool(r.latencies_s) for r in results)
    lines = []
    if tainted:
        lines.append(
            f"{tainted} of {timed} timed results are tainted: the machine was disturbed, so their speed is not judged; "
            "the same command times them again (QUANTKIT_DISTURBED=keep takes them as they are)"
        )
    kept = [r for r in results if r.status == "ok" and _disturbed(r)]
    if kept:
        lines.append(
            f"{len(kept)} of {timed} timed results hold rounds that something disturbed, kept as they were "
            "(QUANTKIT_DISTURBED=keep): their speed may not be the model's"
        )
    held = [line for result in results for line in result.context.get("state", {}).get("conditions", ())]
    if held:
        lines.append(f"the machine while timing: {', '.join(dict.fromkeys(held))}")
    return lines


def _disturbed(result: Result) -> bool:
    return any(trial.get("disturbed") for trial in result.context.get("state", {}).get("trials", ()))


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


def energy(result: Result) -> str:
    """Return millijoules of one inference with their interval, e.g. `12.1 [11.9, 12.3]`; a dash where none are."""
    found = measured(result, "energy")
    if found is None:
        return "–"
    e = mean_interval(found.values)
    return f"{e.value * 1e3:.3g} [{e.low * 1e3:.3g}, {e.high * 1e3:.3g}]"


def speedup(pair: Comparison) -> str:
    """Return e.g. `1.95 [1.88, 2.02]`, with `~` in front where it may be none."""
    if pair.speedup is None:
        return "–"
    estimate = pair.speedup
    doubt = "~" if pair.speed == "inconclusive" else ""
    return f"{doubt}{estimate.value:.2f} [{estimate.low:.2f}, {estimate.high:.2f}]"


def loss(pair: Comparison) -> str:
    """Return the loss of quality and its upper bound: points for right/wrong items, per cent for scores."""
    retention = pair.retention
    if retention is None:
        return "–"
    return f"{retention.drop * 100:+.2f} ({retention.drop_high * 100:.2f}) {sign(pair)}"


def sign(pair: Comparison) -> str:
    """Return the unit of a loss."""
    return "pt" if pair.result.context["quality"]["outcome"] == "binary" else "%"


def details(retention: Retention) -> list[str]:
    """Return the figures behind a verdict, a line each."""
    lines = [f"mean {retention.reference:.4f} became {retention.candidate:.4f}"]
    if retention.retention is not None:
        lines.append(f"retention {retention.retention * 100:.2f} % of the baseline's quality")
    if retention.error_growth is not None:
        lines.append(f"error growth {retention.error_growth:.3f} times")
    if retention.disagreements is not None:
        lines.append(f"{retention.disagreements * 100:.2f} % of the items are judged differently")
    lines.append(f"smallest loss that {retention.items} items can detect: {retention.detectable * 100:.2f}")
    lines.append(f"p(not worse) {retention.p_worse:.3g}, p(loss at least the margin) {retention.p_not_inferior:.3g}")
    return lines


def explain(pair: Comparison) -> str:
    """Return one sentence: what was found, on how many items, and what would decide it."""
    retention = pair.retention
    if retention is None:
        return f"unavailable: {pair.reason}"
    quality = pair.result.context["quality"]
    lost = f"{retention.drop * 100:+.2f} {sign(pair)}, at most {retention.drop_high * 100:.2f}"
    said = f"{pair.verdict}: {quality['name']} lost {lost}, margin {retention.margin * 100:g}, {retention.items} items"
    if pair.verdict == "inconclusive" and retention.drop_high < retention.margin:
        said += "; small enough alone, not proved for all cases of this table together"
    if pair.verdict == "inconclusive" and retention.items_needed:
        needed = f"{retention.items_needed:,}" if retention.items_needed < 10**6 else "more than a million"
        said += f"; these can detect {retention.detectable * 100:.2f}, about {needed} items would decide"
    if pair.verdict == "regression":
        said += "; keep this model's most sensitive layers in float, or use a method with more bits"
    return said

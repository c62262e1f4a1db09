"""Hands our timings to pytest-benchmark's fixture, so that its JSON, storage and comparison work on them.

The fixture's `_make_stats` is not public: its version is pinned in pyproject.toml, this is the only place that calls
it, and a test reads the JSON back.
"""

from __future__ import annotations

from typing import Any

from quantkit.records import Result
from quantkit.stats.summary import summarize


def report(benchmark: Any, result: Result) -> None:
    """Give every timed call of a result to the fixture, and our figures as its extra information.

    Args:
        benchmark: the fixture `benchmark` of pytest-benchmark; one that is switched off is left alone.
    """
    benchmark.group = f"{result.case.model} on {result.case.target}"
    benchmark.extra_info |= extra_info(result)
    benchmark._mode = "quantkit"
    if benchmark.disabled or not result.latencies_s:
        return
    stats = benchmark._make_stats(iterations=1)
    for seconds in (value for trial in result.latencies_s for value in trial):
        stats.update(seconds)


def extra_info(result: Result) -> dict[str, Any]:
    """Return one figure for every measurement: the mean of the items for quality, the median for all others."""
    info: dict[str, Any] = {"case": result.case.id, "scheme": result.context.get("scheme"), "key": result.key}
    for name, measurement in result.measurements.items():
        if not measurement.values:
            info[name] = f"unavailable: {measurement.reason}"
        elif name == "quality":
            info[name] = sum(measurement.values) / len(measurement.values)
        elif name != "latency":
            info[name] = summarize(measurement.values).p50
    return info

"""Hands our timings to pytest-benchmark's fixture, so that its JSON, storage and comparison work on them.

The fixture's `_make_stats` and the session's `xdist_benchmark_found` are not public: the version is pinned in
pyproject.toml, this is the only place that uses them, and tests read the JSON back and look for the warning.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
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


def no_false_warning(config: Any, items: Iterable[Any], ours: Collection[Any]) -> None:
    """Keep pytest-benchmark from saying under pytest-xdist that benchmarks are disabled, where all of them are ours.

    Args:
        items: of the session; `ours` are those that take their time by themselves, alone on the machine.
    """
    session = getattr(config, "_benchmarksession", None)
    others = [item for item in items if "benchmark" in getattr(item, "fixturenames", ()) and item not in ours]
    if session is not None and not others:
        session.xdist_benchmark_found = False

"""The outcome of load scenarios as a table, a row for each run, and below it what needs a word."""

from __future__ import annotations

from collections.abc import Sequence

from tabulate import tabulate

from quantkit.scenarios.load import MLPERF_S, Load, LoadResult

HEADERS = ("case", "scenario", "result", "answers/s", "p50 / p90 / p99 ms", "queries", "verdict")


def text(results: Sequence[LoadResult]) -> str:
    """Return the table and its notes."""
    rows = [
        (
            one.case.id,
            one.load.scenario,
            outcome(one),
            number(one.rate),
            percentiles(one),
            f"{one.queries:,}",
            verdict(one),
        )
        for one in results
    ]
    aligned = ("left", "left", "left", "right", "right", "right", "left")
    lines = [tabulate(rows, HEADERS, tablefmt="simple", disable_numparse=True, colalign=aligned)]
    lines += [f"  {one.case.id} {one.load.scenario}: {reason}" for one in results for reason in one.reasons]
    lines += [f"  {one.case.id} {one.load.scenario}: disturbed: {why}" for one in results for why in one.disturbed]
    shortest = min(one.load.duration_s for one in results)
    workers = sorted({one.load.workers for one in results})
    lines.append(
        f"  LoadGen {results[0].loadgen.split(' ')[0]}, {shortest:g} s a run, workers: {', '.join(map(str, workers))}"
    )
    if shortest < MLPERF_S:
        lines.append(f"  no MLPerf results: those take {MLPERF_S:.0f} s a run (--duration {MLPERF_S:.0f})")
    return "\n".join(lines)


def outcome(result: LoadResult) -> str:
    """Return the number that MLPerf reports for the scenario."""
    load = result.load
    if load.scenario == "offline":
        return f"{number(result.rate)} items/s"
    if load.scenario == "server":
        kept = f"{percent(load)} within {load.latency_s * 1e3:g} ms"
        if not result.valid:
            return f"not at {number(load.rate or 0.0)}/s: {kept}"
        return f"{'highest: ' if result.tried else ''}{number(load.rate or 0.0)}/s, {kept}"
    if result.estimate_s is None:
        return f"{percent(load)}: too few queries"
    per = f" per {load.samples_per_query}" if load.scenario == "multi_stream" else ""
    return f"{percent(load)} <= {milli(result.estimate_s)} ms{per}"


def percent(load: Load) -> str:
    """Return the judged percentile's name."""
    return f"p{load.judged * 100:g}"


def judged(result: LoadResult) -> str:
    """Return the judged percentile and the latency that was found for it."""
    return f"{percent(result.load)} {milli(result.judged_s)} ms"


def percentiles(result: LoadResult) -> str:
    """Return three of LoadGen's latencies; offline has one query, whose latency is the whole run."""
    if result.load.scenario == "offline":
        return "–"
    return " / ".join(milli(result.percentiles_s[name]) for name in ("p50", "p90", "p99"))


def verdict(result: LoadResult) -> str:
    """Return LoadGen's word."""
    return "valid" if result.valid else "INVALID"


def milli(seconds: float) -> str:
    """Return milliseconds with three digits that say something."""
    return number(seconds * 1e3, 3)


def number(value: float, digits: int = 4) -> str:
    """Return a number with so many digits that say something, never as a power of ten.

    >>> number(0.1234567), number(820.66), number(100_000.0), number(4060.4, 3)
    ('0.1235', '820.7', '100,000', '4,060')
    """
    return f"{value:,.0f}" if value >= 10**digits / 10 else f"{value:.{digits}g}"

"""The table at the end: a block for each model and target, a row for each case, and below it what needs a word."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tabulate import tabulate

from quantkit.conclude import wording
from quantkit.conclude.compare import Comparison, comparisons, families
from quantkit.records import Result

HEADERS = (
    "method", "backend", "scheme", "quality", "loss", "verdict", "speed-up", "p50 ms", "p90", "p99",
    "memory MiB", "size MiB", "bits/w", "coverage", "SQNR dB",
)  # fmt: skip
MIB = 2.0**-20


def table(results: Sequence[Result], *, margin: float | None = None, style: str = "simple") -> str:
    """Return the report of these results as text.

    Args:
        margin: of the quality verdicts; None takes each model's own.
        style: a table format of tabulate: `simple` for a terminal, `github` for Markdown.
    """
    pairs = {pair.result.case: pair for pair in comparisons(results, margin=margin)}
    return "\n\n".join(_block(family, pairs, style) for family in families(results))


def _block(family: list[Result], pairs: dict[Any, Comparison], style: str) -> str:
    measured = [result for result in family if result.status == "ok"]
    text = _title(family[0], measured)
    if measured:
        rows = [_row(result, pairs.get(result.case)) for result in measured]
        text += "\n" + tabulate(rows, HEADERS, tablefmt=style, disable_numparse=True, stralign="right")
    return "\n".join([text, *_notes(family, pairs)])


def _title(first: Result, measured: list[Result]) -> str:
    case = first.case
    if not measured:
        return f"{case.model} on {case.target}: nothing measured"
    context = measured[0].context
    quality = context["quality"]
    simulated = " SIMULATED clock and memory;" if context["simulated"] else ""
    judged = f"{quality['name']} ({quality['better']} is better)"
    if quality["outcome"] == "none":
        judged = "fidelity only, random weights"
    how = f"{context['items']} items, batch 1, {context['threads']} thread(s)"
    return f"{case.model} on {case.target}:{simulated} {judged}, {how}"


def _row(result: Result, pair: Comparison | None) -> list[str]:
    baseline = bool(result.context.get("baseline"))
    return [
        result.case.method,
        result.case.backend,
        result.context["scheme"],
        wording.mean(result, "quality"),
        "baseline" if baseline else wording.loss(pair) if pair else "–",
        "" if baseline else pair.verdict if pair else "–",
        "1" if baseline else wording.speedup(pair) if pair else "–",
        *(wording.percentile(result, name) for name in ("p50", "p90", "p99")),
        wording.middle(result, "peak_memory", MIB, 0),
        wording.middle(result, "artifact_size", MIB),
        wording.middle(result, "bits_per_weight", digits=1),
        wording.middle(result, "coverage", 100, 0) + " %",
        wording.middle(result, "sqnr_db", digits=1),
    ]


def _notes(family: list[Result], pairs: dict[Any, Comparison]) -> list[str]:
    """Return what a number cannot say: failures, layers left in float, verdicts that are open."""
    notes = []
    for result in family:
        if result.status != "ok":
            notes.append(f"  {result.status}: {result.case.id}: {result.reason}")
            continue
        pair = pairs.get(result.case)
        if pair is not None and pair.verdict in ("regression", "inconclusive"):
            notes.append(f"  {result.case.id}: {wording.explain(pair)}")
        left = result.context["left_in_float"]
        if left and not result.context.get("baseline"):
            more = f" and {len(left) - 1} more" if len(left) > 1 else ""
            notes.append(f"  {result.case.id}: left in float: {left[0]}{more}")
        notes += [f"  {result.case.id}: {note}" for note in result.context["notes"]]
    return notes

"""The table at the end: a block for each model and target, a row for each case, and below it what needs a word."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tabulate import tabulate

from quantkit.conclude import wording
from quantkit.conclude.compare import Comparison, comparisons, families
from quantkit.records import Result

HEADERS = (
    "method", "backend", "quality", "loss (at most)", "verdict", "speed-up [interval]", "p50 / p90 / p99 ms",
    "peak MiB", "size MiB", "bits/w", "int", "SQNR",
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
    measured = [result for result in family if result.measured]
    text = _title(family[0], measured)
    if measured:
        rows, headers = [_row(result, pairs.get(result.case)) for result in measured], list(HEADERS)
        if any(wording.measured(result, "energy") for result in measured):  # few machines have a counter
            rows = [[*row, wording.energy(result)] for row, result in zip(rows, measured, strict=True)]
            headers.append("mJ [interval]")
        text += "\n" + tabulate(
            rows,
            headers,
            tablefmt=style,
            disable_numparse=True,
            colalign=("left", "left", *["right"] * (len(headers) - 2)),
        )
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
    method, scheme = result.case.method, result.context["scheme"]
    judged = (
        ("baseline", "", "1") if baseline or pair is None else (wording.loss(pair), pair.verdict, wording.speedup(pair))
    )
    return [
        method if method == scheme else f"{method} ({scheme})",
        result.case.backend,
        wording.mean(result, "quality"),
        *judged,
        " / ".join(wording.percentile(result, name) for name in ("p50", "p90", "p99")),
        wording.middle(result, "peak_memory", MIB, 0),
        wording.middle(result, "artifact_size", MIB),
        wording.middle(result, "bits_per_weight", digits=1),
        wording.middle(result, "coverage", 100, 0) + "%",
        wording.middle(result, "sqnr_db", digits=1),
    ]


def _notes(family: list[Result], pairs: dict[Any, Comparison]) -> list[str]:
    """Return what a number cannot say: failures, open verdicts, layers left in float. `quantkit show CASE` has more."""
    notes: list[str] = []
    refused: dict[str, list[str]] = {}
    for result in family:
        name = f"  {result.case.method} {result.case.backend}"
        pair = pairs.get(result.case)
        if result.status == "unsupported":
            refused.setdefault(result.reason, []).append(name.strip())
        elif result.status != "ok":
            notes.append(f"{name}: {result.status}: {result.reason}")
        if result.measured and pair is not None and pair.verdict != "pass":
            notes.append(f"{name}: {wording.explain(pair)}")
        left = [] if result.context.get("baseline") else result.context.get("left_in_float", [])
        if left:
            more = f" (and {len(left) - 1} more layers)" if len(left) > 1 else ""
            notes.append(f"{name}: left in float: {left[0]}{more}")
    return notes + [f"  {', '.join(names)}: unsupported: {reason}" for reason, names in refused.items()]

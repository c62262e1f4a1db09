"""The validation across formats: for each model every format and method beside the PyTorch original and each other.

It reads stored results only. The table of a model has a row for each artifact and executor; targets on which one
executor gives the same answers share a row. Below it stands what a number cannot say: layers left in float by name,
cases that could not be had, what the toolchains noted, and whether they agree with each other.
"""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import groupby

from quantkit.conclude import wording
from quantkit.conclude.compare import Comparison, adjusted
from quantkit.conclude.crosscheck import Row, crosscheck, paired
from quantkit.conclude.crosscheck_words import LEGEND, add_crosscheck
from quantkit.conclude.formats_notes import (
    by_format,
    holes,
    left_in_float,
    machines,
    missing,
    notes_of,
    refused_always,
    told,
)
from quantkit.conclude.page import Page
from quantkit.errors import NothingMeasured, UnknownName
from quantkit.records import Result

HEADERS = (
    "format", "method", "quality", "loss (at most)", "verdict", "SQNR dB", "cosine", "top-1 same", "size MiB",
    "bits/weight", "coverage",
)  # fmt: skip
COLUMNS = (
    "format: the toolchain that made the artifact, and the targets where they are more than the CPU; a mark names who "
    "executed it where the toolchain's name does not say so",
    "method: how the numbers were chosen, and in brackets the scheme as stored",
    "quality: mean over the items, each answered by the artifact itself; loss: how much of the baseline's it lost on "
    "the same items (below 0: gained), and the most it can have lost at 95 %",
    "verdict: pass: a loss of the margin or more is refused; regression: it lost more than the margin; inconclusive: "
    "too few items to tell; all verdicts of one model hold together (Holm, 5 %)",
    "SQNR, cosine, top-1 same: outputs beside those of the original network, PyTorch eager in float32; 'equal' where "
    "no bit differs",
    "size: all files of the artifact; bits/weight: its weights alone, scales and zero points included; coverage: share "
    "of the weights that are codes of 8 bits or less, read from the finished artifact",
)
MIB = 2.0**-20
MARKS = "*†‡§¶#"


def document(results: Sequence[Result], models: Sequence[str] = (), *, command: str, markdown: bool) -> str:
    """Return the whole report as text.

    Args:
        results: the newest of each case.
        models: only these; empty for all.
        command: what writes this page again from the same results.

    Raises:
        NothingMeasured: there is no result.
        UnknownName: no result of a model of this name.
    """
    page = Page(markdown)
    chosen = sorted(_chosen(results, models), key=lambda result: result.case)
    page.heading("Every format and method beside the PyTorch original, and beside each other", 1)
    page.paragraph(_origin(chosen, command))
    page.bullets("Machines and versions:", machines(chosen))
    page.bullets("What the columns say:", COLUMNS)
    page.bullets("What a cross-check says:", LEGEND)
    page.bullets(
        "Stored for no model (refused before it ran: 'quantkit plan' says why; or not asked for):", holes(chosen)
    )
    always = refused_always(chosen)
    page.bullets("Refused for every model:", told(always))
    stored = {(r.case.backend, r.case.method) for r in chosen if r.measured}
    for _, group in groupby(chosen, key=lambda result: result.case.model):
        add_model(page, list(group), stored, always)
    return page.text()


def _chosen(results: Sequence[Result], models: Sequence[str]) -> list[Result]:
    if not results:
        raise NothingMeasured("the results file holds no result: measure first with 'make formats' or 'quantkit run'")
    known = sorted({result.case.model for result in results})
    for name in models:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f" Did you mean '{near[0]}'?" if near else ""
            raise UnknownName(f"no stored result of a model '{name}'.{hint} Stored: {', '.join(known)}")
    return [result for result in results if not models or result.case.model in models]


def _origin(results: Sequence[Result], command: str) -> str:
    """Return what wrote this page, from what, and how to get it again."""
    statuses = Counter(result.status for result in results)
    counted = ", ".join(f"{count} {status}" for status, count in sorted(statuses.items()))
    days = sorted(result.created[:10] for result in results if result.created)
    when = f", measured {' to '.join(dict.fromkeys((days[0], days[-1])))}" if days else ""
    profiles = sorted({result.context["profile"] for result in results if result.measured})
    how = f", profile {' and '.join(profiles)}" if profiles else ""
    text = f"Written by '{command}' from {len(results)} stored results ({counted}){when}{how}. "
    return text + (
        "Not to be edited: 'make formats' measures what is missing and writes it again; 'quantkit show CASE' has all "
        "that is stored of one case."
    )


def rows_of(results: Iterable[Result]) -> list[Row]:
    """Return a row for each artifact and executor, by format, baselines first; equal answers share a row."""
    shared: dict[tuple[str, ...], list[Result]] = {}
    for result in results:
        if result.measured:
            case = result.case
            shared.setdefault((case.backend, case.method, result.context["answers"]), []).append(result)
    rows = []
    for group in shared.values():
        group.sort(key=lambda result: (result.case.target != "cpu", result.case.target))
        rows.append(Row(group[0], tuple(result.case.target for result in group)))
    return sorted(rows, key=lambda r: (r.result.case.backend, not r.result.context["baseline"], r.result.case, r.label))


def verdicts(rows: Sequence[Row], alpha: float = 0.05) -> list[Comparison | None]:
    """Return each row's comparison with full precision, None for a row that is the baseline itself.

    That is full precision compiled by PyTorch where it is stored on the same items, else by the row's own toolchain.
    """
    baselines = [row.result for row in rows if row.result.context["baseline"]]
    baselines.sort(key=lambda result: result.case.backend != "pytorch")
    pairs = [_beside(row.result, baselines, alpha) for row in rows]
    decided = iter(adjusted([pair for pair in pairs if pair is not None], alpha))
    return [None if pair is None else next(decided) for pair in pairs]


def _beside(result: Result, baselines: Sequence[Result], alpha: float) -> Comparison | None:
    fitting = [b for b in baselines if b.case.backend in ("pytorch", result.case.backend)]
    refused = Comparison(result, None, "unavailable", "full precision is stored neither in pytorch nor in this format")
    for baseline in fitting:
        if baseline is result:
            return None
        pair = paired(result, baseline, alpha)
        if pair.retention is not None:
            return pair
        refused = pair
    return refused


def add_model(
    page: Page, results: Sequence[Result], elsewhere: set[tuple[str, str]], always: set[tuple[str, str, str]]
) -> None:
    """Add the section of one model.

    Args:
        elsewhere: the formats and methods that any model has.
        always: refusals that hold for every model, told once for all.
    """
    rows = rows_of(results)
    page.heading(results[0].case.model, 2)
    if rows:
        pairs = verdicts(rows)
        marks = _executors(rows)
        page.paragraph(_facts(rows, pairs))
        page.table(HEADERS, [_cells(row, pair, marks) for row, pair in zip(rows, pairs, strict=True)], left=2)
        page.paragraph("; ".join(f"{mark} run by {executor}" for executor, mark in marks.items() if mark))
        page.paragraph(_counted(pairs))
        page.bullets("Left in float although the method asked otherwise:", left_in_float(rows))
    page.bullets("Without a result:", missing(results, elsewhere, always))
    notes = notes_of(rows)
    add_crosscheck(page, crosscheck(rows), list(notes))
    lines = [f"note {number}, {by_format(cases)}: {note}" for number, (note, cases) in enumerate(notes.items(), 1)]
    page.bullets("What the toolchains noted:", lines)


def _facts(rows: Sequence[Row], pairs: Sequence[Comparison | None]) -> str:
    """Return origin and licence, items, quality, and what verdicts are against."""
    context = rows[0].result.context
    model, quality, data = context["model"], context["quality"], context["data"]
    items = " or ".join(f"{n:,}" for n in sorted({row.result.context["items"] for row in rows}))
    text = f"{model['family']}, {model['domain']}; {model['licence']}; {model['provenance']}. {items} items of "
    text += f"{data['name']} ({data['licence']}), one at a time. "
    if quality["outcome"] == "none":
        return text + "Random weights: judged by fidelity only."
    points = "point" if quality["margin"] == 0.01 else "points"
    unit = points if quality["outcome"] == "binary" else "%"
    against = dict.fromkeys(pair.baseline.case.backend for pair in pairs if pair and pair.baseline)
    text += f"Quality: {quality['name']} ({quality['better']} is better), margin {quality['margin'] * 100:g} {unit}"
    return text + (f", against full precision in {' or '.join(against)}." if against else ".")


def _executors(rows: Sequence[Row]) -> dict[str, str]:
    """Return a mark for each executor, empty where its name is the toolchain's."""
    marks: dict[str, str] = {}
    for row in rows:
        executor = row.result.context.get("executor", "")  # results of schema 1 do not say
        plain = "".join(filter(str.isalnum, executor.lower()))
        if executor not in marks:
            used = sum(map(bool, marks.values()))
            mark = MARKS[used % len(MARKS)] * (1 + used // len(MARKS))
            marks[executor] = "" if not executor or row.result.case.backend in plain else mark
    return marks


def _cells(row: Row, pair: Comparison | None, marks: dict[str, str]) -> list[str]:
    result = row.result
    method, scheme = result.case.method, result.context["scheme"]
    loss, verdict = ("", "baseline") if pair is None else (wording.loss(pair), pair.verdict)
    if result.context["quality"]["outcome"] == "none":
        loss, verdict = "–", "–"
    sqnr = result.measurements.get("sqnr_db")
    equal = sqnr is not None and "equal" in sqnr.reason
    return [
        f"{row.label}{marks[result.context.get('executor', '')]}",
        method if method == scheme else f"{method} ({scheme})",
        wording.mean(result, "quality"),
        loss,
        verdict,
        "equal" if equal else wording.middle(result, "sqnr_db", digits=1),
        wording.middle(result, "cosine", digits=5),
        wording.middle(result, "top1_agreement", digits=4),
        wording.middle(result, "artifact_size", MIB),
        wording.middle(result, "bits_per_weight"),
        f"{wording.middle(result, 'coverage', 100, 1)} %".replace("– %", "–"),
    ]


def _counted(pairs: Sequence[Comparison | None]) -> str:
    """Return how often each verdict was given, and why where there is none."""
    judged = [pair for pair in pairs if pair and pair.result.context["quality"]["outcome"] != "none"]
    if not judged:
        return ""
    words = Counter(pair.verdict for pair in judged)
    text = "Verdicts: " + ", ".join(f"{count} {word}" for word, count in sorted(words.items()))
    reasons = sorted({pair.reason for pair in judged if pair.reason})
    return text + "".join(f"; {reason}" for reason in reasons)

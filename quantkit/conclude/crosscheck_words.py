"""The cross-check in words: a line of bounds for each method, and every pair of toolchains that differs by name."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence

from quantkit.conclude.crosscheck import BIT_DB, FLOAT_DB, Check, Pair, Row, apart, errors_in_common
from quantkit.conclude.page import Page

HEADERS = (
    "method", "most faithful", "beside it", "SQNR lower by", "quality loss within", "judged differently",
    "mutual SQNR", "if independent",
)  # fmt: skip
LEGEND = (
    "each toolchain stands beside the most faithful one that has the method; a row gives the worst of all its pairs",
    f"SQNR lower by: fidelity to the original, {BIT_DB:.2f} dB are one bit of every code; above {FLOAT_DB:g} dB "
    "nothing but the order of float32 sums differs, which counts as none",
    "quality loss within: against the most faithful one on the same items, 95 % interval of each pair; judged "
    "differently: share of the items that only one of the two has right",
    "mutual SQNR: between the outputs of the two, on a sample; independent errors would give the next figure, and more "
    "than that means that they share roundings",
    "agree: the difference in quality is proved to be within the margin (random weights: fidelity alone), and they are "
    "at most a bit apart; close: the same, but the difference is proved not to be zero; differ: more than a bit apart, "
    "or a difference proved not to be zero and not proved to be within the margin; else not proved; all words of one "
    "model hold together (Holm, 5 %)",
)


def add_crosscheck(page: Page, checks: Sequence[Check], notes: Sequence[str]) -> None:
    """Add the cross-check of one model; `notes` are its toolchains' notes as they are numbered on the page."""
    if not checks:
        return
    page.heading("Cross-check", 3)
    page.table(HEADERS, [_cells(check) for check in checks], left=3)
    differing = [_differing(pair, notes) for check in checks for pair in check.pairs if pair.word == "differ"]
    page.bullets("These differ:", differing)
    for word, title in (
        ("not proved", "Not proved to agree, nor to differ:"),
        ("close", "Close: a difference that is proved, and proved to be within the margin:"),
    ):
        page.bullets(title, [line for check in checks if (line := _others(check, word))])


def _cells(check: Check) -> list[str]:
    words = Counter(pair.word for pair in check.pairs)
    said = ", ".join(f"{words[word]} {word}" for word in ("agree", "close", "not proved", "differ") if words[word])
    losses = [pair.quality for pair in check.pairs if pair.quality is not None]
    psi = [loss.disagreements for loss in losses if loss.disagreements is not None]
    mutual = min((p for p in check.pairs if p.mutual_db is not None), key=_closeness, default=None)
    return [
        check.method,
        f"{check.reference.label} {_db(check.reference.sqnr)}",
        said,
        _db(_worst([pair.gap_db for pair in check.pairs], max)),
        f"[{_points(min(x.drop_low for x in losses))}, {_points(max(x.drop_high for x in losses))}] {_unit(check)}"
        if losses
        else "–",
        f"{max(psi) * 100:.2f} %" if psi else "–",
        _db(mutual.mutual_db) if mutual else "–",
        _db(mutual.independent_db) if mutual else "–",
    ]


def _differing(pair: Pair, notes: Sequence[str]) -> str:
    """Return one sentence: who, by how much, within which bounds, and which stored facts may be why."""
    reference, other = pair.reference, pair.other
    text = f"{reference.result.case.method}: {other.label} and {reference.label}: "
    text += f"{_db(other.sqnr)} and {_db(reference.sqnr)} dB to the original"
    if pair.bit_apart:
        text += f", {_db(pair.gap_db)} dB apart"
    text += f"; {_bounded(pair)}"
    if pair.mutual_db is not None:
        between = "equal outputs" if math.isinf(pair.mutual_db) else f"{_db(pair.mutual_db)} dB between them"
        common = errors_in_common(pair)
        text += f"; {between}, {_db(pair.independent_db)} if independent{f' ({common})' if common else ''}"
    facts = apart(reference.result, other.result)
    cited = [_cited(row, beside, notes) for row, beside in ((reference, other), (other, reference))]
    facts += [cite for cite in cited if cite]
    return f"{text}. Stored facts that may be why: {'; '.join(facts) or 'none'}"


def _cited(row: Row, beside: Row, notes: Sequence[str]) -> str:
    """Return the numbers of the notes that one of the two has alone."""
    own = [note for note in row.result.context["notes"] if note not in beside.result.context["notes"]]
    numbers = sorted(notes.index(note) + 1 for note in own)
    return f"of {row.label} alone note {', '.join(map(str, numbers))}" if numbers else ""


def _bounded(pair: Pair) -> str:
    loss = pair.quality
    if loss is None:
        return pair.reason
    unit = "pt" if loss.outcome == "binary" else "%"
    text = f"quality loss {_points(loss.drop)} in [{_points(loss.drop_low)}, {_points(loss.drop_high)}] {unit}"
    text += " (not zero)" if pair.unequal else ""
    return text + (f", {loss.disagreements * 100:.2f} % judged differently" if loss.disagreements is not None else "")


def _others(check: Check, word: str) -> str:
    """Return the pairs of a method that have this word, each with its bounds."""
    told = [f"{pair.other.label} {_bounded(pair)}" for pair in check.pairs if pair.word == word]
    return f"{check.method}, beside {check.reference.label}: {'; '.join(told)}" if told else ""


def _closeness(pair: Pair) -> float:
    assert pair.mutual_db is not None
    return pair.mutual_db


def _worst(values: Sequence[float | None], choose: Callable[[list[float]], float]) -> float | None:
    known = [value for value in values if value is not None]
    return choose(known) if known else None


def _unit(check: Check) -> str:
    outcome = check.reference.result.context["quality"]["outcome"]
    return "pt" if outcome == "binary" else "%"


def _points(share: float) -> str:
    return f"{share * 100:+.2f}"


def _db(value: float | None) -> str:
    return "–" if value is None else "equal" if math.isinf(value) else f"{value:.1f}"

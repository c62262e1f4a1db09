"""The gate as Markdown for a pull request: the word, what stands in the way and what to do, then all checks."""

from __future__ import annotations

from collections.abc import Iterable

from quantkit.conclude.gate import Check, Gate, counted, plain, standing

MOST = 200  # rows of one table: a step summary takes 1 MiB and a comment 65,536 characters
HEADINGS = {
    "regression": "Regressed",
    "refused": "Cannot be compared",
    "inconclusive": "Not decided",
    "new": "New",
    "pass": "Passed",
}
MEANING = {
    "pass": "Nothing is worse than its limit.",
    "regression": "Something is worse than its limit, and proved to be worse.",
    "inconclusive": "No regression is proved, but not all could be decided: this is not a pass.",
    "nothing": "Nothing could be gated: this is not a pass.",
    "error": "The gate could not be asked: this is not a pass.",
}


def markdown(gate: Gate) -> str:
    """Return the summary; tables are cut at 200 rows and say so."""
    lines = [f"## quantkit gate: {gate.verdict}", "", f"{MEANING[gate.verdict]} {_counts(gate)}", ""]
    for word in ("regression", "refused", "inconclusive", "new"):
        found = [check for check in standing(gate.checks) if check.word == word]
        if found:
            lines += [f"### {HEADINGS[word]}", "", *_table(found), "", *_todo(found)]
    passed = [check for check in gate.checks if check.word == "pass"]
    if passed:
        lines += [
            f"<details><summary>{counted(len(passed), 'check')} passed</summary>",
            "",
            *_table(passed),
            "",
            "</details>",
            "",
        ]
    lines += [*(f"- {_safe(note)}" for note in gate.notes), "", *_legend(gate)]
    return "\n".join(lines).rstrip() + "\n"


def _counts(gate: Gate) -> str:
    counts = {word: sum(check.word == word for check in gate.checks) for word in HEADINGS}
    said = ", ".join(f"{count} {HEADINGS[word].lower()}" for word, count in counts.items() if count)
    cases = counted(len({check.case for check in gate.checks}), "case")
    return f"{counted(len(gate.checks), 'check')} of {cases}: {said or 'none'}."


def _table(checks: list[Check]) -> list[str]:
    """Return a row for each check; a column that would be empty in all rows is left to the text."""
    rows = ["| case | check | change [interval] | limit | n | detects | found |", "|---|---|---:|---:|---:|---:|---|"]
    for check in checks[:MOST]:
        rows.append("| " + " | ".join(_row(check)) + " |")
    if len(checks) > MOST:
        rows += ["", f"… and {len(checks) - MOST} more; the JUnit file has all of them."]
    return rows


def _row(check: Check) -> list[str]:
    change, unit = check.change, check.unit
    cells = ["", "", "", ""]
    if change is not None:
        span = "" if change.low == change.high else f" [{change.low * 100:+.2f}, {change.high * 100:+.2f}]"
        cells[0] = f"{change.value * 100:+.2f} {unit}{span}"
        cells[1] = f"{(check.limit or 0.0) * 100:g} {unit}"
        cells[2] = str(check.items or "")
        cells[3] = "" if check.detectable is None else f"{check.detectable * 100:.2f} {unit}"
    return [f"`{check.case.id}`", check.name, *cells, _safe(check.said)]


def _todo(checks: Iterable[Check]) -> list[str]:
    """Return each next step once, with the cases that it is for."""
    steps: dict[str, list[str]] = {}
    for check in checks:
        if check.todo:
            steps.setdefault(check.todo, []).append(f"`{check.case.id}`")
    lines = []
    for todo, cases in steps.items():
        named = dict.fromkeys(cases)
        more = f" and {len(named) - 3} more" if len(named) > 3 else ""
        lines.append(f"- {_safe(todo)} ({', '.join(list(named)[:3])}{more})")
    return ["What to do:", "", *lines, ""] if lines else []


def _legend(gate: Gate) -> list[str]:
    if not any(check.change for check in gate.checks):
        return []
    return [
        "change: positive is worse; quality in points (pt) of right answers or per cent of a score, the rest in per "
        "cent. n: evaluation items, or fresh processes. detects: the smallest worsening that this n can tell from none."
    ]


def _safe(text: str) -> str:
    """Return text that stays in its cell and is no markup: pipes, angle brackets, line breaks, control characters."""
    text = plain(text)
    for raw, quoted in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ("|", "\\|"), ("`", "'")):
        text = text.replace(raw, quoted)
    return text

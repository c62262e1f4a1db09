"""What the gate says beside its checks: where results come from, what was left out, how wide its intervals are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from quantkit.conclude import gate_figures as figures
from quantkit.conclude import gate_refusals as refusals
from quantkit.conclude.gate import Check, Limits, counted
from quantkit.records import Case, Result

ALPHA, CONFIDENCE = 0.05, 0.95
NAMED = 3  # commits that a note names
UNKNOWN = "no known commit"


def commit(result: Result) -> str:
    """Return the commit a result was measured at, ten digits; empty where it is not known."""
    return str((result.fingerprint.get("revision") or {}).get("commit", ""))[:10]


def origin(results: Sequence[Result]) -> str:
    """Return where results come from: their newest one's commit and time."""
    newest = _newest(results)
    changed = ", with changed files" if (newest.fingerprint.get("revision") or {}).get("dirty") else ""
    known = commit(newest)
    return (f"commit {known}{changed}" if known else f"of {UNKNOWN}") + f" ({newest.created or 'no time'})"


def other_commits(results: Sequence[Result], where: str) -> list[str]:
    """Return a note where some figures are of other commits than the newest result; `where`: `here`, `the baseline`."""
    measured = [result for result in results if result.measured]
    if not measured:
        return []
    newest = commit(_newest(results))
    others = [commit(result) or UNKNOWN for result in measured if commit(result) != newest]
    if not others:
        return []
    names = [name for name, _ in Counter(others).most_common()]
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    said = f"{len(others)} of {counted(len(measured), 'case')} {where}, measured at other commits"
    return [f"{said} than its newest: {', '.join(names[:NAMED])}{more}; --fresh measures all of a run anew"]


def created(results: Sequence[Result]) -> str:
    """Return when the newest result was measured; empty where that is not stored."""
    return max((result.created for result in results), default="")


def gone(cases: Iterable[Case]) -> list[Check]:
    """Return a check for each case that the baseline has and that nobody measured here: to delete it is no way out."""
    said = "the baseline has figures of it, and it was not measured here"
    todo = "measure the same cases as the baseline did; where it is gone on purpose: quantkit gate --accept-missing"
    return [Check(case, "run", "refused", said, todo) for case in cases]


def unmeasured(checks: Sequence[Check], results: Sequence[Result], limits: Limits) -> list[str]:
    """Return a note for each check that nobody asked for by name and that no run has figures for."""
    have = {check.name for check in checks}
    left = [name for name in limits.checks if name not in have and any(r.measured for r in results)]
    return [f"{name} was measured in neither run and was not gated" for name in left if name in figures.METRICS]


def intervals(checks: Sequence[Check]) -> list[str]:
    """Return a note on the level of the intervals that are shown."""
    shown = {check.name for check in checks if check.change is not None and check.change.low != check.change.high}
    parts = [f"quality {1 - 2 * ALPHA:.0%} ({ALPHA:.0%} to each side)"] if "quality" in shown else []
    timed = [name for name in ("latency", "memory") if name in shown]
    parts += [f"{' and '.join(timed)} at least {CONFIDENCE:.0%}"] if timed else []
    return [f"intervals: {', '.join(parts)}".replace("%", " %")] if parts else []


def next_step(check: Check, now: Result, then: Result) -> str:
    """Return what to do about a check of two runs: a regression says how to see what lies between them."""
    if check.word != "regression":
        return check.todo
    old, new = commit(then), commit(now)
    diff = f"git diff {old} {new} (in the repository of these commits)" if old and new and old != new else ""
    if now.context.get("baseline") and check.name in ("quality", "size"):  # it has no bits to add, no layer to except
        ways = [diff] * bool(diff) + refusals.versions(then.fingerprint, now.fingerprint)[:NAMED]
        said = "this is full precision: see what changed in the model, its data or the toolchain"
        return said + (f": {'; '.join(ways)}" if ways else "")
    return f"see what changed: {diff}; or {check.todo}" if diff else check.todo


def _newest(results: Sequence[Result]) -> Result:
    return max(results, key=lambda result: result.created)

"""From results to the gate's checks: within one run against full precision, or case by case against an older run.

Families and error rates are those of `compare`: one model on one target; quality by Holm, intervals by Sidak.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from quantkit.conclude import gate_figures as figures
from quantkit.conclude import gate_notes as notes
from quantkit.conclude import gate_refusals as refusals
from quantkit.conclude.compare import OTHER, Comparison, adjusted, comparisons, families, retained
from quantkit.conclude.gate import CHECKS, Check, Gate, Limits, Name, counted, gate
from quantkit.conclude.gate_notes import ALPHA, CONFIDENCE
from quantkit.errors import NoBaseline
from quantkit.records import Result
from quantkit.stats.interval import Estimate, simultaneous


def within(results: Sequence[Result], limits: Limits) -> Gate:
    """Return the gate over one run: every candidate against the full precision that was measured with it."""
    pairs = comparisons(results, margin=limits.margin, alpha=ALPHA, confidence=CONFIDENCE)
    checks = _ended(results, {}) + _left_out(results, pairs)
    for pair in pairs:
        if "quality" in limits.checks and _judged_by_quality(pair.result):
            checks.append(figures.quality(pair))
        if pair.baseline is None or pair.reason == OTHER:
            why, _, todo = pair.reason.rpartition(": ")
            checks += [figures.refused(pair.result, name, (why, todo)) for name in limits.checks if name != "quality"]
            continue
        checks += _figures(pair.result, pair.baseline, limits, lambda name, p=pair: _in_one_run(p, name, limits))
    said = [*notes.other_commits(results, "here"), *notes.unmeasured(checks, results, limits), *notes.intervals(checks)]
    return gate(_sorted(checks, results), said, notes.created(results))


def against(results: Sequence[Result], older: Iterable[Result], limits: Limits) -> Gate:
    """Return the gate over two runs: every case against the same case of the older one.

    Raises:
        NoBaseline: the two runs have no case in common.
    """
    before = {result.case: result for result in older}
    if not any(result.case in before for result in results):
        raise NoBaseline("the baseline has none of these cases: measure it with the same models, methods and backends")
    checks = _ended(results, before)
    for family in families(r for r in results if r.measured):
        checks += _family(family, before, limits)
    checks += _new(results, before, limits)
    here, older = {result.case for result in results}, list(before.values())
    gone = sorted(then.case for then in older if then.measured and then.case not in here)
    checks = _sorted(checks, results) + ([] if limits.accept_missing else notes.gone(gone))
    said = [f"this run is {notes.origin(results)}; the baseline is {notes.origin(older)}"]
    said += notes.other_commits(results, "here") + notes.other_commits(older, "of the baseline")
    said += [f"{counted(len(gone), 'case')} of the baseline not measured here"] if gone else []
    said += notes.unmeasured(checks, results, limits) + notes.intervals(checks)
    return gate(checks, said, notes.created(results))


def _family(family: list[Result], before: dict[Any, Result], limits: Limits) -> list[Check]:
    """Return the checks of one model on one target against the older run."""
    checks: list[Check] = []
    open_pairs: list[Comparison] = []
    timed = [r for r in family if _measured(before, r) and not refusals.unchanged(r, before[r.case])]
    level = simultaneous(CONFIDENCE, max(1, len(timed)))
    for now in family:
        if not _measured(before, now):
            continue
        then = before[now.case]
        if not limits.accept_older and (refusal := refusals.order(now, then)):
            checks += [figures.refused(now, name, refusal) for name in limits.checks if _asked(now, name)]
            continue
        checks += _figures(now, then, limits, lambda name, n=now, t=then: _between_runs(n, t, name, limits, level))
        if "quality" in limits.checks and _judged_by_quality(now):
            checks += _quality(now, then, limits, open_pairs)
    checks += [figures.quality(pair) for pair in adjusted(open_pairs, ALPHA)]
    runs = {now.case: (now, before[now.case]) for now in family if now.case in before}
    return [replace(check, todo=notes.next_step(check, *runs[check.case])) for check in checks]


def _quality(now: Result, then: Result, limits: Limits, open_pairs: list[Comparison]) -> list[Check]:
    """Return the check where it is decided by itself; else put the pair with those that share their error rate."""
    if refusal := refusals.quality(now, then):
        return [figures.refused(now, "quality", refusal)]
    pair = retained(Comparison(now, then, "unavailable"), limits.margin, ALPHA)
    if refusals.same_answers(now, then):
        return [figures.quality(pair, same=True)]
    open_pairs.append(pair)
    return []


def _figures(now: Result, then: Result, limits: Limits, check: Any) -> list[Check]:
    """Return the checks of latency, memory and size, as far as they are asked for and measured."""
    found: list[Check] = []
    for name in limits.checks:
        if name == "quality":
            continue
        possible = figures.wanted(now, then, name, limits)
        if isinstance(possible, tuple):
            found.append(figures.refused(now, name, possible))
        elif possible:
            try:
                found.append(check(name))
            except ValueError as error:
                found.append(figures.refused(now, name, (f"a stored figure cannot be used: {error}", figures.FRESH)))
    return found


def _between_runs(now: Result, then: Result, name: Name, limits: Limits, level: float) -> Check:
    """Return the check of one figure against the older run's."""
    if name == "size":
        return figures.size(now, then, limits.size)
    if refusal := refusals.machine(now, then):
        return figures.refused(now, name, refusal)
    if refusals.unchanged(now, then):
        return Check(now.case, name, "pass", "unchanged: the same artifact, run by the same code")
    if name == "memory":
        return figures.memory(now, then, limits.memory, level)
    if refusal := refusals.disturbed(now, then):
        return figures.refused(now, name, refusal)
    change, yardstick = figures.slowdown(now, then, level)
    how = "full precision of both runs as the yardstick" if yardstick else "no yardstick: full precision changed too"
    return figures.latency(now, change, limits.slowdown, _revisions(now, then), how)


def _in_one_run(pair: Comparison, name: Name, limits: Limits) -> Check:
    """Return the check of one figure against full precision of the same run."""
    now, then = pair.result, pair.baseline
    assert then is not None
    if name == "size":
        return figures.size(now, then, limits.size)
    if name == "memory":
        return figures.memory(now, then, limits.memory, CONFIDENCE)
    if refusal := refusals.disturbed(now, then):
        return figures.refused(now, name, refusal)
    if pair.speedup is None:
        return figures.refused(now, name, (pair.speed_reason or pair.reason, figures.FRESH))
    s = pair.speedup
    slower = Estimate(1 / s.value - 1, 1 / s.high - 1, 1 / s.low - 1, s.confidence)
    live = f"quantkit latency {then.case.id} {now.case.id}"
    return figures.latency(now, slower, limits.slowdown, live, "timed in the same rounds")


def _revisions(now: Result, then: Result) -> str:
    """Return the command that compares the case as two revisions of the code build and run it."""
    old, new = notes.commit(then), notes.commit(now)
    if not (old and new) or old == new:
        old, new = "BASE", "CAND"
    return f"quantkit latency {old}@{now.case.id} {new}@{now.case.id}"


def _ended(results: Sequence[Result], before: dict[Any, Result]) -> list[Check]:
    """Return a check for each case that has no figures although it should have them."""
    checks: list[Check] = []
    for result in results:
        ran = _measured(before, result)
        if result.status == "failed":
            todo = "nothing is known of it: run it again, 'quantkit show' has its whole message"
            checks.append(Check(result.case, "run", "refused", f"failed: {result.reason}", todo))
        elif result.status == "unsupported" and ran:
            said = f"it ran in the baseline and is unsupported now: {result.reason}"
            checks.append(Check(result.case, "run", "refused", said))
    return checks


def _new(results: Sequence[Result], before: dict[Any, Result], limits: Limits) -> list[Check]:
    """Return the checks of cases that the older run does not have: their quality against their own full precision."""
    new = [r for r in results if r.measured and not _measured(before, r)]
    own = {pair.result.case: pair for pair in comparisons(results, margin=limits.margin, alpha=ALPHA)}
    checks: list[Check] = []
    for result in new:
        pair = own.get(result.case)
        if pair is None or pair.baseline is None or "quality" not in limits.checks or not _judged_by_quality(result):
            checks.append(Check(result.case, "run", "new", "the baseline has no figures of it"))
            continue
        checks.append(_said_to_be_new(figures.quality(pair)))
    return checks


def _said_to_be_new(check: Check) -> Check:
    return replace(check, said=f"new, so judged against full precision of its own run: {check.said}")


def _measured(before: dict[Any, Result], result: Result) -> bool:
    return result.case in before and before[result.case].measured


def _judged_by_quality(result: Result) -> bool:
    return bool(result.context["quality"]["outcome"] != "none")


def _asked(result: Result, name: Name) -> bool:
    return name != "quality" or _judged_by_quality(result)


def _left_out(results: Sequence[Result], pairs: Sequence[Comparison]) -> list[Check]:
    """Return a check for each candidate that has figures and that no comparison took."""
    taken = {pair.result.case for pair in pairs}
    left = [r for r in results if r.measured and not r.context.get("baseline") and r.case not in taken]
    return [Check(r.case, "run", "refused", f"{r.status}: {r.reason}", figures.FRESH) for r in left]


def _sorted(checks: list[Check], results: Sequence[Result]) -> list[Check]:
    """Return the checks in the order of the cases, quality first."""
    place = {result.case: number for number, result in enumerate(results)}
    return sorted(checks, key=lambda check: (place[check.case], (*CHECKS, "run").index(check.name)))

"""Checks of one case's figures: quality item by item, latency and memory over fresh processes, size exactly.

A change of latency or memory is judged as quality is. `regression`: "no change" is refused, and the change exceeds its
limit and the noise floor. `pass`: "a change of the limit or more" is refused. Otherwise `inconclusive`.

Between two runs of one machine the clock itself drifts. Where both runs timed the same full-precision artifact in the
same rounds, that is the yardstick, and what drifts with it cancels (DRIFT is what is left). Where there is none, whole
runs differ by HOURS, and only a large change can be told. Interval of a quotient of two runs: in the logarithm, the
half-widths of both added in quadrature (independent errors).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from quantkit.conclude.compare import DRIFT, Comparison, floor_for
from quantkit.conclude.gate import Check, Limits, Name, Word
from quantkit.conclude.gate_refusals import Refusal
from quantkit.conclude.wording import explain, sign
from quantkit.records import Result
from quantkit.stats.interval import Estimate, ratio_of_medians

HOURS = 0.05  # relative, standard deviation of a run's median latency between hours: equal runs differed by up to 12 %
PAGES = 0.02  # the same of a run's median peak memory: 2 % in most cases, 13 % in the worst
FRESH = "measure it again (--fresh)"
METRICS = {"latency": "latency", "memory": "peak_memory", "size": "artifact_size"}
Rounds = Sequence[Sequence[float]]


def quality(pair: Comparison, same: bool = False) -> Check:
    """Return the check of a paired comparison; `same`: both gave the same answers, whatever n items can prove."""
    case, retention = pair.result.case, pair.retention
    if retention is None:
        said, _, todo = pair.reason.rpartition(": ")
        return Check(case, "quality", "refused", said or todo, todo if said else FRESH)
    power = 1 - 2 * retention.alpha
    drop = Estimate(retention.drop, retention.drop_low, retention.drop_high, power)
    check = Check(
        case, "quality", pair.verdict if pair.verdict != "unavailable" else "refused", _after_verdict(explain(pair)),
        change=drop, limit=retention.margin, unit=sign(pair), items=retention.items, detectable=retention.detectable,
    )  # fmt: skip
    if same:
        said = f"unchanged: {retention.items} items are judged alike, the outputs that are kept agree bit for bit"
        return replace(check, word="pass", said=said)
    said, _, todo = check.said.partition("; ")
    return replace(check, said=said, todo=todo)


def _after_verdict(sentence: str) -> str:
    return sentence.partition(": ")[2]


def refused(result: Result, name: Name, refusal: Refusal) -> Check:
    """Return the check that could not be made."""
    return Check(result.case, name, "refused", *refusal)


def slowdown(now: Result, then: Result, confidence: float) -> tuple[Estimate, bool]:
    """Return the growth of latency between two runs of one machine, and whether a yardstick was there.

    Raises:
        ValueError: fewer than 2 processes, or a time that is not a positive number.
    """
    real = not now.context.get("simulated")
    yard = now.context.get("baseline_key")
    both = now.reference_latencies_s and then.reference_latencies_s
    if yard and both and yard == then.context.get("baseline_key"):
        how: dict[str, Any] = {"confidence": confidence, "drift": DRIFT * real}
        runs = [ratio_of_medians(r.latencies_s, r.reference_latencies_s, **how) for r in (now, then)]
        return _quotient(*runs), True
    runs = [_level(r.latencies_s, confidence, HOURS * real) for r in (now, then)]
    return _quotient(*runs), False


def latency(result: Result, change: Estimate, limit: float, live: str, how: str) -> Check:
    """Return the check of a growth of latency; `live` is the command that decides it where this cannot."""
    check = _judged(result, "latency", change, limit, floor_for(result), how)
    if check.word == "inconclusive":
        return replace(check, todo=f"decide it live: {live}")
    if check.word == "regression":
        return replace(check, todo=f"confirm it live: {live}")
    return check


def memory(now: Result, then: Result, limit: float, confidence: float) -> Check:
    """Return the check of the growth of the median peak memory.

    Raises:
        ValueError: fewer than 2 processes, or a peak that is not a positive number.
    """
    drift = PAGES * (not now.context.get("simulated"))
    runs = [[(peak,) for peak in r.measurements["peak_memory"].values] for r in (now, then)]
    change = _quotient(*(_level(peaks, confidence, drift) for peaks in runs))
    check = _judged(now, "memory", change, limit, 0.0, "peak of its own process")
    todo = {
        "inconclusive": "measure both runs with more --rounds",
        "regression": "see what the process loads: quantkit show has peak_memory and model_memory",
    }
    return replace(check, items=min(map(len, runs)), todo=todo.get(check.word, ""))


def size(now: Result, then: Result, limit: float) -> Check:
    """Return the check of the growth of the artifact's files: exact, so never inconclusive.

    Raises:
        ValueError: a size that is not a positive number.
    """
    new, old = (r.measurements["artifact_size"].values[0] for r in (now, then))
    for value in (new, old):
        if not 0 < value < math.inf:
            raise ValueError(f"a stored size must be a positive number of bytes: got {value}")
    growth = new / old - 1
    word: Word = "regression" if growth > limit else "pass"
    todo = "see which layers are stored wider: quantkit show has left_in_float" if word == "regression" else ""
    said = f"{old:,.0f} became {new:,.0f} bytes ({growth:+.2%}), limit {limit:+.0%}"
    exact = Estimate(growth, growth, growth, 1.0)
    return Check(now.case, "size", word, said, todo, change=exact, limit=limit)


def _judged(result: Result, name: Name, change: Estimate, limit: float, floor: float, how: str) -> Check:
    """Return the check of a relative growth with its interval."""
    word: Word = "inconclusive"
    if change.high <= limit:
        word = "pass"
    elif change.low > 0 and change.value > max(limit, floor):
        word = "regression"
    said = f"{change.value:+.1%} [{change.low:+.1%}, {change.high:+.1%}], limit {limit:+.0%}, {how}"
    processes = len(result.latencies_s) or None
    found: dict[str, Any] = {
        "change": change,
        "limit": limit,
        "items": processes,
        "detectable": change.high - change.value,
    }
    return Check(result.case, name, word, said, **found)


def _level(rounds: Rounds, confidence: float, drift: float) -> Estimate:
    """Return the median of a run with its interval: a ratio to 1."""
    return ratio_of_medians(rounds, [(1.0,)] * len(rounds), confidence=confidence, drift=drift)


def _quotient(now: Estimate, then: Estimate) -> Estimate:
    """Return now / then - 1; intervals of independent runs add in quadrature (in the logarithm)."""
    centre = math.log(now.value / then.value)
    reach = math.hypot(math.log(now.high / now.value), math.log(then.high / then.value))
    low, value, high = (math.expm1(x) for x in (centre - reach, centre, centre + reach))
    return Estimate(value, low, high, now.confidence)


def wanted(now: Result, then: Result, name: Name, limits: Limits) -> Refusal | bool:
    """Return whether a figure can be checked: both have it, or why not; False where neither has and nobody asked."""
    missing = [r for r in (now, then) if not _has(r, name)]
    if not missing:
        return True
    if len(missing) == 2 and name not in limits.named:
        return False
    where = "here" if missing[0] is now else "in the baseline"
    said = f"{name} was measured in neither run" if len(missing) == 2 else f"no {name} was measured {where}"
    reason = missing[0].measurements[METRICS[name]].reason if METRICS[name] in missing[0].measurements else "not stored"
    if "--rounds 0" in reason:
        both = "both runs" if len(missing) == 2 else "this run" if missing[0] is now else "the baseline"
        return f"{said} ({reason})", f"measure {both} with --rounds of 2 or more"
    return f"{said} ({reason})", "measure both runs with the same --profile and --rounds, or leave it out of --checks"


def _has(result: Result, name: Name) -> bool:
    found = result.measurements.get(METRICS[name])
    return bool(found and found.values) and (name != "latency" or bool(result.latencies_s))

"""From stored results to comparisons: quality item by item, speed round by round, each with its verdict.

The family over which error rates are held is one model on one target: all its methods and backends, which is the
choice that a reader of one table makes. Quality is adjusted by Holm, speed intervals hold simultaneously (Sidak).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Literal

from quantkit.errors import InvalidSetting, NoBaseline
from quantkit.records import Result
from quantkit.stats.interval import Estimate, ratio_of_medians, simultaneous
from quantkit.stats.latency import speed_verdict
from quantkit.stats.retention import Retention, compare, decide

Verdict = Literal["pass", "regression", "inconclusive", "unavailable"]
DRIFT = 0.015  # relative, between whole runs of one machine (see docs/decisions/0003)
LEAST_FLOOR = 0.03  # relative; a smaller change of speed is never called one (see docs/decisions/0003)

NO_BASELINE = "no baseline was measured on this backend: measure full precision there too (the method fp32)"
OTHER = "it was measured against another baseline (other weights, versions or settings): run it again"


@dataclass(frozen=True)
class Comparison:
    """A candidate beside its baseline.

    Args:
        retention: the paired comparison of quality, or None with `reason`.
        speedup: median latency of the baseline over the candidate's (2.0 = twice as fast), with the interval in
            which a repeat of the same run is expected; None where there is no pair of timings.
        speed: what may be said of it.
    """

    result: Result
    baseline: Result | None
    verdict: Verdict
    reason: str = ""
    retention: Retention | None = None
    speedup: Estimate | None = None
    speed: Literal["faster", "slower", "inconclusive", "unavailable"] = "unavailable"
    speed_reason: str = ""


def floor_for(result: Result) -> float:
    """Return the noise floor of the machine that timed a result, relative: at least what equal runs differ by."""
    return max(LEAST_FLOOR, result.context.get("state", {}).get("noise_floor") or 0.0)


def checked_margin(margin: float) -> float:
    """Return a margin that makes sense.

    Raises:
        InvalidSetting: it is not a number between 0 and 1.
    """
    if not 0 < margin < 1:
        raise InvalidSetting(f"a margin is a share between 0 and 1 (0.01 = one point or one per cent): got {margin:g}")
    return margin


def families(results: Iterable[Result]) -> list[list[Result]]:
    """Return the results of each model on each target, baselines first."""
    key = lambda result: (result.case.model, result.case.target)  # noqa: E731 - used twice, here only
    ordered = sorted(results, key=lambda r: (*key(r), r.case.backend, not r.context.get("baseline"), r.case.method))
    return [list(group) for _, group in groupby(ordered, key=key)]


def comparisons(
    results: Iterable[Result], *, margin: float | None = None, alpha: float = 0.05, confidence: float = 0.95
) -> list[Comparison]:
    """Return a comparison for every candidate that was measured.

    Args:
        margin: largest loss of quality that counts as retained; None takes each model's own.
    """
    compared: list[Comparison] = []
    for family in families(results):
        candidates = [result for result in family if result.measured and not result.context.get("baseline")]
        level = simultaneous(confidence, max(1, len(candidates)))
        pairs = [_pair(result, _baseline_in(family, result), margin, alpha, level) for result in candidates]
        compared += adjusted(pairs, alpha)
    return compared


def pair_of(candidate: Result, baseline: Result, *, margin: float | None = None, alpha: float = 0.05) -> Comparison:
    """Return the comparison of any two stored cases.

    Speed is compared only where both were timed in the same rounds: timings of different hours say little.

    Raises:
        NoBaseline: one of them was not measured, or they are of different models.
    """
    for result in (candidate, baseline):
        if not result.measured:
            raise NoBaseline(f"{result.case.id} has no measurement ({result.status}: {result.reason}): run it again")
    if candidate.case.model != baseline.case.model:
        raise NoBaseline(
            f"{candidate.case.id} and {baseline.case.id} are of different models: their items cannot be paired"
        )
    if candidate.context.get("baseline_key") == baseline.context["answers"]:
        return _pair(candidate, baseline, margin, alpha, 0.95)
    reason = f"{candidate.case.id} was not timed in the same rounds as {baseline.case.id}"
    return retained(Comparison(candidate, baseline, "unavailable", speed_reason=reason), margin, alpha)


def retained(pair: Comparison, margin: float | None, alpha: float) -> Comparison:
    """Return the pair with the paired comparison of its quality, or with the reason why there is none.

    The verdict is that of this pair alone: `adjusted` takes the whole family into account.
    """
    candidate, baseline = pair.result, pair.baseline
    assert baseline is not None
    quality = candidate.context["quality"]
    if quality["outcome"] == "none":
        return replace(pair, reason="random weights: fidelity only")
    if candidate.context["data"]["sha256"] != baseline.context["data"]["sha256"]:
        return replace(pair, reason="the baseline was measured on another version of the data: measure it again")
    if len(candidate.outcomes) != len(baseline.outcomes):
        counts = f"{len(candidate.outcomes)} and {len(baseline.outcomes)}"
        return replace(
            pair, reason=f"{counts} items cannot be paired: measure both with the same --profile and --items"
        )
    margin = quality["margin"] if margin is None else margin
    how = {"outcome": quality["outcome"], "better": quality["better"], "margin": margin, "alpha": alpha}
    try:
        retention = compare(baseline.outcomes, candidate.outcomes, **how)
    except ValueError as error:
        return replace(pair, reason=f"a stored outcome cannot be used ({error}): measure it again (--fresh)")
    return replace(pair, retention=retention, verdict=retention.verdict, reason="")


def adjusted(pairs: list[Comparison], alpha: float) -> list[Comparison]:
    """Return the pairs of one family with verdicts that hold for all of them together (Holm), in the same order."""
    measured = [pair.retention for pair in pairs if pair.retention is not None]
    decided = iter(decide(measured, alpha)) if measured else iter(())
    out = []
    for pair in pairs:
        if pair.retention is not None:
            retention = next(decided)
            pair = replace(pair, retention=retention, verdict=retention.verdict)
        out.append(pair)
    return out


def _baseline_in(family: Sequence[Result], candidate: Result) -> Result | None:
    for result in family:
        if result.context.get("baseline") and result.measured and result.case.backend == candidate.case.backend:
            return result
    return None


def _pair(result: Result, baseline: Result | None, margin: float | None, alpha: float, level: float) -> Comparison:
    pair = Comparison(result, baseline, "unavailable", "" if baseline else NO_BASELINE)
    if baseline and result.context.get("baseline_key") != baseline.context["answers"]:
        return replace(pair, reason=OTHER)
    if result.latencies_s and result.reference_latencies_s:
        rounds = (result.reference_latencies_s, result.latencies_s)
        try:
            drift = 0.0 if result.context["simulated"] else DRIFT
            estimate = ratio_of_medians(*rounds, confidence=level, prediction=True, drift=drift)
        except ValueError as error:
            return retained(replace(pair, speed_reason=str(error)), margin, alpha) if baseline else pair
        pair = replace(pair, speedup=estimate, speed=speed_verdict(estimate, floor_for(result)))
        if result.status == "tainted":  # the figures are kept; nothing is concluded from them
            pair = replace(pair, speed="inconclusive", speed_reason=f"tainted: {result.reason}")
    elif result.context.get("untimed"):
        pair = replace(pair, speed_reason=result.context["untimed"])
    return retained(pair, margin, alpha) if baseline else pair

"""Paired non-inferiority of quality: did the candidate keep what the reference had, up to a stated margin?

Three answers. `pass`: "the drop is at least the margin" is refused at alpha. `regression`: "not worse" is refused at
alpha and the drop exceeds the margin. Otherwise `inconclusive`, with the number of items that would do. "No significant
difference" is never a pass: too few items show no difference whatever was lost.
Tests: right/wrong items by McNemar's exact and Tango's score test (`paired_binary`), scores by sign flips and a
bootstrap-t (`paired_score`).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from quantkit.stats import paired_binary
from quantkit.stats.checks import Floats, pair, share
from quantkit.stats.multiplicity import holm
from quantkit.stats.paired_score import SMALLEST, Contrast, score_interval
from quantkit.stats.sample_size import detectable_drop, items_needed, planning_factor

Verdict = Literal["pass", "regression", "inconclusive"]


@dataclass(frozen=True, slots=True)
class Retention:
    """What a comparison of paired outcomes says.

    Args:
        verdict: `pass`, `regression` or `inconclusive`.
        reference: mean outcome of the reference.
        candidate: mean outcome of the candidate.
        drop: positive = worse: `binary` as a share of items (0.01 = one point), `score` relative to |reference|.
        drop_low: lower end of the two-sided 1 - 2·alpha interval of the drop; may be -inf for few scores.
        drop_high: upper end; may be inf.
        p_worse: one-sided p of "not worse": McNemar's exact test, or sign flips for scores.
        p_not_inferior: one-sided p of "the drop is at least the margin": Tango's score, or bootstrap-t for scores
            (1 below 30 items).
        retention: quality kept, 1 = all: candidate / reference, or its inverse where lower is better; None unless
            both means are positive.
        error_growth: wrong share of the candidate over the reference's; None for scores and a faultless reference.
        items: how many pairs.
        disagreements: psi, the share of items judged differently; None for scores.
        detectable: the smallest drop that this many items can tell from none, at this alpha and power.
        items_needed: about how many items would decide, were the drop what it looks like; None if decided.
        margin, alpha, power: what was asked.
        variance: of one item's drop, which `items_needed` plans with (psi for `binary`).
        outcome: kind of outcomes.
    """

    verdict: Verdict
    reference: float
    candidate: float
    drop: float
    drop_low: float
    drop_high: float
    p_worse: float
    p_not_inferior: float
    retention: float | None
    error_growth: float | None
    items: int
    disagreements: float | None
    detectable: float
    items_needed: int | None
    margin: float
    alpha: float
    power: float
    variance: float
    outcome: Literal["binary", "score"]


def compare(
    reference: ArrayLike,
    candidate: ArrayLike,
    *,
    outcome: Literal["binary", "score"],
    better: Literal["higher", "lower"],
    margin: float,
    alpha: float = 0.05,
    power: float = 0.8,
    seed: int = 0,
) -> Retention:
    """Return whether the candidate keeps the reference's quality on the same items.

    Args:
        reference: [n], one outcome per item; 0 or 1 for `binary`.
        candidate: [n], the same items in the same order.
        outcome: `binary` or `score` (accuracy in points, score relative to the reference's mean).
        better: direction of the mean.
        margin: largest drop that still counts as kept, in the unit of the drop; 0..1, both excluded.
        alpha: one-sided error rate of each test.
        power: chance of deciding that planning aims at.
        seed: of the resampling for scores.

    Raises:
        ValueError: unequal lengths, no items, nan or infinite, `binary` outcomes other than 0 and 1, scores whose
            reference mean is 0, or a margin, alpha or power outside 0..1.

    >>> kept = np.repeat([1.0, 0.0], [900, 100])
    >>> compare(kept, kept, outcome="binary", better="higher", margin=0.01).verdict
    'pass'
    >>> compare(kept[:5], kept[:5], outcome="binary", better="higher", margin=0.01).items_needed
    299
    """
    ref, cand = pair(reference, candidate)
    for value, name in ((margin, "margin"), (alpha, "alpha"), (power, "power")):
        share(value, name)
    if outcome not in ("binary", "score") or better not in ("higher", "lower"):
        raise ValueError(f"outcome must be binary or score and better higher or lower: got {outcome!r} and {better!r}")
    measure = _binary if outcome == "binary" else _score
    fields = measure(ref, cand, better == "higher", margin, alpha, power, seed)
    means = float(ref.mean()), float(cand.mean())
    fields |= {"reference": means[0], "candidate": means[1], "retention": _kept(*means, better == "higher")}
    fields |= {"outcome": outcome, "margin": margin, "alpha": alpha, "power": power}
    found = Retention("inconclusive", items=len(ref), items_needed=None, **fields)
    return _judged(found, alpha)


def decide(retentions: Sequence[Retention], alpha: float = 0.05) -> tuple[Retention, ...]:
    """Return the comparisons of a matrix with Holm-adjusted p-values and the verdicts that follow from them.

    Both tests are adjusted over the whole matrix: the chance of any false pass is at most `alpha`, and so is that of
    calling any candidate a regression that lost nothing. A true loss a little below the margin may still be called
    one (its estimate exceeds the margin in up to half of all samples): a loss for sure, of uncertain size.
    Intervals stay those of the single comparison. `items_needed` plans with alpha / count.

    Args:
        retentions: as `compare` gives them (not adjusted before), in any order; may be empty.
        alpha: error rate of the whole matrix.

    Raises:
        ValueError: alpha outside 0..1.
    """
    share(alpha, "alpha")
    worse = holm([r.p_worse for r in retentions]).tolist()
    inferior = holm([r.p_not_inferior for r in retentions]).tolist()
    adjusted = (replace(r, p_worse=w, p_not_inferior=i) for r, w, i in zip(retentions, worse, inferior, strict=True))
    return tuple(_judged(r, alpha, planned=alpha / len(retentions)) for r in adjusted)


def _judged(found: Retention, alpha: float, planned: float | None = None) -> Retention:
    """Return the comparison with its verdict at `alpha`; items are planned with `planned`."""
    if found.p_not_inferior < alpha:
        return replace(found, verdict="pass", items_needed=None)
    if found.p_worse < alpha and found.drop > found.margin:
        return replace(found, verdict="regression", items_needed=None)
    return replace(found, verdict="inconclusive", items_needed=_needed(found, planned or alpha))


def _needed(found: Retention, alpha: float) -> int:
    """Return how many items would decide if the drop is what it looks like: its distance from what is to be refused.

    Below the margin that is margin - drop (a gain is not banked on), from the margin on it is the drop itself.
    """
    gap = found.margin - max(found.drop, 0.0) if found.drop < found.margin else found.drop
    normal = math.ceil(planning_factor(alpha, found.power) * found.variance / gap**2)
    least = items_needed(0.0, found.margin, alpha, found.power) if found.outcome == "binary" else SMALLEST
    return max(normal, least, found.items + 1)


def _kept(reference: float, candidate: float, higher: bool) -> float | None:
    """Return candidate / reference, or its inverse where lower is better; None unless both are positive."""
    if min(reference, candidate) <= 0:
        return None
    return candidate / reference if higher else reference / candidate


def _binary(
    ref: Floats, cand: Floats, higher: bool, margin: float, alpha: float, power: float, seed: int
) -> dict[str, Any]:
    """Return the fields of right/wrong outcomes (nothing random: `seed` is not used)."""
    for values, name in ((ref, "reference"), (cand, "candidate")):
        strange = values[(values != 0) & (values != 1)]
        if len(strange):
            raise ValueError(f"binary outcomes must be 0 or 1: got {strange[0]} in {name}; use outcome='score'")
    right, still = (ref == 1, cand == 1) if higher else (ref == 0, cand == 0)
    n, lost, gained = len(ref), int(np.sum(right & ~still)), int(np.sum(~right & still))
    low, high = paired_binary.drop_interval(lost, gained, n, alpha)
    psi, wrong = (lost + gained) / n, int(np.sum(~right))
    return {
        "drop": (lost - gained) / n,
        "drop_low": low,
        "drop_high": high,
        "p_worse": paired_binary.p_worse(lost, gained),
        "p_not_inferior": paired_binary.p_not_inferior(lost, gained, n, margin),
        "error_growth": int(np.sum(~still)) / wrong if wrong else None,
        "disagreements": psi,
        "detectable": detectable_drop(n, psi, alpha, power),
        "variance": psi,
    }


def _score(
    ref: Floats, cand: Floats, higher: bool, margin: float, alpha: float, power: float, seed: int
) -> dict[str, Any]:
    """Return the fields of real-valued outcomes."""
    level = float(ref.mean())
    if level == 0:
        raise ValueError("a relative drop needs a reference mean other than 0: got 0")
    contrast = Contrast(ref - cand if higher else cand - ref, ref * math.copysign(1.0, level), seed)
    tails, variance = contrast.tails(), contrast.variance(margin)
    low, high = score_interval(contrast, tails, alpha)
    return {
        "drop": contrast.drop,
        "drop_low": low,
        "drop_high": high,
        "p_worse": contrast.p_worse(),
        "p_not_inferior": tails(margin)[0] if len(ref) >= SMALLEST else 1.0,
        "error_growth": None,
        "disagreements": None,
        "detectable": math.sqrt(planning_factor(alpha, power) * variance / len(ref)),
        "variance": variance,
    }

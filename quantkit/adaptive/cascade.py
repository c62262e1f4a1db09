"""A cascade: ask the cheap precision first, and the next one only where it is unsure; thresholds with a guarantee.

Precision k answers with a confidence s_k; the first precision with s_k >= t_k has the last word, the last precision
always has. Thresholds t are chosen on validation items so that, with probability 1 - alpha over those items, the true
requirement holds: the accuracy lost against the last (full) precision is at most `loss`, or the accuracy is at least
`accuracy`. This is Learn-then-Test with fixed-sequence testing (Angelopoulos et al. 2021, arXiv:2110.01052): a first
part of the items lines up candidate thresholds from dear to cheap (as Pareto testing does, Laufer-Goldshtein et al.
2022, arXiv:2210.07913), the other part tests them in that order and stops at the first that cannot be shown to keep
the requirement. Every candidate before that is certified at once, so any of them may be taken: the cheapest is.

Test of "the loss is at least e". Let L be 1 where full precision is right and the cascade wrong, -1 the other way round
and 0 otherwise. For any bet 0 < b < 1 / (1 - e) fixed before the items are seen, 1 - b(L - e) is positive, and its mean
is at most 1 when the mean of L is at least e. So the product over n independent items has a mean of at most 1, and by
Markov's inequality it exceeds 1 / alpha with probability at most alpha:

    p = min(1, 1 / product),  product = (1 - b(1 - e))^lost · (1 + b·e)^same · (1 + b(1 + e))^gained.

It holds for every n and every distribution. The bet only decides how sharp the test is; it is the one that would have
grown fastest on the first part. "The accuracy is at most a" is tested by the binomial tail, which is exact.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product, takewhile

import numpy as np
from scipy.stats import binom

from quantkit.errors import CalibrationError, InvalidSetting

NEVER = math.inf  # a threshold that no confidence reaches: this precision is not asked at all
RANKING = 0.2  # share of the validation items that ranks the candidates
STEPS = 25  # thresholds tried for each precision, evenly spread over the items that they let pass
MOST_TRIED = 4_000  # combinations of them
BETS = np.linspace(0.02, 0.98, 49)
RISKIEST = (math.inf, math.inf, math.inf)
LEAST = 100  # validation items below which nothing is chosen


@dataclass(frozen=True, slots=True)
class Requirement:
    """What the thresholds must keep, and how sure that must be.

    Args:
        loss: accuracy that may be lost against full precision (0.005 = half a point); or else
        accuracy: the share of right answers that must be reached.
        alpha: chance, over the draw of the validation items, that the thresholds break it.
    """

    loss: float | None = 0.005
    accuracy: float | None = None
    alpha: float = 0.05

    def __post_init__(self) -> None:
        if (self.loss is None) == (self.accuracy is None):
            raise InvalidSetting("a requirement is either a loss or an accuracy: set the other to None")
        for name in ("loss", "accuracy", "alpha"):
            value = getattr(self, name)
            if value is not None and not 0 < value < 1:
                raise InvalidSetting(f"{name} must lie between 0 and 1: got {value}")

    def __str__(self) -> str:
        kept = f"accuracy >= {self.accuracy:g}" if self.loss is None else f"loss <= {self.loss:g}"
        return f"{kept} with probability >= {1 - self.alpha:g}"


@dataclass(frozen=True)
class Evidence:
    """What every precision said on the validation items, cheapest first, full precision last.

    Args:
        confidence: [precisions, n].
        right: [precisions, n] bool: the answer is the label's; without labels: that of full precision.
        costs: seconds of one answer, one for each precision.
        guarded: [n] bool: items that go to full precision whatever the cheap ones say; None for no item.
    """

    confidence: np.ndarray
    right: np.ndarray
    costs: tuple[float, ...]
    guarded: np.ndarray | None = None

    def __post_init__(self) -> None:
        shape = (len(self.costs), self.right.shape[-1])
        if self.confidence.shape != shape or self.right.shape != shape or len(self.costs) < 2:
            raise CalibrationError(
                f"evidence needs [precisions, n] of at least 2 precisions: got confidence {self.confidence.shape}, "
                f"right {self.right.shape}, {len(self.costs)} costs"
            )
        if not np.isfinite(self.confidence).all():
            raise CalibrationError("confidences must be finite: got nan or inf; the artifact's answers are not usable")

    def take(self, rows: np.ndarray) -> Evidence:
        """Return the evidence of some items."""
        guarded = None if self.guarded is None else self.guarded[rows]
        return Evidence(self.confidence[:, rows], self.right[:, rows], self.costs, guarded)


@dataclass(frozen=True)
class Outcome:
    """What thresholds did on some items.

    Args:
        chosen: [n], index of the precision that had the last word.
        cost_s: mean seconds of the model's own time for one item: of all precisions that were asked.
        doubt: mean of 1 - confidence where a cheap precision had the last word: orders what was never wrong.
    """

    chosen: np.ndarray
    cost_s: float
    accuracy: float
    lost: int
    gained: int
    doubt: float


@dataclass(frozen=True)
class Thresholds:
    """What was found: `levels` are all certified candidates from full precision only to the cheapest one.

    Args:
        values: of the level that is taken: one for each precision but the last.
        certified: False where full precision itself cannot be shown to reach the required accuracy.
        tested: items that the guarantee rests on.
        disagreement: share of the tested items on which the taken level and full precision are not right together.
    """

    values: tuple[float, ...]
    levels: tuple[tuple[float, ...], ...]
    requirement: Requirement
    certified: bool
    tested: int
    disagreement: float


def decide(confidences: Sequence[float], values: Sequence[float]) -> int:
    """Return which precision has the last word on an item.

    >>> decide([0.4, 0.9, 1.0], [0.5, 0.8]), decide([0.6, 0.9, 1.0], [0.5, 0.8]), decide([0.4, 0.7, 1.0], [0.5, 0.8])
    (1, 0, 2)
    """
    return next((k for k, value in enumerate(values) if confidences[k] >= value), len(values))


def apply(evidence: Evidence, values: Sequence[float]) -> Outcome:
    """Return what thresholds do on the evidence; a precision whose threshold is `NEVER` costs nothing."""
    n, last = evidence.right.shape[1], len(values)
    passed = evidence.confidence[:last] >= np.asarray(values)[:, None]
    chosen = np.where(passed.any(0), passed.argmax(0), last)
    if evidence.guarded is not None:
        chosen = np.where(evidence.guarded, last, chosen)
    asked = np.array([value < NEVER for value in (*values, 0.0)])
    spent = np.cumsum(np.where(asked, evidence.costs, 0.0))[chosen]
    if evidence.guarded is not None:
        spent = np.where(evidence.guarded, evidence.costs[last], spent)
    right, full = evidence.right[chosen, np.arange(n)], evidence.right[last]
    doubts = np.where(chosen < last, 1.0 - evidence.confidence[chosen, np.arange(n)], 0.0)
    return Outcome(
        chosen=chosen,
        cost_s=float(spent.mean()),
        accuracy=float(right.mean()),
        lost=int((full & ~right).sum()),
        gained=int((right & ~full).sum()),
        doubt=float(doubts.mean()),
    )


def calibrate(evidence: Evidence, requirement: Requirement, *, seed: int = 0) -> Thresholds:
    """Return the cheapest thresholds that are certified to keep the requirement.

    Args:
        evidence: of validation items, drawn like the requests to come.
        seed: of the draw that parts the items that rank from those that test.

    Raises:
        CalibrationError: fewer than 100 items.
    """
    n = evidence.right.shape[1]
    if n < LEAST:
        raise CalibrationError(f"thresholds need at least {LEAST} validation items: got {n}")
    order = np.random.default_rng(seed).permutation(n)
    ranking, testing = evidence.take(order[: int(RANKING * n)]), evidence.take(order[int(RANKING * n) :])
    full = (NEVER,) * (len(evidence.costs) - 1)
    keeps = partial(_keeps, ranking, testing, requirement)
    certified = requirement.loss is not None or keeps(full)  # full precision loses nothing against itself
    found = list(takewhile(keeps, candidates(ranking))) if certified else []
    levels = [full, *found]
    taken = apply(testing, levels[-1])
    tested = testing.right.shape[1]
    return Thresholds(levels[-1], tuple(levels), requirement, certified, tested, (taken.lost + taken.gained) / tested)


def candidates(ranking: Evidence) -> list[tuple[float, ...]]:
    """Return thresholds from dear to cheap and from safe to risky; of about equal cost the one that looked safest."""
    cheap, full = len(ranking.costs) - 1, ranking.costs[-1]
    shares = np.linspace(0.0, 1.0, max(3, min(STEPS, int(MOST_TRIED ** (1 / cheap)))))
    grids = [[NEVER, *np.quantile(row, 1 - shares[1:], method="lower").tolist()] for row in ranking.confidence[:-1]]
    tried = [(values, apply(ranking, values)) for values in product(*map(dict.fromkeys, grids))]
    useful = [(values, found) for values, found in tried if found.cost_s < full]
    width = (full - min((found.cost_s for _, found in useful), default=0.0)) / STEPS
    best: dict[int, tuple[tuple[float, float, float], tuple[float, ...]]] = {}
    for values, found in useful:
        place = int((full - found.cost_s) / width)
        best[place] = min(best.get(place, (RISKIEST, values)), ((_risk(found), found.doubt, found.cost_s), values))
    kept: list[tuple[float, ...]] = []
    safest = math.inf
    for _, ((risk, _, _), values) in sorted(best.items(), reverse=True):  # from cheap to dear
        if risk <= safest:  # else a cheaper one looked safer: this one would only end the sequence early
            safest = risk
            kept.append(values)
    return kept[::-1]


def _risk(found: Outcome) -> float:
    """Return the net loss plus two of its standard errors, items: a lucky candidate does not come first."""
    return found.lost - found.gained + 2 * math.sqrt(found.lost + found.gained)


def _keeps(ranking: Evidence, testing: Evidence, requirement: Requirement, values: tuple[float, ...]) -> bool:
    return _p_value(ranking, testing, values, requirement) <= requirement.alpha


def _p_value(ranking: Evidence, testing: Evidence, values: tuple[float, ...], requirement: Requirement) -> float:
    """Return the p-value of "these thresholds break the requirement" on the testing items."""
    found, n = apply(testing, values), testing.right.shape[1]
    if requirement.loss is None:
        assert requirement.accuracy is not None
        return float(binom.sf(round(found.accuracy * n) - 1, n, requirement.accuracy))
    ranked = apply(ranking, values)
    bet = best_bet(ranked.lost, ranked.gained, ranking.right.shape[1], requirement.loss)
    return p_loss(found.lost, found.gained, n, requirement.loss, bet)


def p_loss(lost: int, gained: int, n: int, loss: float, bet: float) -> float:
    """Return the p-value of "the mean loss is at least `loss`"; `bet` in 0..1 must not depend on these items.

    >>> round(p_loss(0, 0, 600, 0.005, 0.9), 4)  # 1 / (1 + 0.9 · 0.005)^600
    0.0676
    """
    return math.exp(-max(0.0, n * _growth(lost / n, gained / n, loss, np.array([bet])).item()))


def best_bet(lost: int, gained: int, n: int, loss: float) -> float:
    """Return the bet whose capital would grow fastest at the shares seen, by the rule of succession."""
    growth = _growth((lost + 1) / (n + 2), (gained + 1) / (n + 2), loss, BETS)
    return float(BETS[growth.argmax()])


def _growth(lost: float, gained: float, loss: float, bets: np.ndarray) -> np.ndarray:
    """Return the mean logarithm of the capital's factor for shares of lost and gained items, [bets]."""
    same = 1 - lost - gained
    return lost * np.log1p(-bets * (1 - loss)) + same * np.log1p(bets * loss) + gained * np.log1p(bets * (1 + loss))

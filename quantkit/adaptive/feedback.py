"""Feedback: a share of the requests is answered by full precision too; more disagreement than allowed is a drift.

Let p0 be the disagreement that validation allows. For a request that was audited, with x = 1 for a disagreement, the
likelihood ratio of a larger share p1 against p0,

    r(x) = p1 / p0 for x = 1,  (1 - p1) / (1 - p0) for x = 0,

has a mean of at most 1 wherever the true share is at most p0 (it is linear and rising in that share, and 1 at p0). The
Shiryaev-Roberts sum M <- (M + 1) · r(x) therefore grows by at most 1 on average for each audited request, and the mean
number of audited requests until M first reaches a bound B without any drift is at least B (Shin, Ramdas & Rinaldo 2022,
arXiv:2203.03532: an e-detector). M is the average over several p1, so that small and large drifts are both seen. Unlike
a test of the whole history it does not grow deaf in a long good time.

On an alarm the thresholds move halfway to full precision only; after `patience` audited requests without one, of which
no larger share than p0 disagreed, they move back a single level, never past what was certified. Patience doubles with
every alarm.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from scipy.special import betaincinv, ndtri

from quantkit.errors import InvalidSetting

RATIOS = (1.5, 2.0, 4.0, 8.0)  # p1 / p0 of the drifts that are looked for
LONGEST = 64  # times the first patience


@dataclass(frozen=True, slots=True)
class Audit:
    """How feedback is done.

    Args:
        share: of the requests that full precision answers too.
        allowed: p0, share of disagreements that is in order.
        run_length: mean number of audited requests between false alarms, at least.
        patience: audited requests without an alarm before thresholds are relaxed by one level.
    """

    share: float = 0.02
    allowed: float = 0.01
    run_length: float = 10_000.0
    patience: int = 500

    def __post_init__(self) -> None:
        if not (0 <= self.share <= 1 and 0 < self.allowed < 1 and self.run_length > 1 and self.patience >= 1):
            raise InvalidSetting(
                "an audit needs a share in 0..1, 0 < allowed < 1, run_length > 1 and patience >= 1: got "
                f"{self.share}, {self.allowed}, {self.run_length}, {self.patience}"
            )


@dataclass(frozen=True, slots=True)
class State:
    """Where feedback stands; `level` counts from 0, full precision only, to the cheapest certified thresholds."""

    level: int
    sums: tuple[float, ...] = (0.0,) * len(RATIOS)
    quiet: int = 0  # audited since the last alarm or relaxation
    hits: int = 0  # of those, disagreements
    patience: int = 0  # 0: the audit's own
    audited: int = 0
    disagreed: int = 0
    alarms: int = 0


def allowed(disagreed: int, n: int, *, loss: float = 0.0, confidence: float = 0.95) -> float:
    """Return the share of disagreements to allow: the upper Clopper-Pearson bound of validation's, at least `loss`.

    >>> round(allowed(0, 299), 4)  # 1 - 0.05^(1/299)
    0.01
    """
    upper = 1.0 if disagreed >= n else float(betaincinv(disagreed + 1, n - disagreed, confidence))
    return max(upper, loss)


def step(state: State, disagrees: bool, audit: Audit, top: int) -> State:
    """Return the state after one audited request.

    Args:
        disagrees: whether the cascade's answer was not that of full precision.
        top: the level of the cheapest certified thresholds.
    """
    counted = replace(
        state,
        audited=state.audited + 1,
        disagreed=state.disagreed + disagrees,
        quiet=state.quiet + 1,
        hits=state.hits + disagrees,
    )
    sums = tuple((m + 1) * _ratio(disagrees, audit.allowed, ratio) for m, ratio in zip(state.sums, RATIOS, strict=True))
    patience = state.patience or audit.patience
    if sum(sums) / len(sums) >= audit.run_length:
        fresh = replace(counted, level=state.level // 2, sums=State(0).sums, quiet=0, hits=0)
        return replace(fresh, patience=min(2 * patience, LONGEST * audit.patience), alarms=state.alarms + 1)
    if counted.quiet >= patience and counted.hits <= audit.allowed * counted.quiet and state.level < top:
        return replace(counted, level=state.level + 1, sums=sums, quiet=0, hits=0)
    return replace(counted, sums=sums)


def _ratio(disagrees: bool, p0: float, ratio: float) -> float:
    p1 = min(p0 * ratio, (1 + p0) / 2)
    return p1 / p0 if disagrees else (1 - p1) / (1 - p0)


def wilson(hits: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return Wilson's interval of a share (Wilson 1927); (0, 1) for no observation.

    >>> [round(end, 4) for end in wilson(10, 10)]  # 10 / (10 + 1.96²)
    [0.7225, 1.0]
    """
    if not n:
        return 0.0, 1.0
    z2 = float(ndtri((1 + confidence) / 2)) ** 2
    share = hits / n
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    reach = math.sqrt(z2 * share * (1 - share) / n + z2 * z2 / (4 * n * n)) / (1 + z2 / n)
    return max(0.0, centre - reach), min(1.0, centre + reach)

"""Does an artifact keep what was required? Built, asked on validation items, judged against the original network.

Where the task has targets: the paired verdict of `stats.retention` on items of the training part that sensitivity has
not seen; never on evaluation items. Elsewhere: the fidelity of the outputs.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from quantkit.catalog import BACKENDS, TARGETS
from quantkit.contracts import BuildReport, LayerReport, Plan, Prepared, Quality, Session, Split, Target
from quantkit.numerics import fidelity
from quantkit.pipeline import crew
from quantkit.procedures import layers
from quantkit.stats import retention

Unit = Literal["bytes", "s"]  # of a budget
Outcomes = Callable[[np.ndarray, np.ndarray], np.ndarray]  # outputs, targets -> one outcome per item


@dataclass(frozen=True)
class Required:
    """What an artifact must keep.

    Args:
        retention: share of the original's quality, shown by a paired verdict at `alpha`; where there are targets.
        sqnr_db: least fidelity of the outputs, where there are none.
    """

    retention: float = 0.99
    sqnr_db: float = 20.0
    alpha: float = 0.05

    def __post_init__(self) -> None:
        """Refuse a retention that cannot be shown.

        Raises:
            ValueError: what, got, expected.
        """
        if not 0 < self.retention < 1:
            raise ValueError(f"retention is a share between 0 and 1, both excluded: got {self.retention}")


@dataclass(frozen=True)
class Verdict:
    """What was found.

    Args:
        holds: whether the requirement is shown to be kept.
        word: `pass`, `regression` or `inconclusive`; `fidelity` where there are no targets.
        kept: share of quality kept (None where a mean is not positive or there are no targets).
        drop: estimate and interval of the loss, as `stats.retention` gives them; None without targets.
        sqnr_db: of the outputs.
        items: how many.
    """

    holds: bool
    word: str
    kept: float | None
    drop: tuple[float, float, float] | None
    sqnr_db: float
    items: int


@dataclass(frozen=True)
class Place:
    """Where artifacts are built and run."""

    backend: str
    target: str = "cpu"
    threads: int = 1


class Judge:
    """Compares artifacts of one network with the original on one set of items.

    Args:
        outcomes: None where the task has no targets that its quality can be computed from.
        seed: of resampling.
    """

    def __init__(
        self,
        network: nn.Module,
        items: Split,
        *,
        quality: Quality | None,
        outcomes: Outcomes | None,
        required: Required,
        seed: int = 0,
    ):
        self.items, self.required = items, required
        self._quality, self._outcomes, self._seed = quality, outcomes, seed
        self.original = layers.answers(network, items).numpy()

    def verdict(self, outputs: np.ndarray) -> Verdict:
        """Return whether outputs [n, ...] for the items keep what is required."""
        sqnr, count = fidelity.sqnr_db(self.original, outputs), len(self.items)
        if self._quality is None or self._outcomes is None or self._quality.outcome == "none":
            return Verdict(sqnr >= self.required.sqnr_db, "fidelity", None, None, sqnr, count)
        found = self.compared(self.original, outputs)
        drop = found.drop, found.drop_low, found.drop_high
        return Verdict(found.verdict == "pass", found.verdict, found.retention, drop, sqnr, count)

    def compared(self, reference: np.ndarray, outputs: np.ndarray) -> retention.Retention:
        """Return the paired comparison of two systems' outputs; a right/wrong margin is a share of the original's."""
        quality, ask = self._quality, self._outcomes
        assert quality is not None and ask is not None and quality.outcome != "none"
        before, after = (ask(values, self.items.targets) for values in (reference, outputs))
        lost = 1 - self.required.retention
        margin = lost * float(np.mean(before)) if quality.outcome == "binary" else lost
        return retention.compare(
            before,
            after,
            outcome=quality.outcome,
            better=quality.better,
            margin=max(margin, 1e-9),
            alpha=self.required.alpha,
            seed=self._seed,
        )


def build(network: nn.Module, plan: Plan, items: Split, folder: Path, place: Place) -> BuildReport:
    """Build the artifact of a plan; the items fix its shapes and give static ranges. The network is not changed."""
    prepared = Prepared(copy.deepcopy(network), plan, items.item(0), items)
    return BACKENDS.get(place.backend).build(prepared, folder, place.threads)


def answers(folder: Path, items: Split, place: Place) -> np.ndarray:
    """Return the artifact's outputs for all items, one by one, [n, ...]."""
    session = opened(folder, place)
    try:
        rows = [session.fetch(session.run(session.feed(items.item(i)))) for i in range(len(items))]
        return np.concatenate(rows)
    finally:
        session.close()


def opened(folder: Path, place: Place) -> Session:
    """Open an artifact; the original's thread count in this process comes back."""
    before = torch.get_num_threads()
    try:
        return BACKENDS.get(place.backend).open(folder, TARGETS.get(place.target), place.threads)
    finally:
        torch.set_num_threads(before)


def latencies_s(
    folders: Sequence[Path], items: Split, place: Place, *, rounds: int = 9, round_s: float = 0.1
) -> list[float]:
    """Return for each artifact the median over rounds of the median seconds of a call; they take turns.

    Nothing else of ours is timed meanwhile.
    """
    target, sessions = TARGETS.get(place.target), [opened(folder, place) for folder in folders]
    fed = [session.feed(items.item(0)) for session in sessions]
    medians: list[list[float]] = [[] for _ in sessions]
    with crew.alone():
        for _ in range(rounds + 1):  # the first warms up
            for session, inputs, found in zip(sessions, fed, medians, strict=True):
                found.append(_median_call_s(session, inputs, target, round_s))
    for session in sessions:
        session.close()
    return [float(np.median(found[1:])) for found in medians]


def _median_call_s(session: Session, fed: Any, target: Target, round_s: float) -> float:
    calls: list[float] = []
    while len(calls) < 3 or sum(calls) < round_s:
        start = target.clock()
        session.run(fed)
        target.synchronize()
        calls.append(target.clock() - start)
    return float(np.median(calls))


def transitions(reports: Sequence[LayerReport]) -> int:
    """Return how often the stored precision changes from one layer of an artifact to the next, as it lists them."""
    bits = [report.bits for report in reports]
    return sum(a != b for a, b in itertools.pairwise(bits))

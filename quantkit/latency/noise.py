"""What this machine can tell apart: equal sides compared many times (the noise floor), and sides slowed on purpose.

A comparison of equal sides (A/A) that gives a verdict is a false alarm; the largest effect that such comparisons show
is the floor below which no verdict is given. Every comparison is written down at once: a self-test that was
cut goes on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

from scipy.stats import binomtest

from quantkit.errors import InvalidSetting
from quantkit.latency import subject
from quantkit.latency.protocol import LatencyComparison, Say, compare
from quantkit.state.noise import ENOUGH, Trial, floor_of, keep, trials
from quantkit.stats.sequential import Rule


@dataclass(frozen=True)
class Rate:
    """How often something happened, with the exact 95 % interval (Clopper and Pearson 1934)."""

    count: int
    of: int

    @property
    def value(self) -> float:
        """The share."""
        return self.count / self.of

    @property
    def interval(self) -> tuple[float, float]:
        """Low and high end."""
        found = binomtest(self.count, self.of).proportion_ci(0.95)
        return float(found.low), float(found.high)


def rule(alpha: float = 0.01, path: Path | None = None) -> Rule:
    """Return the rule for this machine: its measured floor, or the default where the self-test has not been run."""
    floor = floor_of(trials(path))
    if floor is None:
        return Rule(alpha)
    return Rule(alpha, floor=floor, tolerance=max(Rule().tolerance, 2 * floor))


def measure(
    shares: Sequence[float], count: int, *, threads: int, limit_s: float, say: Say, path: Path | None = None
) -> list[Trial]:
    """Compare until there are `count` comparisons of each share; return all that there are with that many threads.

    Args:
        shares: by which the candidate is slowed; 0 for equal sides. They take turns.
        count: comparisons of each.
        threads: of the network.
        limit_s: of one comparison.
        say: gets a line per comparison.
        path: of the file; this machine's by default.

    Raises:
        InvalidSetting: a share that is no slow-down, or no comparison.
        MissingExtra: ONNX Runtime is not installed.
    """
    if count < 1 or any(not 0 <= share < 10 for share in shares):
        raise InvalidSetting(f"at least 1 comparison, slow-downs from 0 to 10: got {count} and {list(shares)}")
    known = [trial for trial in trials(path) if trial.threads == threads]
    missing = {share: count - sum(trial.slowed == share for trial in known) for share in shares}
    layers = subject.layers_for(threads) if max(missing.values()) > 0 else 0
    for number in range(count):
        for share in [share for share in shares if missing[share] > number]:
            found = _one(share, threads, layers, limit_s, seed=len(known), path=path)
            keep(found, path)
            known.append(found)
            say(_line(found, sum(trial.slowed == share for trial in known), count))
    return known


def _one(share: float, threads: int, layers: int, limit_s: float, *, seed: int, path: Path | None) -> Trial:
    sides = subject.side(threads, layers), subject.side(threads, layers, share)
    used = rule(path=path)
    found: LatencyComparison = compare(*sides, rule=used, limit_s=limit_s, seed=seed)
    speedup = found.speedup.value if found.speedup else float("nan")
    counts = len(found.blocks), len(found.tainted)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return Trial(share, found.verdict, speedup, *counts, found.elapsed_s, used.floor, threads, now)


def _line(trial: Trial, number: int, count: int) -> str:
    what = f"slowed by {trial.slowed:.0%}" if trial.slowed else "equal sides"
    blocks = f"{trial.blocks} blocks" + (f", {trial.tainted} disturbed" if trial.tainted else "")
    return f"{what}, {number} of {count}: {trial.verdict} ({trial.speedup:.4f}) in {trial.elapsed_s:.1f} s, {blocks}"


def false_alarms(found: Sequence[Trial]) -> Rate:
    """Return how often equal sides got a verdict of faster or slower."""
    equal = [trial for trial in found if not trial.slowed]
    return Rate(sum(trial.verdict in ("faster", "slower") for trial in equal), len(equal))


def detected(found: Sequence[Trial], share: float) -> Rate:
    """Return how often a slow-down of that share was found."""
    slowed = [trial for trial in found if trial.slowed == share]
    return Rate(sum(trial.verdict == "slower" for trial in slowed), len(slowed))


def report(found: Sequence[Trial]) -> list[str]:
    """Return the lines for a reader: a Markdown table of rates with exact intervals, then the floor."""
    lines = [
        "| candidate | comparisons | verdicts of faster or slower | 95 % | median s | slowest s |",
        "|---|--:|--:|---|--:|--:|",
    ]
    for share in sorted({trial.slowed for trial in found}):
        these = [trial for trial in found if trial.slowed == share]
        rate = detected(found, share) if share else false_alarms(found)
        low, high = rate.interval
        seconds = [trial.elapsed_s for trial in these]
        what = f"slowed by {share:.0%}: found" if share else "equal: false alarms"
        cells = (
            f"{rate.count} ({rate.value:.1%}) | {low:.1%} to {high:.1%} | {median(seconds):.1f} | {max(seconds):.1f}"
        )
        lines.append(f"| {what} | {rate.of} | {cells} |")
    floor = floor_of(found)
    told = (
        f"noise floor: {floor:.2%}" if floor is not None else f"noise floor: needs {ENOUGH} comparisons of equal sides"
    )
    return [*lines, "", told]

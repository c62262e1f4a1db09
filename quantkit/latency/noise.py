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
from quantkit.latency.floor import MOST_FLOOR, with_floor
from quantkit.latency.protocol import LatencyComparison, compare
from quantkit.latency.side import Say
from quantkit.pipeline.noise import ENOUGH, LIMIT_S, Trial, floor_of, keep, trials
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


def measure(
    shares: Sequence[float], count: int, *, threads: int, limit_s: float, say: Say, path: Path | None = None
) -> list[Trial]:
    """Compare until there are `count` comparisons of each share; return all that there are of that kind.

    A comparison without an estimate, because something else used the machine, does not count: it is tried once more by
    the next call.

    Args:
        shares: by which the candidate is slowed; 0 for equal sides. They take turns.
        count: comparisons of each.
        threads: of the network.
        limit_s: of one comparison; those with another one are apart.
        say: gets a line per comparison.
        path: of the file; this machine's by default.

    Raises:
        InvalidSetting: a share that is no slow-down, no comparison, no thread, or no time.
        MissingExtra: ONNX Runtime is not installed.
    """
    if count < 1 or any(not 0 <= share < 10 for share in shares):
        raise InvalidSetting(f"at least 1 comparison, slow-downs from 0 to 10: got {count} and {list(shares)}")
    if threads < 1 or not 0 < limit_s < float("inf"):
        raise InvalidSetting(f"at least 1 thread and a positive number of seconds: got {threads} and {limit_s}")
    known = [trial for trial in trials(path) if (trial.threads, trial.limit_s) == (threads, limit_s)]
    missing = {share: count - len(_usable(known, share)) for share in shares}
    layers = subject.layers_for(threads) if max(missing.values()) > 0 else 0
    for number in range(count):
        for share in [share for share in shares if missing[share] > number]:
            found = _one(share, threads, layers, limit_s, seed=len(known), path=path)
            keep(found, path)
            known.append(found)
            say(_line(found, len(_usable(known, share)), count))
    return known


def _usable(found: Sequence[Trial], share: float) -> list[Trial]:
    return [trial for trial in found if trial.slowed == share and trial.estimated]


def _one(share: float, threads: int, layers: int, limit_s: float, *, seed: int, path: Path | None) -> Trial:
    sides = subject.side(threads, layers), subject.side(threads, layers, share)
    used = _rule(path)
    found: LatencyComparison = compare(*sides, rule=used, limit_s=limit_s, seed=seed)
    speedup = found.speedup.value if found.speedup else float("nan")
    counts = len(found.blocks), len(found.tainted)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return Trial(share, found.verdict, speedup, *counts, found.elapsed_s, used.floor, threads, now, limit_s)


def _rule(path: Path | None) -> Rule:
    """Return the rule of the floor so far; the default where it is so high that comparisons would be refused."""
    floor = floor_of(trials(path))
    return Rule() if floor is None or floor >= MOST_FLOOR else with_floor(floor)


def _line(trial: Trial, number: int, count: int) -> str:
    what = f"slowed by {trial.slowed:.0%}" if trial.slowed else "equal sides"
    blocks = f"{trial.blocks} blocks" + (f", {trial.tainted} disturbed" if trial.tainted else "")
    found = f"{trial.verdict} ({trial.speedup:.4f})" if trial.estimated else "no estimate, does not count"
    return f"{what}, {number} of {count}: {found} in {trial.elapsed_s:.1f} s, {blocks}"


def false_alarms(found: Sequence[Trial]) -> Rate:
    """Return how often equal sides got a verdict of faster or slower, of the comparisons with an estimate."""
    equal = _usable(found, 0.0)
    return Rate(sum(trial.verdict in ("faster", "slower") for trial in equal), len(equal))


def detected(found: Sequence[Trial], share: float) -> Rate:
    """Return how often a slow-down of that share was found, of the comparisons with an estimate."""
    slowed = _usable(found, share)
    return Rate(sum(trial.verdict == "slower" for trial in slowed), len(slowed))


def report(found: Sequence[Trial]) -> list[str]:
    """Return the lines for a reader: a Markdown table of rates with exact intervals, what does not count, the floor."""
    lines = [
        "| candidate | comparisons | verdicts of faster or slower | 95 % | median s | slowest s |",
        "|---|--:|--:|---|--:|--:|",
    ]
    for share in sorted({trial.slowed for trial in found}):
        what = f"slowed by {share:.0%}: found" if share else "equal: false alarms"
        rate = detected(found, share) if share else false_alarms(found)
        lines.append(f"| {what} | {rate.of} | {_cells(rate, [trial.elapsed_s for trial in _usable(found, share)])} |")
    if left := sum(not trial.estimated for trial in found):
        why = "something else used the machine, or the limit is too short"
        lines += ["", f"{left} of {len(found)} comparisons gave no estimate and do not count: {why}"]
    floor, whole = floor_of(found), sum(not trial.slowed and trial.whole for trial in found)
    needs = f"needs {ENOUGH} undisturbed comparisons of equal sides with a limit of {LIMIT_S:g} s or more, has {whole}"
    return [*lines, "", f"noise floor: {needs}" if floor is None else f"noise floor: {floor:.2%}"]


def _cells(rate: Rate, seconds: list[float]) -> str:
    if not rate.of:
        return "- | - | - | -"
    low, high = rate.interval
    times = f"{median(seconds):.1f} | {max(seconds):.1f}"
    return f"{rate.count} ({rate.value:.1%}) | {low:.1%} to {high:.1%} | {times}"

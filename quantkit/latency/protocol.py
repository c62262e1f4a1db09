"""The paired sequential protocol: blocks of fresh loads in turn until the verdict is in, or the time is up."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from quantkit.errors import InvalidSetting
from quantkit.latency.blocks import Block, LimitTooShort, Pace, Pair, paired, too_short
from quantkit.latency.floor import LEAST_ALPHA
from quantkit.latency.floor import rule as rule_here
from quantkit.latency.side import TELL_S, Say, Side
from quantkit.pipeline.locks import Room
from quantkit.stats.interval import Estimate
from quantkit.stats.sequential import Look, Rule, SequentialVerdict, look

TAINTED_AT_MOST = 0.5  # of all blocks: a machine that is busier than that cannot be measured on
LATE_AT_MOST = 0.1  # of the limit, by which slow blocks may end after it
FREE = "wait, end other work, or set QUANTKIT_DISTURBED=keep to count them"


@dataclass(frozen=True)
class LatencyComparison:
    """A verdict on the speed of two sides.

    Args:
        verdict: `faster` or `slower` is the candidate; `same` within the rule's tolerance; or `inconclusive`.
        reason: why it is inconclusive.
        speedup: median latency of the reference over the candidate's (2.0 = twice as fast), with the interval of the
            last look: all looks together miss the truth with probability alpha at most. None without two blocks.
        reference_s: median over blocks of the block's median, seconds; None without a block.
        candidate_s: the same of the candidate.
        rule: error rate, noise floor, tolerance.
        blocks: every block, tainted ones included; each has the seconds of every call.
        elapsed_s: all blocks, loading included; not the imports before the first.
    """

    reference: str
    candidate: str
    verdict: SequentialVerdict
    reason: str
    speedup: Estimate | None
    reference_s: float | None
    candidate_s: float | None
    rule: Rule
    blocks: tuple[Block, ...]
    elapsed_s: float

    @property
    def tainted(self) -> tuple[Block, ...]:
        """Return the blocks that something else disturbed: they do not count."""
        return tuple(block for block in self.blocks if block.taint)


def compare(
    reference: Side, candidate: Side, *, rule: Rule | None = None, pace: Pace | None = None, limit_s: float = 60.0,
    seed: int = 0, say: Say | None = None,
) -> LatencyComparison:  # fmt: skip
    """Time two sides in turn until it is decided which is faster, or until the time is up.

    A block that something disturbed does not count and is measured again, unless more than half of all blocks are
    disturbed: then the comparison ends, inconclusive.

    Args:
        reference: what the candidate is compared with.
        candidate: what is judged.
        rule: error rate, noise floor, tolerance and looks; this machine's by default (`quantkit.latency.floor.rule`).
        pace: of one block; it has fewer turns where two whole blocks do not fit into the limit.
        limit_s: seconds after which no further block is begun.
        seed: of the order of turns and of the resampling.
        say: gets a line at every look, and where something takes long.

    Raises:
        CaseFailed: a side cannot be loaded, raised an error or crashed.
        InvalidSetting: an argument of another type, or outside its range.
        NothingMeasured: the measured noise floor is so high that no verdict would mean anything.
        CorruptFile: the comparisons that the noise floor comes from cannot be read.
    """
    _check(rule, pace, limit_s, seed)
    rule = rule or rule_here()
    say = say or (lambda line: None)
    room = Room(tell=say).alone(f"compare {reference.name} with {candidate.name}")
    with room, paired(reference, candidate, pace or Pace(), seed, say) as pair:
        started = time.monotonic()
        run = _Run(rule, seed, say, limit_s)
        try:
            reason = run.measure(pair, started + limit_s)
        except LimitTooShort as error:
            reason = str(error)
        return run.concluded((reference.name, candidate.name), reason, time.monotonic() - started)


def _check(rule: Any, pace: Any, limit_s: Any, seed: Any) -> None:
    """Refuse arguments that would fail later, or not at all."""
    for name, given, kind in (("rule", rule, Rule), ("pace", pace, Pace)):
        if not isinstance(given, kind | None):
            raise InvalidSetting(f"{name} must be a quantkit.latency.{kind.__name__}: got {given!r}")
    if isinstance(limit_s, bool) or not isinstance(limit_s, int | float) or not limit_s > 0:
        raise InvalidSetting(f"limit_s must be a positive number of seconds: got {limit_s!r}")
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise InvalidSetting(f"seed must be a whole number from 0 on: got {seed!r}")
    if rule is not None and rule.alpha < LEAST_ALPHA:
        raise InvalidSetting(f"alpha must be {LEAST_ALPHA:g} at least: got {rule.alpha}")


@dataclass
class _Run:
    """The blocks so far, and what the last look at them said."""

    rule: Rule
    seed: int
    say: Say
    limit_s: float
    blocks: list[Block] = field(default_factory=list)
    last: Look | None = None
    block_s: float = 0.0  # of the last block

    @property
    def counted(self) -> list[Block]:
        return [block for block in self.blocks if not block.taint]

    def measure(self, pair: Pair, end: float) -> str:
        """Measure until it is decided; return why it is not, or an empty string."""
        told = time.monotonic()
        for count in self.rule.schedule:
            while len(self.counted) < count:
                if self.blocks and (reason := self._over(pair, end)):
                    self.look()  # in the place of the next one: no look more than the rule has
                    return reason
                begun = time.monotonic()
                self.blocks.append(pair.block(self.limit_s, self.rule.first))
                self.block_s = time.monotonic() - begun
                tainted = len(self.blocks) - len(self.counted)
                if tainted > max(self.rule.first, TAINTED_AT_MOST * len(self.blocks)):
                    return f"the machine is busy: {tainted} of {len(self.blocks)} blocks were disturbed; {FREE}"
                if time.monotonic() - told > TELL_S and len(self.counted) < count:
                    told = time.monotonic()
                    self.say(f"{len(self.counted):4d} blocks of {count} for the next look")
            self.look()
            if self.last and self.last.verdict != "inconclusive":
                return ""
        return f"{self.rule.looks} looks did not decide it"

    def _over(self, pair: Pair, end: float) -> str:
        """Return why no further block is begun, or an empty string; a slow one must be able to end near the limit."""
        now = time.monotonic()
        if not pair.cut:
            return "the time is up" if now >= end and len(self.blocks) > 1 else ""
        if now + self.block_s <= end + LATE_AT_MOST * self.limit_s:
            return ""
        return "the time is up" if len(self.blocks) > 1 else too_short(self.block_s)

    def look(self) -> None:
        """Look at the blocks that count."""
        counted = self.counted
        if len(counted) < 2 or (self.last and self.last.blocks == len(counted)):
            return
        sides = [[block.seconds[which] for block in counted] for which in (0, 1)]
        self.last = look(sides[0], sides[1], self.rule, seed=self.seed)
        found, left = self.last.speedup, len(self.blocks) - len(counted)
        disturbed = f", {left} more were disturbed" if left else ""
        interval = f"{found.value:.3f} [{found.low:.3f}, {found.high:.3f}] times as fast"
        self.say(f"{self.last.blocks:4d} blocks: {interval}: {self.last.verdict}{disturbed}")

    def concluded(self, names: tuple[str, str], reason: str, elapsed_s: float) -> LatencyComparison:
        """Return what was found."""
        verdict: SequentialVerdict = self.last.verdict if self.last else "inconclusive"
        by_side = [[median(block.seconds[which]) for block in self.counted] for which in (0, 1)]
        reference_s, candidate_s = (median(values) if values else None for values in by_side)
        return LatencyComparison(
            *names, verdict, reason if verdict == "inconclusive" else "", self.last.speedup if self.last else None,
            reference_s, candidate_s, self.rule, tuple(self.blocks), elapsed_s,
        )  # fmt: skip

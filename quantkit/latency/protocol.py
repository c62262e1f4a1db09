"""The paired sequential protocol: blocks of fresh loads in turn until the verdict is in, or the time is up."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import median

from quantkit.latency.blocks import Block, Pace, Pair, paired
from quantkit.latency.side import Side
from quantkit.pipeline.locks import Room
from quantkit.stats.interval import Estimate
from quantkit.stats.sequential import Look, Rule, SequentialVerdict, look

Say = Callable[[str], None]
TAINTED_AT_MOST = 0.5  # of all blocks: a machine that is busier than that cannot be measured on


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
        rule: error rate, noise floor, tolerance and looks.
        pace: of one block.
        limit_s: seconds after which no further block is begun.
        seed: of the order of turns and of the resampling.
        say: gets a line at every look.

    Raises:
        CaseFailed: a side cannot be loaded, raised an error or crashed.
    """
    say = say or (lambda line: None)
    room = Room(tell=say).alone(f"compare {reference.name} with {candidate.name}")
    with room, paired(reference, candidate, pace or Pace(), seed) as pair:
        started = time.monotonic()
        run = _Run(rule or Rule(), seed, say)
        reason = run.measure(pair, started + limit_s)
        return run.concluded((reference.name, candidate.name), reason, time.monotonic() - started)


@dataclass
class _Run:
    """The blocks so far, and what the last look at them said."""

    rule: Rule
    seed: int
    say: Say
    blocks: list[Block] = field(default_factory=list)
    last: Look | None = None
    looks: int = 0

    @property
    def counted(self) -> list[Block]:
        return [block for block in self.blocks if not block.taint]

    def measure(self, pair: Pair, end: float) -> str:
        """Measure until it is decided; return why it is not, or an empty string."""
        for count in self.rule.schedule:
            while len(self.counted) < count:
                if time.monotonic() >= end and len(self.blocks) > 1:
                    self.look()  # in the place of the next one: no look more than the rule has
                    return "the time is up"
                self.blocks.append(pair.block())
                tainted = len(self.blocks) - len(self.counted)
                if tainted > max(self.rule.first, TAINTED_AT_MOST * len(self.blocks)):
                    return f"the machine is busy: {tainted} of {len(self.blocks)} blocks were disturbed"
            self.look()
            if self.last and self.last.verdict != "inconclusive":
                return ""
        return f"{self.rule.looks} looks did not decide it"

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

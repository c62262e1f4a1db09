"""The gate: may this go in? A check for each case and quantity, one word for all of them, and what to do.

Words of a check: `pass`; `regression` (worse than its limit, and proved to be worse at all); `inconclusive` (measured,
and not decided); `refused` (cannot be compared: the reason is named); `new` (nothing to compare with, by its nature).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from quantkit.errors import InvalidSetting
from quantkit.records import Case
from quantkit.stats.interval import Estimate

Name = Literal["quality", "latency", "memory", "size", "run"]
Word = Literal["pass", "regression", "inconclusive", "refused", "new"]
Verdict = Literal["pass", "regression", "inconclusive", "nothing", "error"]
CHECKS: tuple[Name, ...] = ("quality", "latency", "memory", "size")
COLOUR = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]")  # ECMA-48, control sequences: what a terminal obeys
EXIT = {"pass": 0, "regression": 1, "error": 2, "inconclusive": 3, "nothing": 3}


@dataclass(frozen=True)
class Limits:
    """How much worse is still good enough, and what is asked at all.

    Args:
        margin: largest loss of quality; None takes each model's own.
        slowdown: largest growth of the median latency, relative (0.10: a regression is above 1.10 times as long).
        memory: largest growth of the median peak memory, relative. Equal runs were seen 13 % apart.
        size: largest growth of the artifact's files, relative.
        checks: what is asked; a check that nobody asked for and that neither run measured is left out.
        named: those that were asked for by name: one of them that cannot be done stands in the way.
        accept_older: compare results even where they were measured before their baseline.
        accept_missing: a case that the baseline has and that was not measured here is a note, and no obstacle.

    Raises:
        InvalidSetting: a limit that makes no sense.
    """

    margin: float | None = None
    slowdown: float = 0.10
    memory: float = 0.15
    size: float = 0.02
    checks: tuple[Name, ...] = CHECKS
    named: frozenset[str] = frozenset()
    accept_older: bool = False
    accept_missing: bool = False

    def __post_init__(self) -> None:
        for option, value in (("slowdown", self.slowdown), ("memory-growth", self.memory), ("size-growth", self.size)):
            if not 0 < value < 10:
                raise InvalidSetting(f"--max-{option} is a share above 0 (0.1 = one tenth more): got {value:g}")


@dataclass(frozen=True)
class Check:
    """One case, one quantity.

    Args:
        said: what was found, one sentence without the verdict.
        todo: the next step, where there is one.
        change: relative change with its interval, positive = worse; for right/wrong items the loss as a share of items.
        limit: what `change` may be.
        unit: of `change` times 100: `pt` or `%`.
        items: evaluation items (quality), or fresh processes of the smaller run (latency and memory).
        detectable: the smallest worsening that this much data can tell from none.
    """

    case: Case
    name: Name
    word: Word
    said: str
    todo: str = ""
    change: Estimate | None = None
    limit: float | None = None
    unit: str = "%"
    items: int | None = None
    detectable: float | None = None

    @property
    def text(self) -> str:
        """The check in one line, with verdict and next step."""
        return plain(f"{self.case.id}: {self.name}: {self.word}: {self.said}" + (f"; {self.todo}" if self.todo else ""))


@dataclass(frozen=True)
class Gate:
    """What the gate says.

    Args:
        verdict: `nothing` means that nothing was gated at all, `error` that the question made no sense (see the note).
        checks: all of them, in the order of the cases.
        notes: what was left out, and why.
        created: when the newest result was measured, ISO 8601; empty where that is not stored.
    """

    verdict: Verdict
    checks: tuple[Check, ...] = ()
    notes: tuple[str, ...] = ()
    created: str = ""

    @property
    def exit_status(self) -> int:
        """0 pass, 1 regression, 2 error, 3 inconclusive or nothing measured."""
        return EXIT[self.verdict]

    @property
    def lines(self) -> tuple[str, ...]:
        """A line for each check that did not pass, worst first, then the notes."""
        return (*(check.text for check in standing(self.checks)), *map(plain, self.notes))


def plain(text: str) -> str:
    """Return text as one line of what can be printed: what a process wrote as it crashed commands no terminal."""
    return "".join(char for char in " ".join(COLOUR.sub("", text).split()) if char.isprintable())


def counted(number: int, thing: str) -> str:
    """Return e.g. `1 case`, `2 cases`."""
    return f"{number} {thing}" + ("" if number == 1 else "s")


ORDER: tuple[Word, ...] = ("regression", "refused", "inconclusive", "new", "pass")


def standing(checks: Iterable[Check]) -> list[Check]:
    """Return the checks that did not pass, worst first."""
    return sorted((c for c in checks if c.word != "pass"), key=lambda check: ORDER.index(check.word))


def gate(checks: Sequence[Check], notes: Sequence[str] = (), created: str = "") -> Gate:
    """Return the gate's word: a regression outweighs all; what is unknown is never passed."""
    words = [check.word for check in checks]
    if "regression" in words:
        return Gate("regression", tuple(checks), tuple(notes), created)
    if not {"pass", "inconclusive"} & set(words):
        none = "nothing was gated: no case has a figure and something to compare it with"
        return Gate("nothing", tuple(checks), (*notes, none), created)
    open_ones = {"refused", "inconclusive"} & set(words)
    cases = counted(len({check.case for check in checks}), "case")
    said = () if open_ones else (f"{counted(words.count('pass'), 'check')} of {cases} passed",)
    return Gate("inconclusive" if open_ones else "pass", tuple(checks), (*said, *notes), created)

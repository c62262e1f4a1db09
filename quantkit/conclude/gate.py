"""The gate: may this go in? One word for all comparisons, and a line for each that stands in the way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from quantkit.conclude.compare import Comparison
from quantkit.conclude.wording import explain

EXIT = {"pass": 0, "regression": 1, "error": 2, "inconclusive": 3, "nothing": 3}


@dataclass(frozen=True)
class Gate:
    """The gate's word, what it rests on, and the exit status that says the same to a script."""

    verdict: Literal["pass", "regression", "inconclusive", "nothing"]
    lines: tuple[str, ...]

    @property
    def exit_status(self) -> int:
        """0 pass, 1 regression, 3 inconclusive or nothing measured (2 is kept for errors)."""
        return EXIT[self.verdict]


def gate(compared: Sequence[Comparison], failed: int = 0) -> Gate:
    """Return the gate's word: a regression outweighs all; what is unknown is never passed.

    Args:
        compared: of `compare.comparisons` or `compare.against`; models that are judged by fidelity only do not count.
        failed: cases that crashed or were killed: they leave the gate undecided.
    """
    asked = [pair for pair in compared if pair.result.context["quality"]["outcome"] != "none"]
    judged = [pair for pair in asked if pair.verdict != "unavailable"]
    lines = tuple(f"{pair.result.case.id}: {explain(pair)}" for pair in asked if pair.verdict != "pass")
    if failed:
        lines += (f"{failed} cases failed: nothing is known of them; 'quantkit show' has their messages",)
    if any(pair.verdict == "regression" for pair in judged):
        return Gate("regression", lines)
    if not judged:
        return Gate("nothing", (*lines, "no case has both a quality figure and a baseline: nothing was gated"))
    if failed or any(pair.verdict in ("inconclusive", "unavailable") for pair in asked):
        return Gate("inconclusive", lines)
    return Gate("pass", (f"{len(judged)} cases retain quality within their margins",))

"""`pytest benchmarks --gate`: a case fails that regressed or cannot be compared; the run ends in the gate's word.

The word is that of `quantkit gate` on the same results (conclude/gate_asked.py): `regression` ends the run as failed
tests do (1); `inconclusive` and `nothing` end it with 3, since what is unknown is no pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from quantkit.records import Case, Result


class Gate:
    """What `--gate` asks for: a margin against full precision, or the results of an older run."""

    def __init__(self, text: str, results: Path):
        from quantkit.conclude.gate_asked import Asked

        self._asked = Asked(text, results)
        self.margin = self._asked.margin

    def check(self, case: Case, family: Sequence[Result]) -> None:
        """Fail the test of `case` on a regression, and where something that was asked cannot be compared.

        Args:
            family: the results of all cases of its model and target: verdicts hold for all of them together.
        """
        standing = self._asked.standing(case, family)
        if standing:
            pytest.fail("\n".join(f"gate: {check.text}" for check in standing), pytrace=False)

    def ending(self, results: Sequence[Result], exit_status: int) -> tuple[list[str], int]:
        """Return the gate's lines for the end of the run, and the exit status that a run with `exit_status` has then.

        Tests that passed do not make a gate pass: 3 stands for one that is undecided or had nothing to judge.
        """
        from quantkit.errors import NoBaseline

        try:
            decided = self._asked.judge(results)
        except NoBaseline as error:
            return [f"gate: error: {error}"], int(exit_status or pytest.ExitCode.USAGE_ERROR)
        lines = [f"gate: {decided.verdict}", *(f"  {line}" for line in decided.lines)]
        return lines, int(exit_status or decided.exit_status)

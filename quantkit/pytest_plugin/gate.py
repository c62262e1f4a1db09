"""`pytest benchmarks --gate`: a case fails that regressed or cannot be compared; the run ends in the gate's word.

The word is that of `quantkit gate` on the same results (conclude/gate_asked.py): `regression` ends the run as failed
tests do (1); an error ends it with 2; `inconclusive` and `nothing` end it with 3, since what is unknown is no pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from quantkit.pytest_plugin import options

if TYPE_CHECKING:
    from quantkit.records import Case, Result


CHOOSING = (*options.MATRIX, "keyword", "markexpr", "deselect", "lf", "stepwise")  # pytest's own: -k, -m, ...
ERROR = 2  # as of `quantkit gate`, and pytest's own for a run that was ended early


def asked_for(config: pytest.Config, results: Path) -> Gate | None:
    """Return the gate that `--gate` asks for, or None.

    Raises:
        InvalidSetting, NoBaseline, CorruptFile: it can be no gate; the message says why.
    """
    text = config.getoption("gate")
    return Gate(text, results, chosen=chosen(config)) if text else None


def chosen(config: pytest.Config) -> bool:
    """Return whether the cases were chosen by name: then the rest of an older run was left out on purpose.

    `--profile` is no such choice: an older run of another profile has other items, and is not to be compared with.
    """
    return any(config.getoption(name, None) for name in CHOOSING) or any("::" in path for path in config.args)


class Gate:
    """What `--gate` asks for: a margin against full precision, or the results of an older run."""

    def __init__(self, text: str, results: Path, *, chosen: bool = False):
        from quantkit.conclude.gate_asked import Asked

        self._asked = Asked(text, results, chosen=chosen)
        self.margin = self._asked.margin

    def check(self, case: Case, family: Sequence[Result]) -> None:
        """Fail the test of `case` on a regression, and where something that was asked cannot be compared.

        Args:
            family: the results of all cases of its model and target: verdicts hold for all of them together.
        """
        standing = self._asked.standing(case, family)
        if standing:
            pytest.fail("\n".join(f"gate: {check.text}" for check in standing), pytrace=False)

    def ending(
        self, results: Sequence[Result], exit_status: int, refused: Sequence[tuple[Case, str]] = ()
    ) -> tuple[list[str], int]:
        """Return the gate's lines for the end of the run, and the exit status that a run with `exit_status` has then.

        Tests that passed do not make a gate pass: 3 stands for one that is undecided or had nothing to judge.

        Args:
            refused: cases that the plan refuses, with the reason: what an older run has of them stands in the way.
        """
        from quantkit.errors import NoBaseline
        from quantkit.records import Result

        if exit_status not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
            return ["gate: error: the run was ended early, and there is no verdict"], int(exit_status)
        try:
            holes = [Result(case, "unsupported", reason) for case, reason in refused]
            decided = self._asked.judge([*results, *holes])
        except NoBaseline as error:
            return [f"gate: error: {error}"], int(exit_status or ERROR)
        lines = [f"gate: {decided.verdict}", *(f"  {line}" for line in decided.lines)]
        return lines, int(exit_status or decided.exit_status)

"""What a gate is asked, on the command line and by `pytest --gate`: limits, and the results of an older run."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from quantkit.conclude.compare import checked_margin
from quantkit.conclude.gate import CHECKS, Check, Gate, Limits
from quantkit.conclude.gating import against, within
from quantkit.errors import InvalidSetting, NoBaseline
from quantkit.pipeline.store import older_results
from quantkit.records import Case, Result

HEADER = b"SQLite format 3\x00"


def limits(
    older: bool,
    checks: str | None = None,
    *,
    margin: float | None = None,
    slowdown: float | None = None,
    memory: float | None = None,
    size: float | None = None,
    accept_older: bool = False,
    accept_missing: bool = False,
) -> Limits:
    """Return limits from options of which None was not given.

    Args:
        older: there is an older run: then all is gated, else quality alone, since a slower or larger candidate than
            full precision is a finding and not a regression. A limit that is given adds its own check.

    Raises:
        InvalidSetting: a number or a name that makes no sense.
    """
    given = {"slowdown": slowdown, "memory": memory, "size": size}
    told = {name: value for name, value in given.items() if value is not None}
    named = {"latency" if name == "slowdown" else name for name in told}
    if checks is not None:
        named |= _words(checks)
    asked = tuple(name for name in CHECKS if name in named or (checks is None and (older or name == "quality")))
    margin = None if margin is None else checked_margin(margin)
    return Limits(
        margin, checks=asked, named=frozenset(named), accept_older=accept_older, accept_missing=accept_missing, **told
    )


def _words(checks: str) -> set[str]:
    """Return the checks that are named, or say which do not exist."""
    words = {word.strip() for word in checks.split(",")}
    unknown = sorted(words - set(CHECKS))
    if unknown:
        raise InvalidSetting(f"no check named '{', '.join(unknown)}'. Known: {', '.join(CHECKS)}")
    return words


def older_run(baseline: Path, results: Path) -> list[Result]:
    """Return the results of an older run.

    Raises:
        NoBaseline: no such file, an empty one, one that holds no results, or the very file that the new results are in.
        CorruptFile: a results file that is damaged, or of a newer version.
    """
    if baseline.is_dir():
        raise NoBaseline(f"{baseline} is a folder: name the results file in it")
    if not baseline.exists():
        raise NoBaseline(
            f"no baseline at {baseline}: the older run has not written it, because it failed or has none "
            "of these cases; name the results file of an older run, or, where all cases are new, leave out --baseline: "
            "each is then gated against its own full precision"
        )
    _look(baseline)
    found = older_results(baseline, results)
    if not found:
        raise NoBaseline(
            f"{baseline} holds no result: the older run measured nothing; measure it, or name another file"
        )
    return found


def _look(baseline: Path) -> None:
    """Refuse by name what is no results file; what is one and is damaged, the store refuses."""
    how = "name the results file of an older run (.quantkit/results.db, or what --results named)"
    try:
        with baseline.open("rb") as file:
            start = file.read(len(HEADER))
    except OSError as error:
        raise NoBaseline(f"cannot read {baseline}: {error.strerror}; {how}") from error
    if not start:
        raise NoBaseline(f"{baseline} is empty: the older run has not finished, or its download failed; {how}")
    if start != HEADER:
        raise NoBaseline(f"{baseline} is no results file (it is no SQLite database): {how}")
    if not _has_results(baseline):
        raise NoBaseline(f"{baseline} is no results file (it has no table 'results'): {how}")


def _has_results(file: Path) -> bool:
    """Return whether a SQLite file has our table; one that is damaged may, and the store says more of it."""
    uri = f"{file.absolute().as_uri()}?mode=ro"
    try:
        with closing(sqlite3.connect(uri, uri=True)) as connection:
            return bool(connection.execute("SELECT name FROM sqlite_master WHERE name = 'results'").fetchall())
    except sqlite3.DatabaseError:
        return True


class Asked:
    """What `pytest --gate MARGIN|FILE` asks for: a margin against full precision, or the results of an older run.

    Args:
        chosen: this run's cases were chosen: what else the baseline has was left out on purpose.
    """

    def __init__(self, text: str, results: Path, *, chosen: bool = False):
        self.older: list[Result] | None = None
        try:
            margin = float(text)
        except ValueError:
            self.older = older_run(Path(text), results)
            self.limits = limits(True, accept_missing=chosen)
        else:
            self.limits = limits(False, margin=margin)

    @property
    def margin(self) -> float | None:
        """The margin of quality that tables show; None takes each model's own."""
        return self.limits.margin

    def judge(self, results: Sequence[Result]) -> Gate:
        """Return what the command `quantkit gate` would say of these results.

        Raises:
            NoBaseline: the older run has none of these cases.
        """
        return within(results, self.limits) if self.older is None else against(results, self.older, self.limits)

    def standing(self, case: Case, family: Sequence[Result]) -> list[Check]:
        """Return the checks of one case that fail its test: regressions, and what cannot be compared.

        Args:
            family: the results of its model on its target, its own among them: error rates are held over them.
        """
        try:
            checks = self.judge(family).checks
        except NoBaseline:  # this model is new; whether there is any baseline, the whole run's word says
            return []
        return [check for check in checks if check.case == case and check.word in ("regression", "refused")]

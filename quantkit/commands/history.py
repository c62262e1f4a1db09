"""Show what changed over commits, and exchange results with airspeed velocity."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from quantkit.commands import _common

EXAMPLES = """
  quantkit history                                         figures over commits; exit 0, or 1: a regression, 3: no data
  quantkit history export --asv .asv/results               write stored results for asv, instead of measuring twice
  quantkit history check main HEAD                         what asv measured: exit 0 pass, 1 worse, 3 nothing measured
  quantkit history page .asv/html                          make the page that 'asv publish' wrote work without network
"""

CASES_SHOWN = 5  # where none fits


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options, and the actions with their own."""
    show = parser
    _common.results_argument(show)
    show.add_argument("--figures", metavar="A,B", help="only these (default: all)")
    show.add_argument("--cases", metavar="WORD", help="only cases whose id holds this word")
    show.add_argument("--branch", metavar="REV", help="only commits of this branch, in its order (default: by time)")
    show.add_argument("--since", metavar="REV", help="only steps after this commit; earlier ones are accepted")
    show.add_argument(
        "--machine", default="", metavar="ID", help="fingerprint to look at (default: the newest result's)"
    )
    show.add_argument("--alpha", type=float, metavar="P", help="chance of a false alert in one look (default: 0.002)")
    _dirty(show)
    actions = parser.add_subparsers(dest="action", metavar="ACTION", title="actions")
    _export(actions.add_parser("export", help="write stored results as asv's files"))
    _check(actions.add_parser("check", help="compare two commits by asv's files; the exit status says what was found"))
    page = actions.add_parser("page", help="make asv's published page work without network")
    page.add_argument("folder", type=Path, help="what 'asv publish' wrote (its html_dir)")
    page.set_defaults(history=_page)
    parser.set_defaults(history=_show)


def _export(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--asv", type=Path, required=True, metavar="DIR", help="asv's results_dir")
    parser.add_argument("--results", type=Path, metavar="FILE", default=argparse.SUPPRESS, help="results file")
    _dirty(parser)
    parser.set_defaults(history=_write)


def _check(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("before", help="the commit to compare with")
    parser.add_argument("after", help="the commit in question")
    parser.add_argument("--asv", type=Path, default=Path(".asv/results"), metavar="DIR", help="asv's results_dir")
    parser.add_argument(
        "--factor", type=float, default=1.1, help="worse by more than this factor counts (default: 1.1)"
    )
    parser.add_argument("--machine", default="", help="name of asv's machine, where there are several")
    parser.set_defaults(history=_compare)


def _dirty(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--dirty",
        action="store_true",
        default=argparse.SUPPRESS,
        help="count what was measured with changed files, too",
    )


def run(options: argparse.Namespace) -> int:
    """Do it; return the exit status."""
    status: int = options.history(options)
    return status


def _show(options: argparse.Namespace) -> int:
    from quantkit.history.changes import ALPHA, changes, suspects
    from quantkit.history.report import report
    from quantkit.history.repository import commits_of
    from quantkit.history.series import history, since

    order = commits_of(options.branch) if options.branch else None
    table = history(
        _of_cases(_every(options), options.cases or ""),
        machine=options.machine, order=order, dirty=getattr(options, "dirty", False), kinds=_figures(options.figures),
    )  # fmt: skip
    table = table if options.since is None else since(table, _commit(options.since))
    found = changes(table.series, alpha=_alpha(options.alpha, ALPHA))
    said = report(table, found, suspects(table.series))
    print(f"{said.table}\n\nmachine {table.machine}: {table.title}")
    for line in (*said.notes, *said.alerts, said.last):
        print(line)
    return said.exit_status


def _every(options: argparse.Namespace) -> Iterator[Any]:
    from quantkit.pipeline.settings import results_file
    from quantkit.pipeline.store import Store

    return Store(options.results or results_file(), write=False).every()


def _of_cases(results: Iterable[Any], word: str) -> Iterator[Any]:
    from quantkit.errors import NothingMeasured

    others, found = dict[str, None](), False
    for result in results:
        if word in result.case.id:
            found = True
            yield result
        else:
            others[result.case.id] = None
    if others and not found:
        shown = ", ".join(list(others)[-CASES_SHOWN:])
        raise NothingMeasured(f"--cases {word}: no stored result is of such a case; of {len(others)} cases: {shown}")


def _commit(name: str) -> str:
    """Return the hash that a revision stands for, or what was given: the commit need not be in this clone."""
    from quantkit.errors import InvalidSetting
    from quantkit.history.repository import commit_of

    try:
        return commit_of(name)
    except InvalidSetting:
        return name


def _figures(text: str | None) -> tuple[str, ...]:
    from quantkit.errors import UnknownName
    from quantkit.history.figures import KINDS

    names = tuple(KINDS) if text is None else tuple(text.split(","))
    for name in names:
        if name not in KINDS:
            raise UnknownName(f"no figure named '{name}'. Known: {', '.join(KINDS)}")
    return names


def _alpha(given: float | None, default: float) -> float:
    from quantkit.errors import InvalidSetting

    if given is not None and not 0 < given < 1:
        raise InvalidSetting(f"--alpha must be a chance between 0 and 1: got {given:g}")
    return default if given is None else given


def _write(options: argparse.Namespace) -> int:
    from quantkit.history.asv_files import export

    done = export(_every(options), options.asv, dirty=getattr(options, "dirty", False))
    for line in done.left_out:
        print(f"left out: {line}", file=sys.stderr)
    print(f"{done.results} results of {len(done.files)} commits and machines written to {options.asv}")
    return 0


def _compare(options: argparse.Namespace) -> int:
    from quantkit.history.asv_check import check

    done = check(
        options.asv, _commit(options.before), _commit(options.after), factor=options.factor, machine=options.machine
    )
    print(f"history check: {done.verdict}")
    for line in done.lines:
        print(f"  {line}")
    return done.exit_status


def _page(options: argparse.Namespace) -> int:
    from quantkit.history.page import offline

    count = offline(options.folder)
    print(f"{count} files brought into {options.folder}: its page needs no network" if count else "nothing to do")
    return 0

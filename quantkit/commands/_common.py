"""What several commands share: how a matrix and a results file are named, and the stored results."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

FAMILIES = ("models", "methods", "backends", "targets")


def matrix_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that choose the cases."""
    for name in FAMILIES:
        parser.add_argument(f"--{name}", metavar="A,B", help=f"only these {name}")
    parser.add_argument("--profile", default="fast", help="fast, regular or full (default: fast)")


def results_argument(parser: argparse.ArgumentParser) -> None:
    """Add the option that names the results file."""
    parser.add_argument("--results", type=Path, metavar="FILE", help="results file (default: .quantkit/results.db)")


def matrix(options: argparse.Namespace) -> list[Any]:
    """Return the planned cases that the options ask for."""
    from quantkit.pipeline.plan import plan

    names = [None if getattr(options, name) is None else getattr(options, name).split(",") for name in FAMILIES]
    return plan(names[0], names[1], backends=names[2], targets=names[3], profile=options.profile)


def stored(options: argparse.Namespace) -> list[Any]:
    """Return the newest stored result of every case."""
    from quantkit.pipeline.settings import results_file
    from quantkit.pipeline.store import Store

    return Store(options.results or results_file(), write=False).newest()


def one(results: list[Any], name: str) -> Any:
    """Return the result of the case that is named.

    Raises:
        UnknownName: nothing is stored of it; the message has the nearest one.
    """
    import difflib

    from quantkit.errors import UnknownName

    found = {result.case.id: result for result in results}
    if name not in found:
        near = difflib.get_close_matches(name, found, n=1)
        hint = f" Did you mean '{near[0]}'?" if near else ""
        raise UnknownName(f"no stored result of a case '{name}'.{hint} 'quantkit show' lists them all")
    return found[name]

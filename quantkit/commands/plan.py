"""Show the cases of a matrix, and why some cannot run."""

from __future__ import annotations

import argparse

from quantkit.commands import _common

EXAMPLES = """
  quantkit plan --models fmnist_cnn                        the cases, and why some cannot run
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    _common.matrix_arguments(parser)


def run(options: argparse.Namespace) -> int:
    """Do it; return the exit status."""
    planned = _common.matrix(options)
    for cell in planned:
        print(f"{cell.case.id:<60} {'skip: ' + cell.reason if cell.reason else 'run'}")
    runs = sum(not cell.reason for cell in planned)
    print(f"{len(planned)} cases, {runs} can run here, {len(planned) - runs} cannot")
    return 0 if runs else 3

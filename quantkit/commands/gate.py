"""Decide whether stored results retain quality."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from quantkit.commands import _common

EXAMPLES = """
  quantkit gate --margin 0.01                              exit 0 pass, 1 regression, 2 error, 3 inconclusive
  quantkit gate --baseline main.db                         against the results of another run
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("--margin", type=float, help="largest loss that counts as retained (default: each model's own)")
    parser.add_argument(
        "--baseline", type=Path, metavar="FILE", help="results of an older run to compare each case with"
    )
    _common.results_argument(parser)


def run(options: argparse.Namespace) -> int:
    """Do it; return the exit status."""
    from quantkit.conclude.compare import against, checked_margin, comparisons
    from quantkit.conclude.gate import gate

    results = _common.stored(options)
    margin = None if options.margin is None else checked_margin(options.margin)
    failed = sum(result.status == "failed" for result in results)
    if options.baseline:
        compared = against(results, _older(options.baseline, options.results), margin=margin)
    else:
        compared = comparisons(results, margin=margin)
    decided = gate(compared, failed)
    print(f"gate: {decided.verdict}")
    for line in decided.lines:
        print(f"  {line}")
    return decided.exit_status


def _older(baseline: Path, results: Path | None) -> list[Any]:
    from quantkit.pipeline.settings import results_file
    from quantkit.pipeline.store import older_results

    return older_results(baseline, results or results_file())

"""Show stored results."""

from __future__ import annotations

import argparse
import json

from quantkit.commands import _common

EXAMPLES = """
  quantkit show                                            the table of all stored results
  quantkit show --format json > results.json
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("case", nargs="?", help="id of one case: all that is stored about it")
    parser.add_argument("--format", choices=["text", "markdown", "json"], default="text")
    _common.results_argument(parser)


def run(options: argparse.Namespace) -> int:
    """Do it; return the exit status."""
    from quantkit.conclude.report import table
    from quantkit.conclude.wording import state_lines

    results = _common.stored(options)
    if options.case:
        print(json.dumps(json.loads(_common.one(results, options.case).to_json()), indent=1))
    elif options.format == "json":
        print(json.dumps([json.loads(result.to_json()) for result in results]))
    else:
        print(table(results, style="github" if options.format == "markdown" else "simple"))
        print("".join(f"\n{line}" for line in state_lines(results)))
    return 0 if results else 3

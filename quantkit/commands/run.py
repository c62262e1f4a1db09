"""Measure the cases of a matrix and show their table."""

from __future__ import annotations

import argparse
import sys
from functools import partial

from quantkit.commands import _common

EXAMPLES = """
  quantkit run --models fmnist_cnn --methods int8_static   measure them, with their full-precision baseline
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    _common.matrix_arguments(parser)
    _common.results_argument(parser)
    parser.add_argument("--fresh", action="store_true", help="measure again what is stored already")
    parser.add_argument("--items", type=int, metavar="N", help="evaluation items")
    parser.add_argument("--few-items", action="store_true", help="each data set's own small number, as profile fast")
    parser.add_argument("--rounds", type=int, metavar="N", help="fresh processes per case; 0: no timing")
    parser.add_argument("--reruns", type=int, metavar="N", help="disturbed rounds that may be timed again")
    parser.add_argument("--threads", type=int, metavar="N", help="threads of one session (default: 1)")
    parser.add_argument(
        "--time-limit", type=float, metavar="S", help="seconds that one process may take (default: 600)"
    )
    parser.add_argument("--memory-limit", type=float, metavar="GIB", help="memory that one process may take")


def run(options: argparse.Namespace) -> int:
    """Do it; return the exit status."""
    from quantkit.conclude.report import table
    from quantkit.conclude.wording import state_lines
    from quantkit.pipeline.crew import Crew
    from quantkit.pipeline.execute import Run, execute, store_refusals
    from quantkit.pipeline.plan import left_out
    from quantkit.pipeline.settings import Settings, results_file
    from quantkit.pipeline.store import Store

    cells = _common.matrix(options)
    changes = {name: getattr(options, name) for name in ("items", "rounds", "reruns", "threads")}
    changes |= {"few_items": options.few_items or None, "time_limit_s": options.time_limit}
    changes["memory_limit_bytes"] = Settings.bytes_of(options.memory_limit)
    settings = Settings.of(options.profile, **changes)
    store = Store(options.results or results_file())
    for cell in (cell for cell in cells if cell.reason):
        print(f"skip      {cell.case.id}: {cell.reason}", file=sys.stderr)
    words = ",".join(filter(None, (options.targets, options.backends))).split(",")
    out = {cell.case for cell in cells if settings.rounds and left_out(cell, words)}
    if out:
        print(f"{len(out)} cases cannot be timed here and are left out: name their target or backend", file=sys.stderr)
    store_refusals(cells, store)
    say = partial(print, file=sys.stderr, flush=True)
    with Crew(say=say) as crew:
        run = Run(settings, store, crew, say, fresh=options.fresh)
        results = execute([cell.case for cell in cells if not cell.reason and cell.case not in out], run)
    if results:
        print(table(results))
        print("\n".join(["", *state_lines(results), f"results: {store.path}"]))
    failed = any(result.status == "failed" for result in results)
    return 1 if failed else 0 if any(result.measured for result in results) else 3

"""Put cases under load as MLPerf's LoadGen does: queries in turn, in bundles, at random moments, all at once."""

from __future__ import annotations

import argparse
import sys

from quantkit.commands import _common

EXAMPLES = """
  quantkit load fmnist_cnn-int8_static-onnxruntime-cpu     all four scenarios; a server's highest rate within 10 ms
  quantkit load fmnist_cnn-fp32-onnxruntime-cpu --scenario server --rate 500 --latency 5
  quantkit load                                            what is stored
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    add = parser.add_argument
    add("cases", nargs="*", metavar="CASE", help="MODEL-METHOD-BACKEND-TARGET; none: show what is stored")
    add("--scenario", default="all", metavar="A,B", help="single_stream, multi_stream, server, offline (default: all)")
    add("--duration", type=float, metavar="S", help="least seconds of a run (default: 10; MLPerf: 600)")
    add("--queries", type=int, metavar="N", help="least queries of a run (default: what early stopping needs)")
    add("--percentile", type=float, metavar="P", help="that is judged, 0..1 (default: 0.9 single stream, else 0.99)")
    add("--latency", type=float, metavar="MS", help="server: bound on the percentile (default: 10 ms)")
    add("--rate", type=float, metavar="R", help="server: arrivals a second (default: the highest is looked for)")
    add("--samples-per-query", type=int, metavar="N", help="multi stream: items of one query (default: 8)")
    add("--workers", type=int, metavar="N", help="sessions that answer side by side (default: 1)")
    add("--threads", type=int, metavar="N", help="threads of one session (default: 1)")
    add("--items", type=int, metavar="N", help="evaluation items to ask for (default: 1024, or all)")
    add("--seed", type=int, help="of the items' order and of the arrivals (default: 0)")
    add("--fresh", action="store_true", help="measure again what is stored already")
    add(
        "--time-limit",
        type=float,
        metavar="S",
        help="seconds that one run may take (default: 5 durations, 600 at least)",
    )
    add("--memory-limit", type=float, metavar="GIB", help="memory that one run may take")
    add("--format", choices=["text", "json"], default="text")
    _common.results_argument(parser)


def run(options: argparse.Namespace) -> int:
    """Do it; exit 0 all valid, 1 one is not, 2 error, 3 nothing stored."""
    from quantkit.scenarios import command

    return command.run(
        options, lambda line: print(line, file=sys.stderr, flush=True), lambda text: print(text, flush=True)
    )

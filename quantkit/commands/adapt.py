"""Serve several precisions of a model as one: calibrate the cascade to a required accuracy and judge it."""

from __future__ import annotations

import argparse
import sys

EXAMPLES = """
  quantkit adapt fmnist_cnn --methods int8_static          cheap first, fp32 where unsure; loses at most 0.5 points
  quantkit adapt fmnist_lstm --methods int8_dynamic --loss 0.002 --format json
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    add = parser.add_argument
    add("model", help="of the zoo; its answers must be class scores")
    add("--methods", required=True, metavar="A,B", help="precisions, cheapest first; full precision is always the last")
    add("--backend", default="onnxruntime", help="backend of all precisions (default: onnxruntime)")
    add("--target", default="cpu", help="target of all precisions (default: cpu)")
    add("--loss", type=float, default=0.005, metavar="X", help="accuracy that may be lost (default: 0.005)")
    add("--accuracy", type=float, metavar="X", help="accuracy that must be reached, instead of --loss")
    add("--alpha", type=float, default=0.05, metavar="X", help="chance of breaking it (default: 0.05)")
    add("--confidence", default="margin", help="margin or max_softmax (default: margin)")
    add("--false-alarms", type=float, default=0.01, metavar="X", help="of the input guard; 0: no guard (default: 0.01)")
    add("--audit", type=float, default=0.0, metavar="X", help="share of requests compared with full precision")
    add("--items", type=int, metavar="N", help="evaluation items; half calibrate, half judge (default: all)")
    add("--threads", type=int, metavar="N", help="threads of one session (default: 1)")
    add("--seed", type=int, default=0, help="of the halves and of all other draws (default: 0)")
    add("--format", choices=["text", "json", "prometheus"], default="text")


def run(options: argparse.Namespace) -> int:
    """Do it; return the exit status."""
    from quantkit.adaptive import command

    return command.run(
        options, lambda line: print(line, file=sys.stderr, flush=True), lambda text: print(text, flush=True)
    )

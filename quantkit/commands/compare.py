"""Compare two stored cases, item by item and round by round."""

from __future__ import annotations

import argparse

from quantkit.commands import _common

EXAMPLES = """
  quantkit compare fmnist_cnn-fp32-onnxruntime-cpu fmnist_cnn-int8_static-onnxruntime-cpu
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("baseline", help="id of a case, as 'quantkit show' prints it")
    parser.add_argument("candidate", help="id of the case to compare with it")
    parser.add_argument("--margin", type=float, help="largest loss that counts as retained (0.01 = one point)")
    _common.results_argument(parser)


def run(options: argparse.Namespace) -> int:
    """Do it; return the exit status."""
    from quantkit.conclude.compare import checked_margin, pair_of
    from quantkit.conclude.wording import details, explain, speedup

    results = _common.stored(options)
    baseline, candidate = _common.one(results, options.baseline), _common.one(results, options.candidate)
    margin = None if options.margin is None else checked_margin(options.margin)
    pair = pair_of(candidate, baseline, margin=margin)
    print(f"{candidate.case.id} against {baseline.case.id}")
    print(f"  quality: {explain(pair)}")
    if pair.retention:
        for line in details(pair.retention):
            print(f"           {line}")
    doubt = f" ({pair.speed_reason})" if pair.speed_reason else ""
    timed = (
        f"{speedup(pair)} times as fast: {pair.speed}{doubt}" if pair.speedup else f"unavailable: {pair.speed_reason}"
    )
    print(f"  speed:   {timed}")
    return 0

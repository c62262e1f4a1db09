"""Measure what this machine can tell apart: the noise floor of equal sides, and how surely a slow-down is found."""

from __future__ import annotations

import argparse

EXAMPLES = """
  quantkit selftest noise                                  20 comparisons each: equal, slowed by 3 % and by 5 %
  quantkit selftest noise --comparisons 200                until there are 200 of each; goes on where it was cut
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("what", choices=["noise"])
    parser.add_argument("--comparisons", type=int, default=20, metavar="N", help="of each kind (default: 20)")
    parser.add_argument("--slow-downs", default="0.03,0.05", metavar="A,B", help="injected shares (default: 0.03,0.05)")
    parser.add_argument("--threads", type=int, default=2, metavar="N", help="of the timed network (default: 2)")
    parser.add_argument("--limit", type=float, default=60.0, metavar="S", help="of one comparison (default: 60)")


def run(options: argparse.Namespace) -> int:
    """Do it; exit 0, 2 error, 3 where no comparison of a kind gave an estimate."""
    import sys
    from functools import partial

    from quantkit.errors import InvalidSetting
    from quantkit.latency import noise
    from quantkit.pipeline.noise import file

    try:
        shares = [0.0, *(float(text) for text in options.slow_downs.split(",") if text)]
    except ValueError:
        raise InvalidSetting(f"--slow-downs takes shares such as 0.03,0.05: got '{options.slow_downs}'") from None
    say = partial(print, file=sys.stderr, flush=True)
    say(f"comparisons are kept in {file()}")
    found = noise.measure(shares, options.comparisons, threads=options.threads, limit_s=options.limit, say=say)
    for line in noise.report(found):
        print(line)
    empty = [share for share in shares if not (noise.detected(found, share) if share else noise.false_alarms(found)).of]
    if empty:
        say("no comparison of a kind gave an estimate: end other work on this machine, then run the same command again")
    return 3 if empty else 0

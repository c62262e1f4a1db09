"""Compare the speed of two artifacts, callables or revisions: fresh loads in turn until it is decided."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from contextlib import ExitStack

    from quantkit.latency.protocol import LatencyComparison
    from quantkit.latency.side import Side

EXAMPLES = """
  quantkit latency fmnist_cnn-fp32-onnxruntime-cpu fmnist_cnn-int8_static-onnxruntime-cpu
  quantkit latency mymodule:old mymodule:new               factories: each returns the callable that is timed
  quantkit latency main@mymodule:make HEAD@mymodule:make   the same factory in two revisions of this repository
  quantkit latency main@CASE CASE                          a case as another revision builds and runs it, and as now
"""
EXIT = {"faster": 0, "same": 0, "slower": 1, "inconclusive": 3}


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    what = "id of a case or package.module:factory; REVISION@ before it takes that revision's code"
    parser.add_argument("baseline", help=what)
    parser.add_argument("candidate", help="what is compared with it, in one of the same forms")
    parser.add_argument("--limit", type=float, default=60.0, metavar="S", help="seconds of measuring (default: 60)")
    parser.add_argument("--alpha", type=float, default=0.01, help="chance of a false verdict (default: 0.01)")
    parser.add_argument(
        "--floor", type=float, help="noise floor, 0 to 0.1 (default: as 'quantkit selftest noise' found it)"
    )
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="threads of a case's session (default: 1)")
    parser.add_argument("--json", metavar="FILE", help="write the verdict and every timed call")


def run(options: argparse.Namespace) -> int:
    """Do it; exit 0 faster or same, 1 slower, 2 error, 3 inconclusive."""
    import sys
    from contextlib import ExitStack
    from functools import partial

    from quantkit.latency.protocol import compare

    rule = _rule(options)
    if options.json:
        _writable(options.json)
    with ExitStack() as stack:
        sides = [_side(text, options, stack) for text in (options.baseline, options.candidate)]
        progress = partial(print, file=sys.stderr, flush=True)
        found = compare(*sides, rule=rule, limit_s=options.limit, say=progress)
    for line in _report(found):
        print(line)
    if options.json:
        _write(found, options.json)
    return EXIT[found.verdict]


def _rule(options: argparse.Namespace) -> Any:
    from quantkit.errors import InvalidSetting
    from quantkit.latency.floor import rule

    if not 0 < options.limit < float("inf"):
        raise InvalidSetting(f"--limit must be a positive number of seconds: got {options.limit}")
    return rule(options.alpha, options.floor)


def _writable(path: str) -> None:
    """Refuse a file that cannot be written, before anything is measured."""
    import tempfile
    from pathlib import Path

    from quantkit.errors import StorageError
    from quantkit.files import storage_error

    file = Path(path)
    if file.is_dir():
        raise StorageError(f"cannot write {path}: it is a folder; give --json a file")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=file.parent).close()
    except OSError as error:
        raise storage_error(error, file) from error


def _side(text: str, options: argparse.Namespace, stack: ExitStack) -> Side:
    import sys
    from functools import partial

    from quantkit.latency.artifact import side_at, side_of
    from quantkit.latency.own import named
    from quantkit.latency.revision import checkout
    from quantkit.pipeline.plan import case_of
    from quantkit.pipeline.settings import Settings

    revision, at, what = text.rpartition("@")
    there = stack.enter_context(checkout(revision)) if at else None
    if ":" in what:
        return named(what, text, there)
    how = case_of(what), Settings(threads=options.threads), partial(print, file=sys.stderr, flush=True)
    return side_at(there, *how) if there else side_of(*how)


def _report(found: LatencyComparison) -> list[str]:
    """Return the lines for a reader."""
    lines = [f"{found.candidate} against {found.reference}"]
    if found.speedup is not None and found.reference_s and found.candidate_s:
        s = found.speedup
        at = f"{(1 - found.rule.alpha) * 100:.10g}%, all looks together"
        lines.append(f"  {s.value:.3f} [{s.low:.3f}, {s.high:.3f}] times as fast ({at})")
        lines.append(f"  median latency {found.reference_s * 1e3:.4g} ms -> {found.candidate_s * 1e3:.4g} ms")
    counted, left = len(found.blocks) - len(found.tainted), len(found.tainted)
    lines.append(f"  {counted} pairs of fresh loads in {found.elapsed_s:.1f} s, {left} more were disturbed")
    for reason in sorted({reason for block in found.tainted for reason in block.taint})[:3]:
        lines.append(f"    {reason}")
    told = f": {found.reason}" if found.reason else ""
    limits = f"noise floor {found.rule.floor:.1%}, same within {found.rule.tolerance:.1%}"
    return [*lines, f"  verdict: {found.verdict}{told} ({limits})"]


def _write(found: LatencyComparison, path: str) -> None:
    import json
    from dataclasses import asdict
    from pathlib import Path

    from quantkit.environment import fingerprint
    from quantkit.files import write_atomic

    write_atomic(Path(path), json.dumps(asdict(found) | {"fingerprint": fingerprint()}, allow_nan=False).encode())

"""Decide whether stored results are good enough: quality, latency, memory and size against their limits."""

from __future__ import annotations

import argparse
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quantkit.commands import _common

if TYPE_CHECKING:
    from quantkit.conclude.gate import Gate, Limits, Verdict

EXAMPLES = """
  quantkit gate --margin 0.01                              exit 0 pass, 1 regression, 2 error, 3 inconclusive
  quantkit gate --baseline main.db                         each case against the same case of another run
  quantkit gate --baseline main.db --checks quality,size --markdown gate.md --junit gate.xml
"""
NAMED = {"max_slowdown": "latency", "max_memory_growth": "memory", "max_size_growth": "size"}


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    add = parser.add_argument
    add("--baseline", type=Path, metavar="FILE", help="results of an older run to compare each case with")
    add("--margin", type=float, help="largest loss of quality (0.01 = one point; default: each model's own)")
    add("--max-slowdown", type=float, metavar="SHARE", help="largest growth of the median latency (default: 0.10)")
    add("--max-memory-growth", type=float, metavar="SHARE", help="largest growth of peak memory (default: 0.15)")
    add("--max-size-growth", type=float, metavar="SHARE", help="largest growth of the artifact (default: 0.02)")
    checks = "of quality,latency,memory,size (default: all with --baseline, else quality; a limit adds its own check)"
    add("--checks", metavar="A,B", help=checks)
    add("--accept-older", action="store_true", help="compare even results that are older than their baseline")
    add("--accept-missing", action="store_true", help="let cases go that the baseline has and nobody measured here")
    add("--markdown", type=Path, metavar="FILE", help="write the summary for a pull request")
    add("--junit", type=Path, metavar="FILE", help="write JUnit XML: a test case for each case and check")
    add("--step-summary", action="store_true", help="append the summary to the file that $GITHUB_STEP_SUMMARY names")
    _common.results_argument(parser)


def run(options: argparse.Namespace) -> int:
    """Do it; return the exit status."""
    from quantkit.conclude.gate import Gate
    from quantkit.errors import NothingMeasured, QuantizationError

    summary = _step_summary() if options.step_summary else None
    _refuse_overwriting(options, summary)
    try:
        decided = _decided(options)
    except QuantizationError as error:  # a reader of the files is told, too, that there is no verdict and why
        word: Verdict = "nothing" if isinstance(error, NothingMeasured) else "error"
        _write(Gate(word, notes=(str(error),)), options, summary)
        raise
    print(f"gate: {decided.verdict}")
    for line in decided.lines:
        print(f"  {line}")
    _write(decided, options, summary)
    return decided.exit_status


def _decided(options: argparse.Namespace) -> Gate:
    from quantkit.conclude.gate_asked import older_run
    from quantkit.conclude.gating import against, within
    from quantkit.pipeline.settings import results_file

    limits = _limits(options)
    results = _common.stored(options)
    if options.baseline is None:
        return within(results, limits)
    return against(results, older_run(options.baseline, options.results or results_file()), limits)


def _limits(options: argparse.Namespace) -> Limits:
    """Return the limits that the options ask for."""
    from quantkit.conclude.gate_asked import limits

    told = {option.removeprefix("max_").removesuffix("_growth"): getattr(options, option) for option in NAMED}
    told |= {name: getattr(options, name) for name in ("margin", "accept_older", "accept_missing")}
    return limits(options.baseline is not None, options.checks, **told)


def _step_summary() -> Path:
    """Return the file that a GitHub runner shows on the page of a run."""
    import os

    from quantkit.errors import InvalidSetting

    told = os.environ.get("GITHUB_STEP_SUMMARY")
    if not told:
        raise InvalidSetting(
            "--step-summary needs GITHUB_STEP_SUMMARY, as a GitHub runner sets it: use --markdown FILE"
        )
    return Path(told)


def _refuse_overwriting(options: argparse.Namespace, summary: Path | None) -> None:
    """Refuse a file to write that is another one to write, or one to read."""
    from quantkit.errors import InvalidSetting
    from quantkit.pipeline.settings import results_file

    written = {"--markdown": options.markdown, "--junit": options.junit, "--step-summary": summary}
    read = {"--baseline": options.baseline, "--results": options.results or results_file()}
    for (one, path), (other, there) in combinations((written | read).items(), 2):
        if one in written and path and there and _same(path, there):
            raise InvalidSetting(
                f"{one} and {other} are the same file ({path}), and one would overwrite the other: name two"
            )


def _same(one: Path, other: Path) -> bool:
    """Return whether two paths lead to one file, now or once it is written."""
    return one.resolve() == other.resolve() or (one.exists() and other.exists() and one.samefile(other))


def _write(decided: Gate, options: Any, summary: Path | None) -> None:
    """Write the files that are asked for."""
    from quantkit.conclude.gate_junit import junit
    from quantkit.conclude.gate_markdown import markdown
    from quantkit.files import storage_error, write_atomic

    if options.markdown:
        write_atomic(options.markdown, markdown(decided).encode())
    if options.junit:
        write_atomic(options.junit, junit(decided))
    if summary is not None:
        try:
            with summary.open("a", encoding="utf-8") as file:  # others write to it too: only ever append
                file.write(markdown(decided))
        except OSError as error:
            raise storage_error(error, summary) from error

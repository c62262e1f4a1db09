"""Compare all formats of a model with PyTorch and each other."""

from __future__ import annotations

import argparse
from pathlib import Path

from quantkit.commands import _common

EXAMPLES = """
  quantkit formats fmnist_cnn                              every format of a model beside PyTorch and each other
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("models", nargs="*", metavar="MODEL", help="only these models")
    parser.add_argument("--format", choices=["text", "markdown"], default="text")
    parser.add_argument("--write", type=Path, metavar="FILE", help="write it to this file, as Markdown")
    _common.results_argument(parser)


def run(options: argparse.Namespace) -> int:
    """Do it; return the exit status."""
    from quantkit.conclude.formats import document
    from quantkit.files import write_atomic

    places = {"--results": options.results, "--write": options.write}
    said = [f"{name} {path}" for name, path in places.items() if path]
    text = document(
        _common.stored(options),
        options.models,
        command=" ".join(["quantkit formats", *options.models, *said]),
        markdown=bool(options.write) or options.format == "markdown",
    )
    if options.write:
        write_atomic(options.write, text.encode())
        print(f"written: {options.write}")
    else:
        print(text, end="")
    return 0

"""Show what there is, by name."""

from __future__ import annotations

import argparse

from quantkit.commands import _common

EXAMPLES = """
  quantkit list                                            what there is: models, methods, backends, targets
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument(
        "family", nargs="?", choices=[*_common.FAMILIES, "datasets", "metrics"], help="only this family"
    )


def run(options: argparse.Namespace) -> int:
    """Do it; return the exit status."""
    from quantkit import catalog

    families = {"models": catalog.MODELS, "datasets": catalog.DATASETS, "methods": catalog.METHODS,
                "backends": catalog.BACKENDS, "targets": catalog.TARGETS, "metrics": catalog.METRICS}  # fmt: skip
    for name in [options.family] if options.family else families:
        print(name)
        for entry, plugin in families[name].all().items():
            title = plugin.info.title if hasattr(plugin, "info") else plugin.title
            print(f"  {entry:<24} {title}")
    return 0

"""The command line: one file for each command in `quantkit/commands/`; here are the parser and the exit status.

Exit status: 0 done (gate: pass), 1 a case failed (gate: regression), 2 an error that is said in one line,
3 nothing measured (gate: inconclusive, or nothing to gate).
"""

from __future__ import annotations

import argparse
import importlib
import io
import sys
import traceback

COMMANDS = (
    "list", "plan", "run", "compare", "gate", "show", "formats", "export", "adapt", "load", "latency", "selftest",
    "history",
)  # fmt: skip
SUITE = "The suite itself is 'pytest benchmarks' (see its --help, group quantkit)."


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    from quantkit.errors import NothingMeasured, QuantizationError

    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without a dash of ours still gets its table
    options = parser().parse_args(arguments)
    try:
        return options.command(options)
    except NothingMeasured as error:
        print(f"quantkit: {error}", file=sys.stderr)
        return 3
    except QuantizationError as error:
        print(f"quantkit: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        sys.stderr.close()  # the reader of a pipe (head, less) has seen enough
        return 0
    except KeyboardInterrupt:
        print(
            "\nquantkit: interrupted; what is stored is kept, and the same command goes on from there", file=sys.stderr
        )
        return 130
    except Exception:
        # Never 1: to a script that would mean "regression".
        traceback.print_exc()
        print("quantkit: this is a fault of quantkit; please report it with the lines above", file=sys.stderr)
        return 2


def parser() -> argparse.ArgumentParser:
    """Return the parser of all commands; each command's file has its help, options and examples."""
    modules = {name: importlib.import_module(f"quantkit.commands.{name}") for name in COMMANDS}
    examples = "".join(module.EXAMPLES.lstrip("\n") for module in modules.values())
    whole = argparse.ArgumentParser(
        prog="quantkit",
        description="Benchmarks quantized models: quality, speed, memory and size of each case against full precision.",
        epilog=f"examples:\n{examples}\n{SUITE}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = whole.add_subparsers(metavar="COMMAND", required=True)
    for name, module in modules.items():
        help_text = (module.__doc__ or "").partition("\n")[0]
        made = commands.add_parser(
            name, help=help_text, description=help_text, epilog=f"examples:{module.EXAMPLES}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )  # fmt: skip
        module.arguments(made)
        made.set_defaults(command=module.run)
    return whole


if __name__ == "__main__":
    sys.exit(main())

"""The command line: a thin layer over the pipeline and its conclusions.

Exit status: 0 done (gate: pass), 1 a case failed (gate: regression), 2 an error that is said in one line,
3 nothing measured (gate: inconclusive, or nothing to gate).
"""

from __future__ import annotations

import argparse
import json
import sys
import traceback
from pathlib import Path
from typing import Any

EXAMPLES = """examples:
  quantkit list                                            what there is: models, methods, backends, targets
  quantkit plan --models fmnist_cnn                        the cases, and why some cannot run
  quantkit run --models fmnist_cnn --methods int8_static   measure them, with their full-precision baseline
  quantkit show                                            the table of all stored results
  quantkit show --format json > results.json
  quantkit compare fmnist_cnn-fp32-onnxruntime-cpu fmnist_cnn-int8_static-onnxruntime-cpu
  quantkit gate --margin 0.01                              exit 0 pass, 1 regression, 2 error, 3 inconclusive
  quantkit gate --baseline main.db                         against the results of another run

The suite itself is 'pytest benchmarks' (see its --help, group quantkit).
"""
FAMILIES = ("models", "methods", "backends", "targets")


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    from quantkit.errors import NothingMeasured, QuantizationError

    options = _parser().parse_args(arguments)
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
        print("\nquantkit: interrupted; what is finished is kept, the same command continues", file=sys.stderr)
        return 130
    except Exception:
        # Never 1: to a script that would mean "regression".
        traceback.print_exc()
        print("quantkit: this is a fault of quantkit; please report it with the lines above", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="quantkit",
        description="Benchmarks quantized models: quality, speed, memory and size of each case against full precision.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def command(name: str, function: Any, text: str) -> argparse.ArgumentParser:
        lines = [line for line in EXAMPLES.splitlines() if line.startswith(f"  quantkit {name}")]
        made = commands.add_parser(
            name, help=text, description=text, epilog="\n".join(["examples:", *lines]),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )  # fmt: skip
        made.set_defaults(command=function)
        return made

    _list_arguments(command("list", _list, "Show what there is, by name."))
    _matrix_arguments(command("plan", _plan, "Show the cases of a matrix, and why some cannot run."))
    _run_arguments(command("run", _run, "Measure the cases of a matrix and show their table."))
    _compare_arguments(command("compare", _compare, "Compare two stored cases, item by item and round by round."))
    _gate_arguments(command("gate", _gate, "Decide whether stored results retain quality."))
    _show_arguments(command("show", _show, "Show stored results."))
    return parser


def _list_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("family", nargs="?", choices=[*FAMILIES, "datasets", "metrics"], help="only this family")


def _matrix_arguments(parser: argparse.ArgumentParser) -> None:
    for name in FAMILIES:
        parser.add_argument(f"--{name}", metavar="A,B", help=f"only these {name}")
    parser.add_argument("--profile", default="fast", help="fast, regular or full (default: fast)")


def _results_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--results", type=Path, metavar="FILE", help="results file (default: .quantkit/results.db)")


def _run_arguments(parser: argparse.ArgumentParser) -> None:
    _matrix_arguments(parser)
    _results_argument(parser)
    parser.add_argument("--fresh", action="store_true", help="measure again what is stored already")
    parser.add_argument("--items", type=int, metavar="N", help="evaluation items")
    parser.add_argument("--few-items", action="store_true", help="each data set's own small number, as profile fast")
    parser.add_argument("--rounds", type=int, metavar="N", help="fresh processes per case; 0: no timing")
    parser.add_argument("--threads", type=int, metavar="N", help="threads of one session (default: 1)")
    parser.add_argument(
        "--time-limit", type=float, metavar="S", help="seconds that one process may take (default: 600)"
    )
    parser.add_argument("--memory-limit", type=float, metavar="GIB", help="memory that one process may take")


def _compare_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("baseline", help="id of a case, as 'quantkit show' prints it")
    parser.add_argument("candidate", help="id of the case to compare with it")
    parser.add_argument("--margin", type=float, help="largest loss that counts as retained (0.01 = one point)")
    _results_argument(parser)


def _gate_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--margin", type=float, help="largest loss that counts as retained (default: each model's own)")
    parser.add_argument(
        "--baseline", type=Path, metavar="FILE", help="results of an older run to compare each case with"
    )
    _results_argument(parser)


def _show_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("case", nargs="?", help="id of one case: all that is stored about it")
    parser.add_argument("--format", choices=["text", "markdown", "json"], default="text")
    _results_argument(parser)


def _list(options: argparse.Namespace) -> int:
    from quantkit import catalog

    families = {"models": catalog.MODELS, "datasets": catalog.DATASETS, "methods": catalog.METHODS,
                "backends": catalog.BACKENDS, "targets": catalog.TARGETS, "metrics": catalog.METRICS}  # fmt: skip
    for name in [options.family] if options.family else families:
        print(name)
        for entry, plugin in families[name].all().items():
            title = plugin.info.title if hasattr(plugin, "info") else plugin.title
            print(f"  {entry:<24} {title}")
    return 0


def _matrix(options: argparse.Namespace) -> list[Any]:
    from quantkit.pipeline.plan import plan

    names = [None if getattr(options, name) is None else getattr(options, name).split(",") for name in FAMILIES]
    return plan(names[0], names[1], backends=names[2], targets=names[3], profile=options.profile)


def _plan(options: argparse.Namespace) -> int:
    planned = _matrix(options)
    for cell in planned:
        print(f"{cell.case.id:<60} {'skip: ' + cell.reason if cell.reason else 'run'}")
    runs = sum(not cell.reason for cell in planned)
    print(f"{len(planned)} cases, {runs} can run here, {len(planned) - runs} cannot")
    return 0 if runs else 3


def _run(options: argparse.Namespace) -> int:
    from quantkit.conclude.report import table
    from quantkit.pipeline.crew import Crew
    from quantkit.pipeline.execute import Run, execute
    from quantkit.pipeline.plan import left_out
    from quantkit.pipeline.settings import Settings, results_file
    from quantkit.pipeline.store import Store

    cells = _matrix(options)
    changes = {name: getattr(options, name) for name in ("items", "rounds", "threads")}
    changes["few_items"] = options.few_items or None
    changes |= {"time_limit_s": options.time_limit, "memory_limit_bytes": Settings.bytes_of(options.memory_limit)}
    settings = Settings.of(options.profile, **changes)
    store = Store(options.results or results_file())
    for cell in cells:
        if cell.reason:
            print(f"skip      {cell.case.id}: {cell.reason}", file=sys.stderr)
    words = ",".join(filter(None, (options.targets, options.backends))).split(",")
    out = {cell.case for cell in cells if settings.rounds and left_out(cell, words)}
    if out:
        print(f"{len(out)} cases cannot be timed here and are left out: name their target or backend", file=sys.stderr)
    with Crew() as crew:
        run = Run(settings, store, crew, lambda line: print(line, file=sys.stderr, flush=True), fresh=options.fresh)
        results = execute([cell.case for cell in cells if not cell.reason and cell.case not in out], run)
    if results:
        print(table(results))
        print(f"\nresults: {store.path}")
    statuses = {result.status for result in results}
    return 1 if "failed" in statuses else 0 if "ok" in statuses else 3


def _stored(options: argparse.Namespace) -> list[Any]:
    from quantkit.pipeline.settings import results_file
    from quantkit.pipeline.store import Store

    return Store(options.results or results_file(), write=False).newest()


def _one(results: list[Any], name: str) -> Any:
    import difflib

    from quantkit.errors import UnknownName

    found = {result.case.id: result for result in results}
    if name not in found:
        near = difflib.get_close_matches(name, found, n=1)
        hint = f" Did you mean '{near[0]}'?" if near else ""
        raise UnknownName(f"no stored result of a case '{name}'.{hint} 'quantkit show' lists them all")
    return found[name]


def _compare(options: argparse.Namespace) -> int:
    from quantkit.conclude.compare import checked_margin, pair_of
    from quantkit.conclude.wording import details, explain, speedup

    results = _stored(options)
    baseline, candidate = _one(results, options.baseline), _one(results, options.candidate)
    margin = None if options.margin is None else checked_margin(options.margin)
    pair = pair_of(candidate, baseline, margin=margin)
    print(f"{candidate.case.id} against {baseline.case.id}")
    print(f"  quality: {explain(pair)}")
    if pair.retention:
        for line in details(pair.retention):
            print(f"           {line}")
    timed = f"{speedup(pair)} times as fast: {pair.speed}" if pair.speedup else f"unavailable: {pair.speed_reason}"
    print(f"  speed:   {timed}")
    return 0


def _gate(options: argparse.Namespace) -> int:
    from quantkit.conclude.compare import against, checked_margin, comparisons
    from quantkit.conclude.gate import gate

    results = _stored(options)
    margin = None if options.margin is None else checked_margin(options.margin)
    failed = sum(result.status == "failed" for result in results)
    if options.baseline:
        compared = against(results, _older(options.baseline, options.results), margin=margin)
    else:
        compared = comparisons(results, margin=margin)
    decided = gate(compared, failed)
    print(f"gate: {decided.verdict}")
    for line in decided.lines:
        print(f"  {line}")
    return decided.exit_status


def _older(baseline: Path, results: Path | None) -> list[Any]:
    from quantkit.pipeline.settings import results_file
    from quantkit.pipeline.store import older_results

    return older_results(baseline, results or results_file())


def _show(options: argparse.Namespace) -> int:
    from quantkit.conclude.report import table

    results = _stored(options)
    if options.case:
        print(json.dumps(json.loads(_one(results, options.case).to_json()), indent=1))
    elif options.format == "json":
        print(json.dumps([json.loads(result.to_json()) for result in results]))
    else:
        print(table(results, style="github" if options.format == "markdown" else "simple"))
    return 0 if results else 3


if __name__ == "__main__":
    sys.exit(main())

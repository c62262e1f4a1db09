"""The lists below a model's table: layers in float, cases without a result, toolchains' notes; machines for all."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence

from quantkit.catalog import METHODS
from quantkit.conclude import wording
from quantkit.conclude.crosscheck import Row, label
from quantkit.conclude.folding import fold
from quantkit.records import Result

FLOATS = ("fp32", "fp16", "bf16")
Cell = tuple[str, str]  # format and method
Refusal = tuple[str, str, str]  # format, method and reason


def by_format(cells: Iterable[Cell]) -> str:
    """Return e.g. `litert int8_dynamic, int8_static; onnxruntime half`."""
    methods: dict[str, list[str]] = {}
    for backend, method in cells:
        methods.setdefault(backend, []).append(method)
    return "; ".join(f"{backend} {', '.join(dict.fromkeys(names))}" for backend, names in methods.items())


def left_in_float(rows: Sequence[Row]) -> list[str]:
    """Return the layers left in float, all by name with the reason; rows that left the same share a line."""
    shared: dict[str, list[Cell]] = {}
    for row in rows:
        said = "" if row.result.context["baseline"] else _left(row.result)
        if said:
            shared.setdefault(said, []).append((row.label, row.result.case.method))
    return [f"{by_format(cells)}: {said}" for said, cells in shared.items()]


def _left(result: Result) -> str:
    reasons: dict[str, list[str]] = {}
    for line in result.context["left_in_float"]:
        name, _, reason = line.partition(": ")
        reasons.setdefault(reason, []).append(name)
    if reasons:
        return "; ".join(f"{', '.join(fold(names))}: {reason}" for reason, names in reasons.items())
    coverage = wording.measured(result, "coverage")
    if coverage is None or coverage.values[0] == 1 or result.context["scheme"] in FLOATS:
        return ""
    return f"the toolchain gives no reason, but {100 - coverage.values[0] * 100:.1f} % of the weights are floats"


def general(result: Result) -> Refusal:
    """Return backend, method and reason of a case that was refused, the scheme's name in the reason made general."""
    case = result.case
    name = METHODS.get(case.method).scheme.name if case.method in METHODS.names() else ""
    reason = re.sub(rf"(?<![\w-]){re.escape(name)}(?![\w-])", "this scheme", result.reason) if name else result.reason
    return case.backend, case.method, f"{result.status}: {reason}"


def refused_always(results: Sequence[Result]) -> set[Refusal]:
    """Return the refusals that hold for every model of several on which format and method were tried."""
    refused: dict[Refusal, set[str]] = {}
    tried: dict[Cell, set[str]] = {}
    for result in results:
        case = result.case
        tried.setdefault((case.backend, case.method), set()).add(case.model)
        if result.status == "unsupported":
            refused.setdefault(general(result), set()).add(case.model)
    return {refusal for refusal, models in refused.items() if len(models) > 1 and models == tried[refusal[:2]]}


def told(refusals: Iterable[Refusal]) -> list[str]:
    """Return refusals by reason."""
    shared: dict[str, list[Cell]] = {}
    for backend, method, reason in sorted(refusals):
        shared.setdefault(reason, []).append((backend, method))
    return [f"{by_format(cells)}: {reason}" for reason, cells in shared.items()]


def missing(results: Sequence[Result], elsewhere: set[Cell], always: Collection[Refusal] = ()) -> list[str]:
    """Return a model's cases that ended without a result, by reason, and those that only other models have.

    Args:
        always: refusals that are told elsewhere.
    """
    shared: dict[str, dict[Cell, list[str]]] = {}
    for result in results:
        if not result.measured and general(result) not in always:
            cells = shared.setdefault(general(result)[2], {})
            cells.setdefault((result.case.backend, result.case.method), []).append(result.case.target)
    lines = []
    for said, cells in shared.items():
        where = [(label(backend, targets), method) for (backend, method), targets in cells.items()]
        lines.append(f"{by_format(where)}: {said}")
    never = elsewhere - {(result.case.backend, result.case.method) for result in results}
    if never:
        lines.append(f"{by_format(sorted(never))}: not stored (refused before it ran, or not asked for)")
    return lines


def holes(results: Sequence[Result]) -> list[str]:
    """Return the pairs of format and method that no model has, a line for each format."""
    stored = {(result.case.backend, result.case.method) for result in results}
    backends, methods = (sorted({cell[place] for cell in stored}) for place in (0, 1))
    lacking = {backend: [m for m in methods if (backend, m) not in stored] for backend in backends}
    return [f"{backend}: {', '.join(names)}" for backend, names in lacking.items() if names]


def notes_of(rows: Sequence[Row]) -> dict[str, list[Cell]]:
    """Return each note of a toolchain with the formats and methods that it was made on, in the order of the rows."""
    notes: dict[str, list[Cell]] = {}
    for row in rows:
        for note in row.result.context["notes"]:
            notes.setdefault(note, []).append((row.label, row.result.case.method))
    return notes


def machines(results: Sequence[Result]) -> list[str]:
    """Return a line for each machine: how many results it gave, what it is, and the versions of all toolchains."""
    counts: dict[str, int] = {}
    versions: dict[str, dict[str, set[str]]] = {}
    for result in results:
        print_ = result.fingerprint
        if not print_:
            continue
        features = f" ({', '.join(print_['features'])})" if print_["features"] else ""
        machine = f"{print_['system']}, {print_['processor']}{features}, {print_['cores']} cores, "
        machine += f"{print_['memory_gib']} GiB, Python {print_['python']}"
        counts[machine] = counts.get(machine, 0) + 1
        for name, version in print_["versions"].items():
            versions.setdefault(machine, {}).setdefault(name, set()).add(version)
    return [
        f"{count} results: {machine}; "
        + ", ".join(f"{name} {' or '.join(sorted(found))}" for name, found in sorted(versions[machine].items()))
        for machine, count in counts.items()
    ]

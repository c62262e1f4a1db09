"""The bridge to airspeed velocity: stored results written as its result files, so that nothing is measured twice.

A file holds what one machine measured of one commit. Every benchmark has one parameter, the case, by the id that
pytest shows. Runs of one commit are joined: all their processes count for time and memory, the newest for the rest.
What an earlier export wrote of the same machine and commit stays, but for figures that were measured again since.
The machine's name carries its fingerprint, since a change of library is another series. The format is that of asv 0.6
(results of version 2, `benchmarks.json` of version 2, `machine.json` of version 1).
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from quantkit.errors import CorruptFile, NothingMeasured
from quantkit.files import write_atomic
from quantkit.history.figures import KINDS, VERSION, Kind, Value, value
from quantkit.history.series import ALIKE, STATUS, revision_of
from quantkit.records import Result
from quantkit.units import Unit

COLUMNS = (
    "result", "params", "version", "started_at", "duration", "stats_ci_99_a", "stats_ci_99_b",
    "stats_q_25", "stats_q_75", "stats_number", "stats_repeat",
)  # fmt: skip
UNITS = {Unit.SECOND: "seconds", Unit.BYTE: "bytes", Unit.SHARE: ""}  # asv makes friendly multiples of the first two
ENVIRONMENT, MEMORY = "quantkit", "peak_memory"
MEASURED = "quantkit_measured"  # in a file, beside what asv reads: when each figure was, in milliseconds since 1970
Cells = dict[str, tuple[Any, ...]]  # by case: when it was measured, the value, the six statistics


@dataclass(frozen=True)
class Written:
    """What was written: files, results in them, and why others were left out, a line each."""

    files: tuple[Path, ...]
    results: int
    left_out: tuple[str, ...]


def export(results: Iterable[Result], folder: Path, *, dirty: bool = False) -> Written:
    """Write results as asv's result files below `folder` (asv's `results_dir`); what is there already stays.

    Of a figure that an earlier export wrote, of the same case, commit and machine, the newer one is kept.

    Args:
        results: of any machines and commits, in the order measured.
        dirty: write what was measured with changed files, too, as if it were its commit.

    Raises:
        NothingMeasured: there is nothing to write; the message has the reasons.
        StorageError: the folder cannot be written.
        CorruptFile: a file that is there already cannot be read.
    """
    groups: dict[tuple[str, str], dict[str, list[Result]]] = defaultdict(lambda: defaultdict(list))
    out, count = Counter[str](), 0
    for result in results:
        told = revision_of(result)
        reason = _why_not(result, told, dirty)
        if reason:
            out[reason] += 1
        if reason and reason != STATUS["tainted"]:
            continue
        groups[machine_name(result), told["commit"]][result.case.id].append(result)
        count += 1
    left = tuple(f"{number} {reason}" for reason, number in sorted(out.items()))
    if not groups:
        raise NothingMeasured(f"no stored result can be written for asv: {'; '.join(left) or 'there is none'}")
    cases = sorted({case for group in groups.values() for case in group})
    _write_benchmarks(folder, cases)
    files = []
    for (machine, commit), group in groups.items():
        some = next(iter(group.values()))[0]
        _write(folder / machine / "machine.json", _machine(some, machine) | {"version": 1})
        path = folder / machine / f"{commit[:8]}-{ENVIRONMENT}.json"
        _write(path, _file(machine, {case: _joined(runs) for case, runs in group.items()}, _earlier(path, commit)))
        files.append(path)
    return Written(tuple(files), count, left)


def machine_name(result: Result) -> str:
    """Return the name of a machine in asv: equal exactly where timings may be compared."""
    return f"quantkit-{result.fingerprint['id']}"


def _why_not(result: Result, told: Mapping[str, Any], dirty: bool) -> str:
    if not result.measured:
        return STATUS[result.status]
    if not told.get("commit"):
        return "without a commit: measured outside of a git checkout"
    if told.get("dirty") and not dirty:
        return "of changed files: commit first, or take them in with --dirty"
    return STATUS.get(result.status, "")


def _joined(runs: Sequence[Result]) -> Result:
    """Return the newest run of a commit with the processes of all of them."""
    newest = runs[-1]
    alike = [run for run in runs if all(run.context.get(name) == newest.context.get(name) for name in ALIKE)]
    measurements = dict(newest.measurements)
    found = [m for run in alike if (m := run.measurements.get(MEMORY)) is not None and m.values]
    if found:
        values = tuple(value for memory in found for value in memory.values)
        measurements[MEMORY] = replace(found[-1], values=values)
    calm = [run for run in alike if run.status == "ok"]
    paired = [run for run in calm if len(run.latencies_s) == len(run.reference_latencies_s)]
    timed = paired or calm
    return replace(
        newest,
        status="ok" if calm else newest.status,
        measurements=measurements,
        latencies_s=tuple(part for run in timed for part in run.latencies_s),
        reference_latencies_s=tuple(part for run in paired for part in run.reference_latencies_s),
    )


def _file(machine: str, group: Mapping[str, Result], earlier: Mapping[str, Cells]) -> dict[str, Any]:
    some = next(iter(group.values()))
    told = revision_of(some)
    found = {kind.benchmark: _newest(earlier.get(kind.benchmark, {}), _cells(kind, group)) for kind in KINDS.values()}
    rows = {name: _row(cells) for name, cells in found.items() if cells}
    python = ".".join(str(some.fingerprint.get("python", "")).split(".")[:2])
    return {
        "commit_hash": told["commit"], "env_name": ENVIRONMENT, "date": told["committed"] * 1000,
        "params": _machine(some, machine) | {"python": python}, "python": python, "requirements": {}, "env_vars": {},
        "result_columns": COLUMNS, "results": rows, "durations": {}, "version": 2,
        MEASURED: {name: {case: cell[0] for case, cell in found[name].items()} for name in rows},
    }  # fmt: skip


def _cells(kind: Kind, group: Mapping[str, Result]) -> Cells:
    """Return a benchmark's figures by case, of the cases that have it."""
    cells: Cells = {}
    for case, result in group.items():
        figure = value(kind, result)
        if figure is not None:
            created = int(datetime.fromisoformat(result.created).timestamp() * 1000)
            cells[repr(case)] = (created, figure[0], *_stats(kind, result, figure))
    return cells


def _newest(earlier: Cells, now: Cells) -> Cells:
    return earlier | {case: cell for case, cell in now.items() if case not in earlier or cell[0] >= earlier[case][0]}


def _row(cells: Cells) -> list[Any]:
    """Return a benchmark's columns over its cases."""
    params = sorted(cells)
    created, middle, *stats = zip(*(cells[case] for case in params), strict=True)
    return [list(middle), [params], VERSION, max(created), None, *map(list, stats)]


def _earlier(path: Path, commit: str) -> dict[str, Cells]:
    """Return what an earlier export wrote of a commit, by benchmark; asv shortens hashes in names of files."""
    if not path.exists():
        return {}
    try:
        content = json.loads(path.read_text())
        if content["commit_hash"] != commit:
            return {}
        return {name: _read(row, content.get(MEASURED, {}).get(name, {})) for name, row in content["results"].items()}
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise CorruptFile(f"{path} cannot be read ({error}): remove it, then export again") from None


def _read(row: Sequence[Any], measured: Mapping[str, int]) -> Cells:
    """Return a row's figures by case; files of older versions have one time for all cases."""
    middle, (params,), version, started, _, *stats = row
    columns = zip(params, middle, *stats, strict=True)
    return {case: (measured.get(case, started), *rest) for case, *rest in columns} if version == VERSION else {}


def _stats(kind: Kind, result: Result, figure: Value) -> tuple[float | None, ...]:
    """Return the interval at 99 %, the quartiles, calls in one value, and how many values; None for a lone number."""
    _, low, high = figure
    if kind.varies == "never" or low == high:
        return (None,) * 6
    raw = np.array([v for part in result.latencies_s for v in part])
    if kind.name == "latency":
        return low, high, *np.quantile(raw, (0.25, 0.75)).tolist(), 1, len(raw)
    return low, high, low, high, 1, max(len(result.latencies_s), 1)


def _machine(result: Result, name: str) -> dict[str, str]:
    told = result.fingerprint
    system, _, arch = str(told.get("system", "")).partition(" ")
    return {
        "machine": name, "os": f"{system} {told.get('kernel', '')}".strip(), "arch": arch,
        "cpu": str(told.get("processor", "")), "num_cpu": str(told.get("cores", "")),
        "ram": f"{told.get('memory_gib', '')} GiB",
    }  # fmt: skip


def _write_benchmarks(folder: Path, cases: Sequence[str]) -> None:
    """Tell asv of the benchmarks; cases and benchmarks that it knows already stay."""
    path = folder / "benchmarks.json"
    try:
        known = json.loads(path.read_text()) if path.exists() else {}
    except ValueError as error:
        raise CorruptFile(f"{path} is not JSON ({error}): remove it, then export again") from None
    for kind in KINDS.values():
        old = known.get(kind.benchmark, {})
        params = dict.fromkeys([*(old.get("params") or [[]])[0], *map(repr, cases)])
        known[kind.benchmark] = old | {
            "name": kind.benchmark, "type": kind.type, "unit": UNITS.get(kind.unit, str(kind.unit)),
            "version": VERSION, "param_names": ["case"], "params": [list(params)],
            "code": old.get("code", f"{kind.name} of stored results"),
        }  # fmt: skip
    _write(path, known | {"version": 2})


def _write(path: Path, content: Mapping[str, Any]) -> None:
    write_atomic(path, json.dumps(content, allow_nan=False).encode())

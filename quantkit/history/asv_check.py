"""What `asv compare` finds, as a word and an exit status: asv itself ends with 0 whatever it found.

The comparison is asv's own (its files, its statistics, its factor); only the answer is ours. It says `nothing` where
asv would print an empty table; a benchmark that gave a number before and fails now is a regression, and one that was
not measured now is no pass.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from quantkit.conclude.gate import EXIT
from quantkit.errors import CorruptFile, InvalidSetting, NothingMeasured
from quantkit.extras import require

Cells = dict[tuple[str, str], tuple[float | None, Any]]  # (benchmark, environment) -> value, (stats, samples)


@dataclass(frozen=True)
class Check:
    """The answer: 0 pass, 1 regression, 3 inconclusive (not all was measured again) or nothing measured at both."""

    verdict: Literal["pass", "regression", "inconclusive", "nothing"]
    lines: tuple[str, ...]

    @property
    def exit_status(self) -> int:
        """The same statuses as those of the gate."""
        return EXIT[self.verdict]


def check(folder: Path, before: str, after: str, *, factor: float = 1.1, machine: str = "") -> Check:
    """Return whether a commit is worse than another, by the results that asv (or the bridge) wrote.

    Args:
        folder: asv's `results_dir`.
        before: hash of a commit, or its beginning.
        after: the same of the commit in question.
        factor: a benchmark is worse that takes more than this many times as much, and differs by asv's statistics.
        machine: whose results; needed where there are several.

    Raises:
        NothingMeasured: there are no results of asv at all.
        InvalidSetting: no such machine, several where none is named, or a factor below 1.
        CorruptFile: a file that asv cannot read.
    """
    if not factor >= 1:
        raise InvalidSetting(f"--factor must be at least 1 (1.1 = ten per cent worse): got {factor:g}")
    where = _machine(folder, machine)
    try:
        old, new = _cells(folder, where, before), _cells(folder, where, after)
    except require("asv.util").UserError as error:
        raise CorruptFile(f"asv cannot read {folder / where}: {error}") from None
    shared = [cell for cell in old if cell in new and _number(old[cell][0])]
    broken = [cell for cell in shared if new[cell][0] is None]
    both = [cell for cell in shared if _number(new[cell][0])]
    if not both and not broken:
        return Check("nothing", (f"{where}: {_nothing({before: old, after: new})}",))
    worse = [f"broken: {cell[0]} gave {old[cell][0]:.4g} and fails now" for cell in broken]
    worse += [_line(cell, old, new) for cell in both if _worse(old[cell], new[cell], factor)]
    lost, added = _one_sided(old, new)
    if worse or lost:
        return Check("regression" if worse else "inconclusive", (*worse, *lost, *added))
    passed = f"{len(both)} benchmarks are not worse by more than {(factor - 1) * 100:.3g} %"
    return Check("pass", (passed, *added))


def _nothing(commits: Mapping[str, Cells]) -> str:
    missing = [name[:12] for name, cells in commits.items() if not any(_number(v) for v, _ in cells.values())]
    return f"nothing was measured of {' and '.join(missing)}" if missing else "they have no benchmark in common"


def _one_sided(old: Cells, new: Cells) -> tuple[list[str], list[str]]:
    """Return a line for each benchmark that has a figure before and is not measured now, and the reverse.

    asv keeps nan for what was skipped: that is not measured, too.
    """
    several = len({environment for _, environment in (*old, *new)}) > 1
    names = {cell: cell[0] + (f" in {cell[1]}" if several else "") for cell in (*old, *new)}
    lost = [
        f"missing: {names[cell]} gave {value:.4g} and was not measured now"
        for cell, (value, _) in old.items()
        if _number(value) and (cell not in new or _skipped(new[cell][0]))
    ]
    added = [
        f"new: {names[cell]} was not measured before, {'fails' if value is None else f'is {value:.4g}'} now"
        for cell, (value, _) in new.items()
        if (value is None or _number(value)) and (cell not in old or _skipped(old[cell][0]))
    ]
    return lost, added


def _machine(folder: Path, asked: str) -> str:
    known = sorted(path.parent.name for path in folder.glob("*/machine.json"))
    if not known:
        raise NothingMeasured(f"no results of asv in {folder}: run 'asv run' or 'quantkit history export' first")
    found = [name for name in known if name.startswith(asked)]
    if len(found) != 1:
        what = f"no machine '{asked}'" if not found else "several machines"
        raise InvalidSetting(f"{what} in {folder}: name one of {', '.join(known)} with --machine")
    return found[0]


def _cells(folder: Path, machine: str, commit: str) -> Cells:
    results, compare = require("asv.results"), require("asv.commands.compare")
    cells: Cells = {}
    for result in results.iter_results_for_machine_and_hash(str(folder), machine, commit):
        if not result.commit_hash.startswith(commit[: len(result.commit_hash)]):
            continue  # files are named by eight digits only
        for name in result.get_all_result_keys():
            params = result.get_result_params(name)
            columns = (getattr(result, f"get_result_{part}")(name, params) for part in ("value", "stats", "samples"))
            for full, value, stats, samples in compare.unroll_result(name, params, *columns):
                cells[full, result.env_name] = value, (stats, samples)
    return cells


def _number(value: float | None) -> bool:
    """Return whether it is a figure: asv keeps None for what failed and nan for what was skipped."""
    return value is not None and math.isfinite(value)


def _skipped(value: float | None) -> bool:
    """Return whether it was not measured: nan."""
    return value is not None and not _number(value)


def _worse(old: tuple[float | None, Any], new: tuple[float | None, Any], factor: float) -> bool:
    better = require("asv.commands.compare")._is_result_better
    return bool(better(old[0], new[0], old[1], new[1], factor))


def _line(cell: tuple[str, str], old: Cells, new: Cells) -> str:
    then, now = old[cell][0], new[cell][0]
    assert then is not None and now is not None
    share = f" ({(now / then - 1) * 100:+.1f} %)" if then else ""
    return f"worse: {cell[0]} was {then:.4g}, is {now:.4g}{share}"

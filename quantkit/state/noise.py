"""The noise floor of this machine, from the comparisons of equal sides that `quantkit selftest noise` has kept."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import NormalDist, median

from quantkit.environment import fingerprint
from quantkit.errors import CorruptFile
from quantkit.files import cache_folder, write_atomic

ENOUGH = 20  # comparisons of equal sides before a floor is derived from them
LEAST_FLOOR = 0.005


@dataclass(frozen=True)
class Trial:
    """One comparison of the self-test.

    Args:
        slowed: share by which the candidate was slowed: 0.0 for equal sides.
        speedup: the estimate; nan where there was none.
    """

    slowed: float
    verdict: str
    speedup: float
    blocks: int
    tainted: int
    elapsed_s: float
    floor: float
    threads: int
    created: str


def file() -> Path:
    """Return where this machine's comparisons are kept: one line each."""
    return cache_folder() / "noise" / f"{fingerprint()['id']}.jsonl"


def trials(path: Path | None = None) -> list[Trial]:
    """Return the comparisons of this machine so far.

    Raises:
        CorruptFile: a line cannot be read.
    """
    path = path or file()
    lines = path.read_text().splitlines() if path.is_file() else []
    try:
        return [Trial(**json.loads(line)) for line in lines if line.strip()]
    except (ValueError, TypeError) as error:
        raise CorruptFile(
            f"{path} cannot be read ({error}): remove it and run 'quantkit selftest noise' again"
        ) from None


def keep(trial: Trial, path: Path | None = None) -> None:
    """Add a comparison, on the disk before anything goes on; a kill leaves no half line.

    Raises:
        StorageError: the folder cannot be written or the disk is full.
    """
    path = path or file()
    known = path.read_bytes() if path.is_file() else b""
    write_atomic(path, known + json.dumps(asdict(trial)).encode() + b"\n")


def noise_floor() -> float | None:
    """Return this machine's noise floor, relative; None where the self-test has not been run often enough.

    Raises:
        CorruptFile: the comparisons that are kept cannot be read.
    """
    return floor_of(trials())


def floor_of(found: Sequence[Trial]) -> float | None:
    """Return the noise floor from comparisons of equal sides, relative; None where they are too few.

    The effect that one in a hundred comparisons exceeds, from the median absolute deviation (the tails of few
    comparisons say little); at least 0.5 %.
    """
    effects = [abs(trial.speedup - 1) for trial in found if not trial.slowed and trial.speedup > 0]
    if len(effects) < ENOUGH:
        return None
    sigma = median(effects) / NormalDist().inv_cdf(0.75)
    return max(LEAST_FLOOR, sigma * NormalDist().inv_cdf(0.995))

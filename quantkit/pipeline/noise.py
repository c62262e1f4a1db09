"""The noise floor of this machine, from the comparisons of equal sides that `quantkit selftest noise` has kept."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import NormalDist, median
from typing import Any

from quantkit.environment import fingerprint
from quantkit.errors import CorruptFile, StorageError
from quantkit.files import cache_folder, storage_error, write_atomic

ENOUGH = 20  # comparisons of equal sides before a floor is derived from them
LEAST_FLOOR = 0.005
LIMIT_S = 60.0  # of a comparison, by default: what is cut earlier says less of the machine than of the limit
LEAST_BLOCKS = 8  # that count, as at the first look of a comparison


@dataclass(frozen=True)
class Trial:
    """One comparison of the self-test.

    Args:
        slowed: share by which the candidate was slowed: 0.0 for equal sides.
        speedup: the estimate; nan where there was none.
        limit_s: seconds that it might take.
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
    limit_s: float = LIMIT_S

    @property
    def estimated(self) -> bool:
        """Return whether there is an estimate: not where something disturbed nearly every block."""
        return self.speedup > 0

    @property
    def whole(self) -> bool:
        """Return whether it says something of the machine: decided, or undecided after all the time it should have."""
        ended = self.verdict != "inconclusive" or self.elapsed_s >= LIMIT_S
        return self.estimated and ended and self.limit_s >= LIMIT_S and self.blocks - self.tainted >= LEAST_BLOCKS


def file() -> Path:
    """Return where this machine's comparisons are kept: one line each."""
    return cache_folder() / "noise" / f"{fingerprint()['id']}.jsonl"


def trials(path: Path | None = None) -> list[Trial]:
    """Return the comparisons of this machine so far.

    Raises:
        CorruptFile: a line cannot be read.
        StorageError: the file cannot be opened.
    """
    path = path or file()
    try:
        lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
        return [_trial(json.loads(line)) for line in lines if line.strip()]
    except OSError as error:
        raise StorageError(f"{path} cannot be read: {error.strerror}; make it readable or remove it") from None
    except (ValueError, TypeError) as error:
        raise CorruptFile(
            f"{path} cannot be read ({error}): remove it and run 'quantkit selftest noise' again"
        ) from None


def _trial(fields: dict[str, Any]) -> Trial:
    found = Trial(**fields)
    words = ("verdict", "created")
    for name, value in asdict(found).items():
        right = isinstance(value, str if name in words else int | float) and not isinstance(value, bool)
        if not right or (name not in (*words, "speedup") and not math.isfinite(value)):
            raise ValueError(f"{name} is {value!r}")
    return found


def keep(trial: Trial, path: Path | None = None) -> None:
    """Add a comparison, on the disk before anything goes on; a kill leaves no half line.

    Raises:
        StorageError: the folder cannot be written or the disk is full.
    """
    path = path or file()
    try:
        known = path.read_bytes() if path.is_file() else b""
    except OSError as error:
        raise storage_error(error, path) from error
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
    comparisons say little); at least 0.5 %. Each number of threads has a floor of its own: this is the largest.
    Comparisons that were cut short or nearly all disturbed do not count.
    """
    effects: dict[int, list[float]] = {}
    for trial in found:
        if not trial.slowed and trial.whole:
            effects.setdefault(trial.threads, []).append(abs(trial.speedup - 1))
    sigmas = [median(these) / NormalDist().inv_cdf(0.75) for these in effects.values() if len(these) >= ENOUGH]
    return max(LEAST_FLOOR, max(sigmas) * NormalDist().inv_cdf(0.995)) if sigmas else None

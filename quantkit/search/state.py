"""What a search leaves on the disk: its steps, and the best artifact so far. Whole after a kill at any moment."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from quantkit.errors import StorageError
from quantkit.files import write_atomic

STATE, BUILDING = "search.json", "building"


@dataclass(frozen=True)
class Step:
    """One plan that was built and judged.

    Args:
        choices: unit -> name of its scheme.
        indices: unit by unit, the scheme's place among the candidates.
        predicted_loss: sum of the single losses.
        predicted_cost: of the artifact, in the budget's unit.
        cost: as measured on the artifact.
        transitions: changes of precision between layers that follow each other, in the plan.
        stored_transitions: the same, read from the artifact.
        verdict: of the judge.
        within: whether the measured cost is within the budget.
    """

    number: int
    choices: Mapping[str, str]
    indices: tuple[int, ...]
    predicted_loss: float
    predicted_cost: float
    cost: float
    transitions: int
    stored_transitions: int
    verdict: dict[str, Any]
    within: bool

    @property
    def holds(self) -> bool:
        """Within the budget, and the requirement shown."""
        return self.within and bool(self.verdict["holds"])

    @property
    def rank(self) -> tuple[bool, bool, float]:
        """What makes a step better than another: the budget, then the requirement, then quality or fidelity."""
        kept = self.verdict["kept"]
        return self.within, bool(self.verdict["holds"]), self.verdict["sqnr_db"] if kept is None else kept


@dataclass
class State:
    """All that a search knows; `widest` is what the most precise artifact takes, `overhead` what besides its layers."""

    key: str
    widest: float | None = None
    overhead: float = 0.0
    steps: list[Step] = field(default_factory=list)
    forbidden: list[tuple[int, int]] = field(default_factory=list)
    best: int | None = None
    ended: str = ""


def read(folder: Path, key: str) -> State:
    path = folder / STATE
    if not path.is_file():
        return State(key)
    raw = json.loads(path.read_text())
    if raw["key"] != key:
        return State(key)
    steps = [Step(**{**step, "indices": tuple(step["indices"])}) for step in raw["steps"]]
    forbidden = [(unit, scheme) for unit, scheme in raw["forbidden"]]
    return replace(State(**raw), steps=steps, forbidden=forbidden)


def write(folder: Path, state: State) -> None:
    raw = asdict(state)
    write_atomic(folder / STATE, json.dumps(raw, indent=1).encode())


class workshop:
    """An empty folder to build in, beside the best artifact; what is not published goes away."""

    def __init__(self, folder: Path):
        self._place = folder / BUILDING

    def __enter__(self) -> Path:
        shutil.rmtree(self._place, ignore_errors=True)
        try:
            self._place.mkdir(parents=True)
        except OSError as error:
            raise StorageError(f"cannot write {self._place}: {error.strerror}; choose a writable folder") from error
        return self._place

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self._place, ignore_errors=True)


def repair(best: Path) -> None:
    """Bring the best artifact back where a search was killed between the two renames."""
    old = best.with_name(best.name + ".old")
    if old.exists() and not best.exists():
        old.replace(best)


def publish(made: Path, best: Path) -> None:
    """Put an artifact in the best one's place: copied beside it, then swapped by two renames."""
    fresh, old = best.with_name(best.name + ".new"), best.with_name(best.name + ".old")
    for folder in (fresh, old):
        shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(made, fresh)
    if best.exists():
        best.replace(old)
    fresh.replace(best)
    shutil.rmtree(old, ignore_errors=True)

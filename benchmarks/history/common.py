"""What the classes share: which cases, and how their artifacts come from the pipeline's cache.

A few small cases by default; QUANTKIT_HISTORY asks for others, e.g. "profile=regular models=fmnist_cnn,fmnist_vit".
"""

import os
from collections.abc import Callable
from functools import cache
from itertools import cycle, islice
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from quantkit.catalog import BACKENDS, DATASETS, MODELS, TARGETS
from quantkit.contracts import steps
from quantkit.errors import InvalidSetting
from quantkit.history.figures import VERSION
from quantkit.pipeline.artifact import artifact
from quantkit.pipeline.crew import Crew
from quantkit.pipeline.execute import Run, execute_group
from quantkit.pipeline.inside import INPUTS
from quantkit.pipeline.plan import plan
from quantkit.pipeline.settings import Settings
from quantkit.pipeline.store import Store
from quantkit.records import Case, Result

FEW = "models=fmnist_cnn methods=fp32,int8_dynamic,int8_static backends=onnxruntime targets=cpu"
FAMILIES = ("models", "methods", "backends", "targets")
KNOWN = (*FAMILIES, "profile", "items")


def asked() -> dict:
    """Return what is asked for: `profile`, `items` and, by family, the names."""
    parts = [word.partition("=") for word in os.environ.get("QUANTKIT_HISTORY", FEW).split()]
    words = {name: value for name, _, value in parts}
    for name in words:
        if name not in KNOWN or not words[name]:
            raise InvalidSetting(f"QUANTKIT_HISTORY: got '{name}', expected e.g. models=a,b; known: {', '.join(KNOWN)}")
    return words


@cache
def planned() -> dict[str, Case]:
    """Return the cases that can run here, by id: those that pytest would run and time."""
    words = asked()
    names = {family: words[family].split(",") if family in words else None for family in FAMILIES}
    cells = plan(names.pop("models"), names.pop("methods"), **names, profile=words.get("profile", "fast"))
    return {cell.case.id: cell.case for cell in cells if not cell.reason and not cell.untimed}


def settings(**changes) -> Settings:
    """Return the profile's settings, with the items that were asked for."""
    words = asked()
    return Settings.of(words.get("profile", "fast"), items=int(words["items"]) if "items" in words else None, **changes)


@cache
def result_of(name: str, rounds: int = 0) -> Result:
    """Return the result of a case, executed as by pytest, in a results file that goes away; artifacts are kept."""
    with TemporaryDirectory() as folder, Crew(size=1) as crew:
        run = Run(settings(rounds=rounds), Store(Path(folder) / "results.db"), crew, lambda _: None)
        found = next(r for r in execute_group([planned()[name]], run) if r.case.id == name)
    if not found.measured:
        raise RuntimeError(f"{name}: {found.status}: {found.reason}")
    return found


@cache
def opened(name: str) -> tuple[Callable[[], None], Callable[[], None]]:
    """Load the artifact of a case; return a call that answers the next of a few items, and the wait for its target.

    Each item was answered once before, so that no call is the first.
    """
    case = planned()[name]
    target, model = TARGETS.get(case.target), MODELS.get(case.model)
    folder = artifact(case, settings(), lambda _: None).folder
    session = target.attach(BACKENDS.get(case.backend).open(folder, target, settings().threads), case)
    split = DATASETS.get(model.info.dataset).evaluation(INPUTS)
    items = islice(steps(split.item(0)), INPUTS) if model.info.stepwise else map(split.item, range(len(split)))
    fed = [session.feed(tuple(map(np.ascontiguousarray, item))) for item in items]
    for item in fed:
        session.run(item)
    following = cycle(fed)
    return lambda: session.run(next(following)), target.synchronize


class OfCases:
    """One parameter, the case; `version` stands for what the figures mean: an edited comment starts no new history."""

    params = [list(planned())]
    param_names = ["case"]
    version = VERSION

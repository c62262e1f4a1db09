"""What goes into an artifact, an evaluation and a result: equal keys mean that the work need not be done again."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from quantkit.catalog import BACKENDS, DATASETS, METHODS, METRICS, MODELS, TARGETS
from quantkit.environment import fingerprint
from quantkit.extras import TABLE, version
from quantkit.pipeline.cache import digest
from quantkit.pipeline.energy import metered
from quantkit.pipeline.settings import Settings
from quantkit.pipeline.sources import source_hash
from quantkit.records import Case
from quantkit.targets.simulated import VARIABLE

PACKAGE = Path(__file__).parents[1]


def artifact_key(case: Case, settings: Settings) -> str:
    """Return the hash of all that goes into a case's artifact; of the target only the processor it is compiled for."""
    model, method, backend = MODELS.get(case.model), METHODS.get(case.method), BACKENDS.get(case.backend)
    dataset = DATASETS.get(model.info.dataset)
    files = [MODELS.file(case.model), METHODS.file(case.method), BACKENDS.file(case.backend)]
    files += (DATASETS.file(dataset.info.name), PACKAGE / "pipeline" / "inside.py")
    carried = {
        distribution: version(distribution) for distribution, extra in TABLE.values() if extra in model.info.extras
    }
    return digest(
        {
            "model": asdict(model.info),
            "sources": source_hash(*files),
            "scheme": asdict(method.scheme),
            "data": dict(dataset.info.sha256),
            "calibration": settings.calibration if method.needs_calibration else 0,
            **({"items": settings.items_for(method)} if hasattr(method, "calibration_items") else {}),
            "versions": carried | dict(backend.versions()),
            "processor": [fingerprint()[part] for part in ("system", "processor", "features")],
            "threads": settings.threads,
        }
    )


def evaluation_key(case: Case, settings: Settings) -> str:
    """Return the hash of all that goes into a case's answers: targets with one executor share them."""
    executor = BACKENDS.get(case.backend).executor(case.target)
    return digest([artifact_key(case, settings), executor, *_evaluated(case.model, settings)])


def original_key(model: str, settings: Settings) -> str:
    """Return the hash of all that goes into the answers of the original network, in PyTorch."""
    info = asdict(MODELS.get(model).info)
    return digest([info, source_hash(MODELS.file(model)), version("torch"), *_evaluated(model, settings)])


def _evaluated(model: str, settings: Settings) -> list[Any]:
    """Return what decides which items are answered and how answers are judged."""
    dataset = DATASETS.get(MODELS.get(model).info.dataset)
    few = dataset.info.fast_items if settings.few_items else "all"
    files = [DATASETS.file(dataset.info.name), *(PACKAGE / "numerics").glob("*.py"), PACKAGE / "pipeline" / "inside.py"]
    return [few if settings.items is None else settings.items, dict(dataset.info.sha256), source_hash(*files)]


def result_key(case: Case, settings: Settings) -> str:
    """Return the hash of all that goes into a result: answers, how time is taken, and the machine."""
    timing_files = (PACKAGE / "pipeline" / "trial.py", *(PACKAGE / "state").glob("*.py"))
    sources = source_hash(*(METRICS.file(name) for name in METRICS.names()), *timing_files)
    timing = (settings.rounds, settings.round_s, settings.warmup_s, settings.most_calls, settings.seed)
    told = os.environ.get(VARIABLE, "") if TARGETS.get(case.target).simulated else ""
    parts = [case.id, evaluation_key(case, settings), sources, timing, told, fingerprint()["id"]]
    meter = metered(case.target) if settings.rounds else ""
    return digest([*parts, *([meter] if meter else [])])  # a meter that can be read from today on is read

"""Writes finished artifacts as the folders that `quantkit export` writes, and opens those again."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np

from quantkit.catalog import MODELS
from quantkit.deploy import export, manifest
from quantkit.deploy.request import Request, Subject
from quantkit.engines.job import Job, Made
from quantkit.engines.quantized import QuantizedModel
from quantkit.pipeline.inside import OUTPUTS

COMPARED = 64  # items that go into the manifest's fidelity


def write(job: Job, made: Made, place: Path, title: str) -> Path:
    """Write an artifact with its manifest and golden data to `place`, which may be an older export of ours.

    Raises:
        StorageError: it cannot be written; InvalidSetting: it is something else than an export of ours.
    """
    case, info = made.case, MODELS.get(made.case.model).info
    request = Request(Subject(case.model), case.method, case.backend, job.settings)
    answers = answers_of(job, made)
    report = manifest.with_ends(made.report, job.items.names, answers)
    with export.whole(place, force=True) as folder:
        copy(made.folder, folder / manifest.ARTIFACT)
        facts = manifest.assemble(request, info, report, answers)
        facts |= {"method": title, "face": {"names": list(job.items.names), "inputs": faces(job)}}
        manifest.write_golden(folder, facts, answers)
        manifest.write(folder, facts)
    return place


def faces(job: Job) -> list[dict[str, object]]:
    """Return shape and type of each input as the network takes it (an artifact may take int32 for its int64)."""
    return [{"shape": list(x.shape), "dtype": str(x.dtype)} for x in job.example]


def answers_of(job: Job, made: Made) -> dict[str, np.ndarray]:
    """Return inputs and both answers of the first judged items, [items, 1, ...], as manifests want them."""
    original, arm = made.arms
    assert original.answered is not None and arm.answered is not None
    answers = {"reference": original.answered.folder, "outputs": arm.answered.folder}
    arrays = {name: np.load(folder / OUTPUTS)[:COMPARED, None] for name, folder in answers.items()}
    columns = {f"x{i}": x[: len(arrays["outputs"]), None, None] for i, x in enumerate(job.items.evaluation.inputs)}
    return columns | arrays


def copy(artifact: Path, place: Path) -> None:
    """Copy an artifact out of the cache, without the cache's own manifest."""
    shutil.copytree(artifact, place)
    (place / "manifest.json").unlink()


def load(folder: Path | str) -> QuantizedModel:
    """Return the model that `QuantizationController.quantize_model` wrote to a folder, every file checked first.

    Raises:
        CorruptFile: a file is missing or not the one that was written; or it is an export without a network's face.
        HardwareCompatibilityError: it was compiled for another processor.
    """
    folder = Path(folder)
    facts = manifest.check(folder)
    face = facts.get("face") or {"names": [], "inputs": facts["inputs"]}
    example = tuple(np.zeros(x["shape"], x["dtype"]) for x in face["inputs"])
    backend, names, threads = facts["backend"]["name"], face["names"], facts["threads"]
    return QuantizedModel(folder / manifest.ARTIFACT, backend, example=example, names=names, threads=threads)

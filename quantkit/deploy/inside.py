"""The three jobs of an export, each in a process of its own: answer by the original, build, answer by the artifact.

Items travel in one file: array `x<i>` holds input i as [items, calls, ...]; a plain model has one call an item.
"""

from __future__ import annotations

import pickle
import shutil
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from quantkit.catalog import BACKENDS, METHODS, TARGETS
from quantkit.contracts import Arrays, ModelInfo, Session
from quantkit.deploy import source
from quantkit.deploy.manifest import NATIVE
from quantkit.deploy.request import Request, Subject
from quantkit.errors import Unsupported
from quantkit.pipeline.settings import Settings
from quantkit.procedures.calibration import check as calibration_doubts
from quantkit.records import Case

REFERENCE, ITEMS, OUTPUTS = "reference.npy", "items.npz", "outputs.npy"
DATA = "data.pickle"  # ours, made a moment ago in a folder of ours


def original(subject: Subject, folder: Path, settings: Settings, calibrated: int) -> dict[str, Any]:
    """Run the original in PyTorch, eager float32, on the items; keep items, answers and data; describe the model."""
    import torch

    torch.set_num_threads(settings.threads)
    network, data = source.network_of(subject), source.data_of(subject, calibrated)
    info = source.info_of(subject, network)
    answers = [_by_network(network, item, subject, stepwise=info.stepwise) for item in data.items]
    np.save(folder / REFERENCE, np.stack(answers))
    columns = [
        np.stack([np.stack([call[i] for call in item]) for item in data.items]) for i in range(len(data.example))
    ]
    np.savez(folder / ITEMS, allow_pickle=False, **{f"x{i}": column for i, column in enumerate(columns)})
    (folder / DATA).write_bytes(pickle.dumps((data.example, data.calibration)))
    return {"info": info, "items": len(data.items), "names": data.names}


def _by_network(network: Any, item: Any, subject: Subject, *, stepwise: bool) -> np.ndarray:
    """Return the network's answer to one item; that of a stepwise one starts with an empty state."""
    import torch

    for name in network.states if stepwise else ():
        network.get_buffer(name).zero_()
    outputs = []
    for call in item:
        try:
            with torch.inference_mode():
                output = network(*(torch.from_numpy(x.copy()) for x in call))
        except (RuntimeError, TypeError, ValueError, IndexError) as error:
            text = " ".join(str(error).split())[:300]
            raise Unsupported(f"{subject.model} refuses the inputs {source.sizes(call)}: {text}") from error
        if not isinstance(output, torch.Tensor):
            kind = type(output).__name__
            raise Unsupported(f"{subject.model} returns {kind}: wrap it in a module that returns one tensor")
        outputs.append(output.float().numpy())
    return _joined(outputs)


def _joined(outputs: list[np.ndarray]) -> np.ndarray:
    return outputs[0] if len(outputs) == 1 else np.concatenate(outputs, axis=1)


def build(request: Request, given: Path, folder: Path) -> dict[str, Any]:
    """Prepare and lower the network into `folder`; return the build report."""
    started = time.perf_counter()
    example, calibration = pickle.loads((given / DATA).read_bytes())
    method, backend = METHODS.get(request.method), BACKENDS.get(request.backend)
    if hasattr(method, "for_backend"):
        method = method.for_backend(backend)
    network = source.network_of(request.subject)
    prepared = method.prepare(network, example, calibration if method.needs_calibration else None)
    report = backend.build(prepared, folder, request.settings.threads)
    said = save_native(request, folder.parent / NATIVE)
    doubts = calibration_doubts(calibration) if method.needs_calibration and calibration else ()
    report = replace(report, notes=(*report.notes, *said, *doubts))
    return {"report": asdict(report), "elapsed_s": time.perf_counter() - started}


def save_native(request: Request, folder: Path) -> tuple[str, ...]:
    """Write the network in the form that the toolchain's own library loads, where there is one; return a note on it.

    It is for networks of transformers (the network itself, or one that it wraps) and for decoders that mlx-lm knows.
    """
    save = getattr(BACKENDS.get(request.backend), "save_native", None)
    if save is None:
        return ()
    network = source.network_of(request.subject)
    inner = next((module for module in network.modules() if hasattr(module, "save_pretrained")), network)
    folder.mkdir()
    try:
        return (f"native/: {save(inner, METHODS.get(request.method).scheme, folder)}",)
    except Unsupported:  # no network of that library, or a scheme that it does not save
        shutil.rmtree(folder)
        return ()


def answer(request: Request, info: ModelInfo, given: Path, artifact: Path, kept: Path) -> None:
    """Open the finished artifact, answer every item and keep the answers."""
    case = Case(request.subject.model, request.method, request.backend, request.target)
    target = TARGETS.get(request.target)
    session = BACKENDS.get(request.backend).open(artifact, target, request.settings.threads)
    session = target.attach(session, case)
    with np.load(given / ITEMS) as file:
        columns = [file[f"x{i}"] for i in range(len(file.files))]
    answers = [_by_session(session, [x[item] for x in columns], info.stepwise) for item in range(len(columns[0]))]
    session.close()
    np.save(kept / OUTPUTS, np.stack(answers))


def _by_session(session: Session, columns: list[np.ndarray], stepwise: bool) -> np.ndarray:
    """Return the artifact's answer to one item, [n, ...]: one call, or one call a position with the state kept."""
    if stepwise:
        session.reset()  # type: ignore[attr-defined]  # the plan gives stepwise models to stateful backends only
    calls: list[Arrays] = [tuple(np.array(x[i], order="C") for x in columns) for i in range(len(columns[0]))]
    return _joined([session.fetch(session.run(session.feed(call))) for call in calls])

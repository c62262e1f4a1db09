"""The state of a training after an epoch, written whole or not at all, so that a cut training goes on as if uncut."""

from __future__ import annotations

import hashlib
import io
import pickle
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from quantkit.contracts import Plan, Split
from quantkit.errors import CorruptFile
from quantkit.files import sha256_of, write_atomic
from quantkit.procedures.qat_settings import Training

CODE = (
    "layers",
    "qat",
    "qat_data",
    "qat_fake",
    "qat_graph",
    "qat_coreml",
    "qat_loss",
    "qat_settings",
)  # what decides the weights


def place(folder: Path, network: nn.Module, plan: Plan, items: Split, training: Training, aim: str) -> Path:
    """Return the file of a training's state in a folder of many: named by a hash of all that decides the result.

    Args:
        aim: what is minimized: the name of the task's loss and what the outputs are.
    """
    told = (plan.default, sorted(plan.layers.items()), sorted(asdict(training).items()), aim, torch.__version__)
    found = hashlib.sha256(repr(told).encode())
    for name in CODE:
        found.update(sha256_of(Path(__file__).with_name(f"{name}.py")).encode())
    for name, value in network.state_dict().items():
        found.update(name.encode() + value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    for array in (*items.inputs, items.targets):
        found.update(np.ascontiguousarray(array).tobytes())
    return folder / f"{found.hexdigest()[:32]}.pt"


def save(path: Path, state: Mapping[str, Any]) -> None:
    """Write the checkpoint.

    Raises:
        StorageError: the folder cannot be written or the disk is full.
    """
    buffer = io.BytesIO()
    torch.save(dict(state), buffer)
    write_atomic(path, buffer.getvalue())


def load(path: Path) -> dict[str, Any] | None:
    """Return the checkpoint, or None where there is none.

    Raises:
        CorruptFile: it cannot be read.
    """
    if not path.is_file():
        return None
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, OSError, ValueError, LookupError, pickle.UnpicklingError) as error:
        kind = type(error).__name__
        raise CorruptFile(f"{path} cannot be read ({kind}): delete it to train from the start") from error
    return state

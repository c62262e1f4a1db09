"""A toolchain's refusals in one line, and the warnings of torch about its own code."""

from __future__ import annotations

import contextlib
import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn

from quantkit.errors import Unsupported


def export(network: nn.Module, example: tuple[torch.Tensor, ...]) -> torch.export.ExportedProgram:
    """Return the network's graph for inputs of the example's shapes.

    Raises:
        Unsupported: the graph depends on values of the data, or the tracer does not know an operation.
    """
    with refusing("torch.export cannot trace"):
        return torch.export.export(network, example)


@contextlib.contextmanager
def refusing(what: str) -> Iterator[None]:
    """Turn a toolchain's refusal, which may be any exception (the model's own code runs in it), into one line."""
    try:
        yield
    except (OSError, MemoryError):  # a full disk or memory says nothing about the model
        raise
    except Exception as error:
        message = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise Unsupported(f"{what} {_place(error)}: {type(error).__name__}: {message[:300]}") from error


def _place(error: Exception) -> str:
    """Return class, file and line of the model's own code that the error came from."""
    ours = str(Path(torch.__file__).parent), str(Path(__file__).parent), "<"
    place = "the network"
    for frame, line in traceback.walk_tb(error.__traceback__):
        file = frame.f_code.co_filename
        if not file.startswith(ours) and "torchao" not in file and "contextlib" not in file:
            owner = type(frame.f_locals["self"]).__name__ if "self" in frame.f_locals else frame.f_code.co_name
            place = f"{owner} ({Path(file).name}:{line})"
    return place


@contextlib.contextmanager
def without_known_warnings() -> Iterator[None]:
    """Hide what torch says about its own code on every build, and nothing else."""
    with warnings.catch_warnings():
        for message, category in (
            (r"The tensor attributes? .*_flat_weights.* assigned during export", UserWarning),  # every nn.LSTM
            (r"To copy construct from a tensor, it is recommended", UserWarning),  # inductor's own mkldnn_lowerings
            (r"`isinstance\(treespec, LeafSpec\)` is deprecated", FutureWarning),  # torch's own copy of a treespec
        ):
            warnings.filterwarnings("ignore", message, category)
        yield

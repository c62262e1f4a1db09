"""Loads a network to export, of the zoo or a user's own, with its example, calibration and comparison items.

Runs inside a job's own process: a user's module is imported and called here only.
"""

from __future__ import annotations

import importlib
import sys
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from quantkit.backends import _litert_source
from quantkit.catalog import DATASETS, MODELS
from quantkit.contracts import Arrays, ModelInfo, Quality, Split, steps
from quantkit.deploy.request import Shape, Subject
from quantkit.errors import CalibrationError, InvalidSetting, QuantizationError, Unsupported
from quantkit.pipeline.inside import INPUTS, check_calibration

if TYPE_CHECKING:
    from torch import nn

Sequences = Sequence[Sequence[Arrays]]  # items, each one call, or one call a position of a stepwise model
ITEMS, STEPWISE_ITEMS = 64, 4
SEED = 0
KINDS = {"Conv1d": "conv1d", "Conv2d": "conv2d", "Conv3d": "conv3d", "Linear": "linear", "Embedding": "embedding",
         "LSTM": "lstm", "GRU": "gru", "RNN": "rnn"}  # fmt: skip


@dataclass(frozen=True)
class Data:
    """Inputs of one call, the items that original and artifact are compared on, and what a static method calibrates on.

    Args:
        names: of the inputs, where the user gave them; else empty.
    """

    example: Arrays
    items: Sequences
    calibration: Split | None
    names: tuple[str, ...] = ()


def network_of(subject: Subject) -> nn.Module:
    """Return the network, in eval mode, float32, all weights finite.

    Raises:
        QuantizationError: the factory cannot be imported or called, or gives no usable network.
    """
    if not subject.own:
        return MODELS.get(subject.model).load()
    if subject.saved:
        return _litert_source.network(Path(subject.model))
    from torch import nn

    network = called(subject.model)
    if not isinstance(network, nn.Module):
        raise QuantizationError(f"{subject.model} must return a torch.nn.Module: got {type(network).__name__}")
    for name, tensor in (*network.named_parameters(), *network.named_buffers()):
        if tensor.is_floating_point() and str(tensor.dtype) != "torch.float32":
            raise Unsupported(f"weight {name} of {subject.model} is {tensor.dtype}: return network.float()")
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise QuantizationError(f"weight {name} of {subject.model} holds nan or inf: the network is not usable")
    return network.eval()


def called(name: str) -> Any:
    """Return what `package.module:function` returns; the working directory is searched too.

    Raises:
        QuantizationError: it cannot be imported, or raises; the message has its name and its error.
    """
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    module, _, function = name.partition(":")
    try:
        found: Callable[[], Any] = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError, SyntaxError) as error:
        raise QuantizationError(f"{name} cannot be imported: {_said(error)}") from error
    try:
        return found()
    except Exception as error:
        # Whatever a user's function raises, it must be clear that it was theirs.
        raise QuantizationError(f"{name} raised {_said(error)}") from error


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def info_of(subject: Subject, network: nn.Module) -> ModelInfo:
    """Return the description of the model: the zoo's, or one read off an own network's layers."""
    if not subject.own:
        return MODELS.get(subject.model).info
    found = shares(network)
    return ModelInfo(
        name=subject.model,
        title=subject.title,
        family=family(network, found),
        domain="vision",
        dataset="",
        quality=Quality("none", "none"),
        sources=(),
        licence="not stated",
        provenance=f"{subject.model}, a network of the user's own",
        layers=("conv2d", "linear") if subject.saved else tuple(found),  # TensorFlow's are read from the artifact
        logits=bool(subject.labels),
        labels=subject.labels,
    )


def shares(network: nn.Module) -> dict[str, float]:
    """Return kind of layer -> its share of all weights in matrices (two or more axes)."""
    counts: dict[str, int] = {}
    for module in network.modules():
        own = sum(p.numel() for p in module.parameters(recurse=False) if p.ndim > 1)
        if own:
            names = [one.__name__ for one in type(module).__mro__]  # a class derived from Linear is one
            kind = next((KINDS[name] for name in names if name in KINDS), names[0].lower())
            counts[kind] = counts.get(kind, 0) + own
    total = sum(counts.values())
    return {kind: count / total for kind, count in counts.items()}


def family(network: nn.Module, shares: dict[str, float]) -> Any:
    """Return the family that most weights belong to: backends refuse by it what would leave nearly all in float."""
    if sum(shares.get(kind, 0) for kind in ("lstm", "gru", "rnn")) > 0.5:
        return "rnn"
    if sum(share for kind, share in shares.items() if kind.startswith("conv")) > 0.5:
        return "cnn"
    attention = any("attention" in type(module).__name__.lower() for module in network.modules())
    return "transformer" if attention else "mixed"


def data_of(subject: Subject, calibrated: int) -> Data:
    """Return the data that goes with the model; `calibrated` is the number of calibration items, 0 for none.

    Raises:
        CalibrationError: a method needs calibration data and there is none, or it cannot be used.
    """
    if not subject.own:
        return _zoo(subject, calibrated)
    example, names = _example(subject)
    split = _calibration(subject, example, names) if subject.calibration else None
    if calibrated and split is None:
        raise CalibrationError(
            f"this method takes ranges from calibration data and {subject.model} has none: "
            "--calibration FILE.npz with one array [items, ...] for each input"
        )
    rows = [] if split is None else [[split.item(i)] for i in range(min(len(split), ITEMS - 1))]
    return Data(example, [[example], *rows], split, names)


def _zoo(subject: Subject, calibrated: int) -> Data:
    info = MODELS.get(subject.model).info
    dataset = DATASETS.get(info.dataset)
    split = dataset.evaluation(max(INPUTS, STEPWISE_ITEMS if info.stepwise else ITEMS))
    count = min(len(split), STEPWISE_ITEMS if info.stepwise else ITEMS)
    items = [list(steps(split.item(i))) if info.stepwise else [split.item(i)] for i in range(count)]
    if calibrated and subject.calibration:
        return Data(items[0][0], items, _calibration(subject, items[0][0], ()))
    return Data(items[0][0], items, dataset.calibration(calibrated) if calibrated else None)


def _example(subject: Subject) -> tuple[Arrays, tuple[str, ...]]:
    if subject.shapes:
        return tuple(_made_up(s, seed) for seed, s in enumerate(subject.shapes)), tuple(s.name for s in subject.shapes)
    if subject.example.endswith(".npz"):
        found = _arrays(Path(subject.example), InvalidSetting)
        return tuple(found.values()), tuple(found)
    value = called(subject.example)
    parts = value if isinstance(value, (tuple, list)) else (value,)
    arrays = tuple(np.array(p.detach().numpy() if hasattr(p, "detach") else p, order="C") for p in parts)
    if not arrays or any(array.dtype == object for array in arrays):
        kinds = ", ".join(type(part).__name__ for part in parts) or "nothing"
        raise InvalidSetting(f"{subject.example} must return a tuple of arrays or tensors: got {kinds}")
    return arrays, ()


def _made_up(shape: Shape, seed: int) -> np.ndarray:
    """Return values of a normal distribution, the same at every call; zeros where the type is an integer."""
    if "float" not in shape.dtype:
        return np.zeros(shape.shape, shape.dtype)
    return np.random.default_rng([SEED, seed]).standard_normal(shape.shape).astype(shape.dtype)


def _calibration(subject: Subject, example: Arrays, names: tuple[str, ...]) -> Split:
    """Return the calibration items of a file: arrays in the order of the inputs, or by the inputs' names."""
    assert subject.calibration is not None
    found = _arrays(subject.calibration, CalibrationError)
    arrays = [found[n] for n in names] if names and set(names) == set(found) else list(found.values())
    if len(arrays) != len(example):
        raise CalibrationError(
            f"{subject.calibration} has {len(arrays)} arrays for {len(example)} inputs: one for each"
        )
    for name, array, one in zip(found, arrays, example):
        if one.ndim == 0 or one.shape[0] != 1:
            shape = list(one.shape)
            raise CalibrationError(f"calibration goes item by item, so the first axis of each input is 1: got {shape}")
        if array.ndim != one.ndim or array.shape[1:] != one.shape[1:] or array.dtype != one.dtype:
            got, expected = f"{array.dtype} {list(array.shape)}", f"{one.dtype} {['n', *one.shape[1:]]}"
            raise CalibrationError(f"calibration array {name!r} is {got}, expected {expected}".replace("'n'", "n"))
    split = Split(tuple(arrays), np.zeros(len(arrays[0])), tuple(f"row {i}" for i in range(len(arrays[0]))))
    check_calibration(split)
    return split


def _arrays(path: Path, error: type[QuantizationError]) -> dict[str, np.ndarray]:
    """Return the arrays of an .npz file by name, in its order."""
    try:
        with np.load(path) as file:
            return {name: np.array(file[name], order="C") for name in file.files}
    except (OSError, ValueError, zipfile.BadZipFile, AttributeError) as caught:
        text = " ".join(str(caught).split()) or type(caught).__name__
        raise error(f"{path} cannot be read as an .npz file of arrays: {text}") from caught


def sizes(example: Arrays) -> str:
    """Return the inputs in words: `float32 [1, 8], int64 [1, 128]`."""
    return ", ".join(f"{x.dtype} {list(x.shape)}" for x in example) or "nothing"

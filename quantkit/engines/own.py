"""Lends a user's network, items and plan to the catalog, so that the pipeline treats them like the zoo's.

A live network cannot be named to another process, so it travels as a pickle (by cloudpickle, which also takes classes
of notebooks, scripts and functions). A folder gets three small plug-in files, each with its pickle beside it; the
pipeline's processes find them through QUANTKIT_PLUGINS, this process through `Catalog.lend`. Names hold the hash of
content and behaviour, so equal networks and data share the pipeline's cache.
"""

from __future__ import annotations

import hashlib
import pickle
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import torch
from torch import nn

from quantkit.contracts import Arrays, DatasetInfo, ModelInfo, Plan, Prepared, Profile, Quality, Split
from quantkit.deploy import source
from quantkit.engines.loader import Items
from quantkit.errors import QuantizationError
from quantkit.numerics import outcomes
from quantkit.pipeline.cache import digest
from quantkit.scheme import Scheme

PROBED = 8  # items whose answers tell two networks of equal weights apart
FILE = '"""{what}, lent to the catalog while it is quantized; may be deleted. Content {key}."""\n\n' + (
    "from quantkit.engines import own\n\nplugin = own.read(__file__)\n"
)


@dataclass(frozen=True)
class OwnModel:
    """A user's network (satisfies `contracts.Model`)."""

    info: ModelInfo
    file: Path

    def load(self) -> nn.Module:
        """Return a fresh copy, in eval mode."""
        network: nn.Module = unpacked(self.file.with_suffix(".network"))
        return network.eval()

    def outcomes(self, outputs: np.ndarray, targets: np.ndarray) -> np.ndarray:
        """Return one outcome per item, [n]: right or wrong, or the mean squared error."""
        if self.info.quality.outcome == "binary":
            return outcomes.top1(outputs, targets)
        errors = (outputs - targets.reshape(outputs.shape)) ** 2
        return np.asarray(errors.reshape(len(errors), -1).mean(axis=1), np.float64)


@dataclass(frozen=True)
class OwnData:
    """A user's items (satisfies `contracts.Dataset`)."""

    info: DatasetInfo
    file: Path

    @cached_property
    def _splits(self) -> tuple[Split, Split]:
        splits: tuple[Split, Split] = unpacked(self.file.with_suffix(".items"))
        return splits

    def evaluation(self, limit: int | None = None) -> Split:
        """Return the items that the result is judged on."""
        return _first(self._splits[1], limit)

    def calibration(self, limit: int | None = None) -> Split:
        """Return the items that ranges are taken from."""
        return _first(self._splits[0], limit)


@dataclass(frozen=True)
class OwnMethod:
    """A plan that was decided here, and the weights it was decided with (satisfies `contracts.Method`).

    Args:
        scheme: the plan's default: what the method is called in tables.
    """

    name: str
    title: str
    scheme: Scheme
    needs_calibration: bool
    file: Path
    baseline: bool = False
    profiles: tuple[Profile, ...] = ()

    def unsupported(self, model: ModelInfo) -> str | None:
        """Refuse nothing: it was made for the model."""
        return None

    def prepare(self, network: nn.Module, example: Arrays, calibration: Split | None) -> Prepared:
        """Return the network, with the weights that were trained for the plan where there are such."""
        plan, trained = unpacked(self.file.with_suffix(".plan"))
        return Prepared(network if trained is None else trained.eval(), plan, example, calibration)


def _first(split: Split, limit: int | None) -> Split:
    if limit is None or limit >= len(split):
        return split
    return replace(
        split, inputs=tuple(x[:limit] for x in split.inputs), targets=split.targets[:limit], ids=split.ids[:limit]
    )


def read(file: str) -> Any:
    """Return the plug-in that stands in a lent file; what is large is read when it is used."""
    made, facts = unpacked(Path(file).with_suffix(".about"))
    return made(**facts, file=Path(file))


def packed(thing: Any, path: Path) -> None:
    """Write a thing so that another process can read it, wherever its classes are defined.

    Raises:
        QuantizationError: something in it cannot be pickled.
    """
    try:
        blob = cloudpickle.dumps(thing)
    except Exception as error:
        # Attributes of a user's network raise whatever they like when they are pickled.
        said = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise QuantizationError(
            f"the model cannot be sent to the process that quantizes it ({said}): remove open files, locks and the like"
        ) from error
    path.write_bytes(pickle.dumps((sys.path, blob)))


def unpacked(path: Path) -> Any:
    """Return what `packed` wrote, its classes imported from where they were."""
    places, blob = pickle.loads(path.read_bytes())  # ours, made a moment ago in a folder of ours
    sys.path += [place for place in places if place not in sys.path]
    return pickle.loads(blob)


def lent(folder: Path, family: str, key: str, kind: Callable[..., Any], facts: dict[str, Any], **parts: Any) -> Path:
    """Write one plug-in's file and pickles below `folder`; return the file."""
    file = folder / family / f"own_{key[:12]}.py"
    file.parent.mkdir(exist_ok=True)
    for suffix, part in parts.items():
        packed(part, file.with_suffix(f".{suffix}"))
    packed((kind, facts), file.with_suffix(".about"))
    file.write_text(FILE.format(what=f"A user's own plug-in of {family}", key=key), encoding="utf-8")
    return file


def model_file(folder: Path, network: nn.Module, items: Items, answers: torch.Tensor, data: str) -> Path:
    """Write the plug-in of a network; `answers` are its own to the first items, `data` names its data set."""
    shares = source.shares(network)
    integers = not np.issubdtype(items.evaluation.inputs[0].dtype, np.floating)
    quality, logits = judged_by(answers, items)
    facts = ModelInfo(
        name="",
        title=type(getattr(network, "network", network)).__name__,
        family=source.family(network, shares),
        domain="text" if integers else "vision",
        dataset=data,
        quality=quality,
        sources=(),
        licence="not stated",
        provenance="a network of the user's own",
        layers=tuple(shares),
        profiles=(),
        logits=logits,
    )
    key = digest([network_key(network, answers), asdict(facts)])
    facts = replace(facts, name=f"own_{key[:12]}")
    return lent(folder, "zoo", key, OwnModel, {"info": facts}, network=network)


def data_file(folder: Path, items: Items) -> Path:
    """Write the plug-in of a user's items."""
    hashed = hashlib.sha256()
    for split in (items.calibration, items.evaluation):
        for array in (*split.inputs, split.targets):
            hashed.update(f"{array.dtype} {array.shape}".encode() + np.ascontiguousarray(array).tobytes())
    key = hashed.hexdigest()
    info = DatasetInfo(f"own_{key[:12]}", "the user's own items", "not stated", "the user's own", {"items": key})
    splits = (items.calibration, items.evaluation)
    return lent(folder, "datasets", key, OwnData, {"info": info}, items=splits)


def method_file(folder: Path, title: str, plan: Plan, trained: nn.Module | None = None) -> Path:
    """Write the plug-in of a plan, and of the weights that were trained for it."""
    weights = "" if trained is None else _weights(trained)
    key = digest([asdict(plan.default), {n: s and asdict(s) for n, s in plan.layers.items()}, weights])
    schemes = [plan.default, *(scheme for scheme in plan.layers.values() if scheme is not None)]
    facts = {
        "name": f"own_{key[:12]}",
        "title": title,
        "scheme": plan.default,
        "needs_calibration": any(s.activations == "static" or s.codes == "gptq" for s in schemes),
    }
    return lent(folder, "methods", key, OwnMethod, facts, plan=(plan, trained))


def judged_by(answers: torch.Tensor, items: Items) -> tuple[Quality, bool]:
    """Return how the network is judged, and whether its outputs are class scores.

    With integer targets [n] and outputs [n, classes]: right or wrong. With float targets of the outputs' size: squared
    error. Without usable targets: agreement with the original only.
    """
    targets, shape = items.evaluation.targets, answers.shape
    scores = len(shape) == 2 and shape[1] > 1
    if items.labelled and scores and targets.ndim == 1 and np.issubdtype(targets.dtype, np.integer):
        if ((targets >= 0) & (targets < shape[1])).all():
            return Quality("top1_accuracy", "binary"), True
    elif items.labelled and np.issubdtype(targets.dtype, np.floating) and targets[0].size == answers[0].numel():
        return Quality("mean_squared_error", "score", better="lower"), False
    return Quality("none", "none"), len(shape) > 1 and shape[-1] > 1


def network_key(network: nn.Module, answers: torch.Tensor) -> str:
    """Return the hash of weights, layers and answers: a changed forward of equal layers answers otherwise."""
    layers = [(name, type(m).__qualname__, m.extra_repr()) for name, m in network.named_modules()]
    here = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()
    return digest([here, layers, _weights(network), hashlib.sha256(answers.numpy().tobytes()).hexdigest()])


def _weights(network: nn.Module) -> str:
    hashed = hashlib.sha256()
    for name, tensor in sorted((*network.named_parameters(), *network.named_buffers()), key=lambda pair: pair[0]):
        hashed.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        hashed.update(tensor.detach().contiguous().numpy().tobytes())
    return hashed.hexdigest()

"""What a network's output loses when a single layer is quantized: layer by layer, scheme by scheme.

The loss is KL(softmax(original) || softmax(quantized)) where outputs are class scores, noise power over signal power
(1 / SQNR) where they are not, or a task's own quality. The first two grow with the square of a small error, so that
losses of layers whose errors are independent add up; `additivity` says how well that holds. The sums are what
`procedures.assign` minimizes (as HAWQ-V3 does with Hessian traces: Yao et al. 2021, arXiv:2011.10680).
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from quantkit.contracts import Arrays, Plan, Split
from quantkit.errors import Unsupported
from quantkit.files import write_atomic
from quantkit.numerics import fidelity
from quantkit.procedures import layers
from quantkit.scheme import PerGroup, Scheme

FLOAT = Scheme(32, "fp32")
VERSION = 2  # of what a kept loss means
Units = Mapping[str, tuple[str, ...]]  # a unit's name -> all layers that share its weights; one precision each
Say = Callable[[str], None]


@dataclass(frozen=True)
class Loss:
    """How outputs are compared: a name, and (original [n, ...], quantized [n, ...]) -> a number, 0 for equal ones."""

    name: str
    of: Callable[[np.ndarray, np.ndarray], float]


def _noise_to_signal(original: np.ndarray, quantized: np.ndarray) -> float:
    return 10 ** (-fidelity.sqnr_db(original, quantized) / 10)


KL = Loss("kl_divergence", fidelity.kl_divergence)
NOISE = Loss("noise_to_signal", _noise_to_signal)


def quality_loss(outcomes: Callable[[np.ndarray], np.ndarray], name: str, *, higher: bool) -> Loss:
    """Return a loss in a task's own quality: how much worse the mean outcome is (negative where it is better).

    Args:
        outcomes: outputs [n, ...] -> one outcome per item [n].
        name: what the outcome is called.
        higher: whether more is better.
    """
    sign = 1.0 if higher else -1.0
    return Loss(name, lambda original, quantized: sign * float(outcomes(original).mean() - outcomes(quantized).mean()))


def fitting_loss(outputs: np.ndarray, targets: np.ndarray) -> Loss:
    """Return `KL` where targets are indices into the outputs' last axis, as class scores have them, else `NOISE`."""
    whole = np.issubdtype(targets.dtype, np.integer) and targets.size > 0
    if whole and outputs.shape[:-1] == targets.shape and targets.min() >= 0 and targets.max() < outputs.shape[-1]:
        return KL
    return NOISE


@dataclass(frozen=True)
class Sensitivities:
    """The losses of all units and schemes.

    Args:
        loss: name of the loss.
        units: unit -> its layers, in the order in which the network first calls them.
        schemes: the candidates.
        losses: [units, schemes]; nan where a scheme cannot be simulated.
        items: how many items they are measured on.
    """

    loss: str
    units: Units
    schemes: tuple[Scheme, ...]
    losses: np.ndarray
    items: int

    def of(self, unit: str, scheme: Scheme) -> float:
        """Return one loss."""
        return float(self.losses[list(self.units).index(unit), self.schemes.index(scheme)])

    def predicted(self, choices: Mapping[str, Scheme]) -> float:
        """Return the sum of the losses of a choice of schemes; a unit without one stays in float."""
        return math.fsum(self.of(unit, scheme) for unit, scheme in choices.items())

    def to_json(self) -> str:
        """Return all of it as JSON; a loss that is not a number is null."""
        rows = [[None if math.isnan(value) else value for value in row] for row in self.losses.tolist()]
        raw = asdict(self) | {"losses": rows, "schemes": [scheme.name for scheme in self.schemes]}
        return json.dumps(raw | {"units": {name: list(members) for name, members in self.units.items()}}, indent=1)


def units(network: nn.Module, example: Arrays) -> dict[str, tuple[str, ...]]:
    """Return what takes one precision each: layers with weights, those that share a weight together.

    A module with layers inside that owns a matrix itself (a table of positions) is no layer: backends leave it in
    float. A layer that the network does not call for this example is left out.
    """
    leaves = {name: m for name, m in layers.weight_layers(network).items() if not list(m.children())}
    called = calls(network, list(leaves), example)
    owners: dict[int, str] = {}
    found: dict[str, tuple[str, ...]] = {}
    for name in sorted(called, key=called.index):
        shared = {owners[id(p)] for p in layers.weights_of(leaves[name]).values() if id(p) in owners}
        owner = min(shared, key=called.index) if shared else name
        found[owner] = (*found.get(owner, ()), name)
        owners |= {id(p): owner for p in layers.weights_of(leaves[name]).values()}
    return found


def calls(network: nn.Module, names: Sequence[str], example: Arrays) -> list[str]:
    """Return the names of these modules in the order of their first call."""
    order: list[str] = []

    def noting(name: str) -> Callable[..., None]:
        return lambda *_: None if name in order else order.append(name)

    handles = [network.get_submodule(name).register_forward_pre_hook(noting(name)) for name in names]
    try:
        with torch.inference_mode():
            network(*map(torch.from_numpy, example))
    finally:
        for handle in handles:
            handle.remove()
    return order


def plan_of(choices: Mapping[str, Scheme], grouped: Units, default: Scheme = FLOAT) -> Plan:
    """Return the plan in which every layer of a unit has the unit's scheme."""
    return Plan(default, {layer: scheme for unit, scheme in choices.items() for layer in grouped[unit]})


def measure(
    network: nn.Module,
    items: Split,
    schemes: Sequence[Scheme],
    *,
    loss: Loss,
    cache: Path | None = None,
    say: Say = lambda _: None,
) -> Sensitivities:
    """Return the loss of every unit in every scheme, all others in float.

    Args:
        network: in eval mode, float32; not changed.
        items: what it is asked, a subset of the calibration items.
        schemes: the candidates; one with static activations takes its ranges from the same items.
        loss: how outputs are compared.
        cache: a folder in which finished units are kept, so that an interrupted measurement goes on; None keeps none.
        say: is told of every finished unit.
    """
    found = units(network, items.item(0))
    kept = Kept(cache, [VERSION, loss.name, fingerprint(network, items)])
    work = _Work(network, items, loss)
    for number, unit in enumerate(found, 1):
        missing = [scheme for scheme in schemes if not kept.has(unit, scheme)]
        for scheme in missing:
            kept.put(unit, scheme, work.alone(plan_of({unit: scheme}, found)))
        if missing:
            kept.save()
            say(f"sensitivity {number}/{len(found)} {unit}")
    losses = np.array([[kept.get(unit, scheme) for scheme in schemes] for unit in found]).reshape(len(found), -1)
    return Sensitivities(loss.name, found, tuple(schemes), losses, len(items))


class _Work:
    """What all units share: the original's answers and the ranges of its layers' inputs, each computed once."""

    def __init__(self, network: nn.Module, items: Split, loss: Loss):
        self.network, self.items, self.loss = network, items, loss
        self._original: np.ndarray | None = None
        self._ranges: dict[str, layers.Range] | None = None

    def alone(self, plan: Plan) -> float:
        """Return the loss of a plan; nan for a scheme that is not simulated."""
        if self._original is None:
            self._original = layers.answers(self.network, self.items).numpy()
        static = any(scheme and scheme.activations == "static" for scheme in plan.layers.values())
        if static and self._ranges is None:
            self._ranges = layers.input_ranges(self.network, self.items)
        try:
            changed = layers.simulated(self.network, held(self.network, plan), self._ranges)
        except Unsupported:
            return math.nan
        return self.loss.of(self._original, layers.answers(changed, self.items).numpy())


def held(network: nn.Module, plan: Plan) -> Plan:
    """Return the plan with groups as containers hold them: in a convolution, a group of inputs has whole kernels.

    Weights [out, in, kh, kw] lie input by input, so that 32 inputs are 32 · kh · kw neighbouring weights.
    """
    found = {}
    for name, scheme in plan.layers.items():
        per = scheme.granularity if scheme is not None else None
        if scheme is not None and isinstance(per, PerGroup):
            kernel = max(math.prod(p.shape[2:]) for p in layers.weights_of(network.get_submodule(name)).values())
            scheme = replace(scheme, granularity=replace(per, group_size=per.group_size * kernel))
        found[name] = scheme
    return Plan(plan.default, found)


def joint_loss(network: nn.Module, items: Split, plan: Plan, loss: Loss) -> float:
    """Return the loss of a whole plan, simulated."""
    return _Work(network, items, loss).alone(plan)


def additivity(
    network: nn.Module, items: Split, found: Sensitivities, choices: Mapping[str, Scheme], loss: Loss
) -> tuple[float, float]:
    """Return (predicted, measured): the sum of single losses, and the loss of all choices at once."""
    return found.predicted(choices), joint_loss(network, items, plan_of(choices, found.units), loss)


class Kept:
    """Losses of one network on one set of items, in one file that is always whole."""

    def __init__(self, folder: Path | None, key: Any):
        digest = hashlib.sha256(json.dumps(key).encode()).hexdigest()[:32]
        self._path = None if folder is None else folder / f"{digest}.json"
        self._losses: dict[str, float | None] = {}
        if self._path is not None and self._path.is_file():
            try:
                self._losses = json.loads(self._path.read_text())
            except ValueError:  # not ours, or damaged: measured again and replaced
                self._losses = {}

    def has(self, unit: str, scheme: Scheme) -> bool:
        """Return whether this loss is known."""
        return f"{unit} {scheme!r}" in self._losses

    def get(self, unit: str, scheme: Scheme) -> float:
        """Return a known loss."""
        value = self._losses[f"{unit} {scheme!r}"]
        return math.nan if value is None else value

    def put(self, unit: str, scheme: Scheme, value: float) -> None:
        """Note a loss."""
        self._losses[f"{unit} {scheme!r}"] = None if math.isnan(value) else value

    def save(self) -> None:
        """Write all that is known, where there is a folder."""
        if self._path is not None:
            write_atomic(self._path, json.dumps(self._losses, indent=0).encode())


def fingerprint(network: nn.Module, items: Split) -> str:
    """Return a hash of what decides the losses: the network's structure and values, and the items' inputs."""
    found = hashlib.sha256(repr(network).encode())
    for name, value in network.state_dict().items():
        found.update(name.encode() + value.detach().contiguous().numpy().tobytes())
    for values in items.inputs:
        found.update(f"{values.dtype}{values.shape}".encode() + np.ascontiguousarray(values).tobytes())
    return found.hexdigest()

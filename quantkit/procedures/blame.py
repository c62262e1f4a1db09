"""Which layers cost a quantized result its quality: each layer quantized alone, in simulation, and a verdict in words.

A layer's error alone, at the network's outputs, foretells how much it costs in company, for small errors add up nearly
independently (the premise of layer-wise sensitivity: Dong et al. 2019, arXiv:1905.03696).
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from quantkit.contracts import Plan, Split
from quantkit.errors import Unsupported
from quantkit.numerics import fidelity
from quantkit.procedures import layers
from quantkit.scheme import Scheme

SHARE = 0.5  # of the summed error power that the blamed layers explain
ITEMS = 64  # enough to rank layers: each item gives as many errors as it has outputs


@dataclass(frozen=True)
class Blame:
    """How much one layer costs.

    Args:
        layer: its name in the network.
        sqnr_db: of the network's outputs with only this layer quantized; infinite where nothing changes.
        note: its scheme, its number of weights and its share of all layers' error power; or why it is not measured.
    """

    layer: str
    sqnr_db: float
    note: str


def blame(network: nn.Module, plan: Plan, items: Split, *, share: float = SHARE) -> list[Blame]:
    """Return the layers that together explain a share of the error, worst first.

    Args:
        network: in eval mode, float32; not changed.
        plan: the schemes of the result that is examined; layers in float are not looked at.
        items: inputs that outputs are compared on; the first 64 are taken.
        share: of the summed error power of all layers, 0 < share <= 1; 1 returns every layer.

    Raises:
        Unsupported: no layer's scheme can be simulated, or the plan quantizes none.
        ValueError: `share` out of range.
    """
    if not 0 < share <= 1:
        raise ValueError(f"share must be above 0 and at most 1: got {share}")
    some = Split(tuple(x[:ITEMS] for x in items.inputs), items.targets[:ITEMS], items.ids[:ITEMS])
    noise = noises_db(network, plan, some)
    powers = {name: 10 ** (-decibels / 10) for name, decibels in noise.items()}
    total = sum(powers.values())
    worst = sorted(powers, key=lambda name: -powers[name])
    found, explained = [], 0.0
    for name in worst:
        if share < 1 and explained >= share * total:
            break
        explained += powers[name]
        found.append(Blame(name, noise[name], _note(network, plan, name, powers[name] / total if total else 0.0)))
    return found


def noises_db(network: nn.Module, plan: Plan, items: Split) -> dict[str, float]:
    """Return layer -> SQNR of the outputs, decibels, with only that layer on its grid, for all quantized layers.

    Static activations take the extremes over the items as their range.

    Raises:
        Unsupported: no layer's scheme can be simulated, or the plan quantizes none.
    """
    schemes = {name: plan.layers.get(name, plan.default) for name in layers.weight_layers(network)}
    quantized = {name: scheme for name, scheme in schemes.items() if scheme is not None and scheme.quantized}
    if not quantized:
        raise Unsupported("the plan quantizes no layer: there is none to blame")
    static = any(scheme.activations == "static" for scheme in quantized.values())
    ranges = layers.input_ranges(network, items) if static else {}
    reference = layers.answers(network, items).numpy()
    found: dict[str, float] = {}
    for name, scheme in quantized.items():
        alone = Plan(scheme, {other: None for other in schemes if other != name})
        with contextlib.suppress(Unsupported):  # a format that is not simulated: the others still can be ranked
            answer = layers.answers(layers.simulated(network, alone, ranges), items)
            found[name] = fidelity.sqnr_db(reference, answer.numpy())
    if not found:
        raise Unsupported(f"{plan.default.name} is not simulated: integers, palettes, NF4 and 16-bit floats are")
    return found


def _note(network: nn.Module, plan: Plan, name: str, part: float) -> str:
    scheme = plan.layers.get(name, plan.default)
    assert isinstance(scheme, Scheme)
    module = network.get_submodule(name)
    weights = sum(weight.numel() for weight in layers.weights_of(module).values())
    return f"{type(module).__name__}, {weights} weights in {scheme.name}, {part:.0%} of the layers' error"


def judge(retention: float, threshold: float, blamed: Sequence[Blame]) -> str | None:
    """Return what to say of a result that keeps too little of its quality, or None where it keeps enough.

    Args:
        retention: share of the baseline's quality that is kept, e.g. 0.97.
        threshold: the least that is enough, e.g. 0.99.
        blamed: the layers at fault, worst first.
    """
    if retention >= threshold:
        return None
    said = f"{retention:.2%} of the quality is kept, expected at least {threshold:.2%}"
    if not blamed:
        return f"{said}; take more bits, smaller groups or another method"
    named = "; ".join(f"{one.layer} ({one.sqnr_db:.1f} dB alone: {one.note})" for one in blamed)
    return f"{said}; to blame: {named}; keep these layers in more bits, or take smaller groups or another method"

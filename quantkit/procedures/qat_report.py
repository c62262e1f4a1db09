"""How good a quantized network is inside: use of the grids, clipped activations, agreement with the teacher."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from torch import nn

from quantkit.contracts import Plan, Split
from quantkit.numerics import fidelity, grids
from quantkit.procedures import layers
from quantkit.scheme import Scheme


@dataclass(frozen=True, slots=True)
class LayerUse:
    """How one layer's weights use their grid.

    Args:
        name: the layer.
        scheme: the scheme's short name.
        occupancy: share of the grid's codes that at least one weight has, the mean over what shares a scale.
        entropy_bits: Shannon entropy of the codes of the whole layer; the width is its limit.
        saturated: share of weights on the grid's smallest or largest code.
        clipped_inputs: share of the layer's inputs that lie outside its static range; 0 for other schemes.
    """

    name: str
    scheme: str
    occupancy: float
    entropy_bits: float
    saturated: float
    clipped_inputs: float = 0.0


@dataclass(frozen=True, slots=True)
class Agreement:
    """How near answers are to the teacher's: the share with the same largest output (None: not logits), and dB."""

    top1: float | None
    sqnr_db: float


@dataclass(frozen=True)
class Report:
    """The quality report of a training.

    Args:
        layers: every quantized layer, after training.
        before: rounding alone against the teacher, on the held-out items.
        after: the same for the trained weights.
    """

    layers: tuple[LayerUse, ...]
    before: Agreement
    after: Agreement


def report(
    networks: tuple[nn.Module, nn.Module, nn.Module], schemes: Mapping[str, Scheme], items: Split, held: Split, *,
    logits: bool,
) -> Report:  # fmt: skip
    """Return the quality report.

    Args:
        networks: the original, the original with its weights on their grids, and the trained one, all in eval mode.
        schemes: layer -> scheme of what is quantized.
        items: what static ranges are taken from.
        held: other items, which the answers and the clipping are measured on.
        logits: whether outputs are class or token scores.
    """
    teacher, rounded, trained = networks
    static = any(scheme.activations == "static" for scheme in schemes.values())
    told = layers.answers(teacher, held).numpy()
    found = []
    for network in (rounded, trained):
        answered = layers.answers(_computing(network, schemes, items), held).numpy()
        top1 = fidelity.top1_agreement(told, answered) if logits else None
        found.append(Agreement(top1, fidelity.sqnr_db(told, answered)))
    clipped = clipping(trained, schemes, items, held) if static else {}
    used = [layer_use(name, trained.get_submodule(name), scheme) for name, scheme in schemes.items()]
    return Report(tuple(replace(use, clipped_inputs=clipped.get(use.name, 0.0)) for use in used), *found)


def _computing(network: nn.Module, schemes: Mapping[str, Scheme], items: Split) -> nn.Module:
    """Return a network whose weights lie on their grids with its inputs rounded too, where the schemes ask for it."""
    if all(scheme.activations == "none" for scheme in schemes.values()):
        return network
    others = {name: None for name in layers.weight_layers(network) if name not in schemes}
    plan = Plan(next(iter(schemes.values())), {**schemes, **others})
    return layers.simulated(network, plan, layers.input_ranges(network, items))


def layer_use(name: str, module: nn.Module, scheme: Scheme) -> LayerUse:
    """Return how a layer's weights use the codes of their scheme; they lie on its grid, or near it."""
    counts = np.zeros(2**scheme.bits, np.int64)
    first, last = _ends(scheme)
    occupancy = []
    for weight in layers.weights_of(module).values():
        for row in layers.shared(weight.detach(), scheme).numpy():
            own = np.bincount(_codes(row, scheme), minlength=len(counts))
            occupancy.append(np.count_nonzero(own) / (last - first + 1))
            counts += own
    share = counts[counts > 0] / counts.sum()
    entropy = float(-(share * np.log2(share)).sum())
    saturated = float((counts[first] + counts[last]) / counts.sum())
    return LayerUse(name, scheme.name, float(np.mean(occupancy)), entropy, saturated)


def _ends(scheme: Scheme) -> tuple[int, int]:
    """Return the smallest and largest place of a code; symmetric integers leave the most negative one out."""
    return int(scheme.format == "int" and scheme.symmetric), 2**scheme.bits - 1


def _codes(row: np.ndarray, scheme: Scheme) -> np.ndarray:
    """Return the place of each value's code, 0..2^bits-1, of a row that lies on the grid of its scheme."""
    if scheme.format == "nf4":
        return grids.nearest(row / (np.abs(row).max() or 1.0), grids.nf4_codebook())
    if scheme.symmetric:
        qmax = grids.symmetric_range(scheme.bits)[1]
        return np.rint(row / (np.abs(row).max() / qmax or 1.0)).astype(np.int64) + qmax + 1
    low, high = min(row.min(), 0.0), max(row.max(), 0.0)
    step = (high - low) / (2**scheme.bits - 1) or 1.0
    return np.rint((row - low) / step).astype(np.int64)


def clipping(network: nn.Module, schemes: Mapping[str, Scheme], items: Split, held: Split) -> dict[str, float]:
    """Return layer -> share of its inputs on other items that lie outside the range taken from `items`."""
    ranges = layers.input_ranges(network, items)
    counts = {name: np.zeros(2) for name in schemes if name in ranges}

    def watching(name: str) -> layers.Hook:
        low, high = ranges[name]

        def hook(_: nn.Module, inputs: tuple) -> None:
            outside = (inputs[0] < min(low, 0.0)) | (inputs[0] > max(high, 0.0))
            counts[name] += float(outside.sum()), float(outside.numel())

        return hook

    handles = [network.get_submodule(name).register_forward_pre_hook(watching(name)) for name in counts]
    try:
        layers.answers(network, held)
    finally:
        for handle in handles:
            handle.remove()
    return {name: float(out / all_) for name, (out, all_) in counts.items() if all_ and math.isfinite(out)}

"""Scales that move between a layer and the linear layers that read it: the common part of SmoothQuant and AWQ.

Channel j of what linear layers read is divided by s_j, in the weight and bias of the layer that makes it: a norm, or a
linear layer behind a gate (up and down of SwiGLU). Column j of the readers' weights is multiplied by it:
W·x = (W·s)·(x / s), so the network computes the same and nothing is added to it.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from quantkit.contracts import Arrays, Split
from quantkit.errors import CalibrationError, Unsupported
from quantkit.procedures import equalize, graph, layers
from quantkit.procedures.graph import Group
from quantkit.scheme import Scheme

ROWS = 2_048  # rows of an input that candidates are judged on


@dataclass
class Seen:
    """What calibration items showed of an input of linear layers.

    Args:
        low, high: extremes of each channel, [channels].
        mean: mean magnitude of each channel, [channels].
        sample: rows taken evenly from all items, [rows, channels].
    """

    low: torch.Tensor
    high: torch.Tensor
    mean: torch.Tensor
    sample: torch.Tensor


Choose = Callable[[Seen, Sequence[torch.Tensor]], torch.Tensor]


def rescaled(network: nn.Module, example: Arrays, items: Split, choose: Choose) -> nn.Module:
    """Return a copy that computes the same, with the scales that `choose` gives for each group of layers.

    Args:
        network: in eval mode, float32; not changed.
        example: inputs of one item.
        items: calibration items.
        choose: what was seen of an input, and the weights [out, in] that read it -> s > 0, [in].

    Raises:
        CalibrationError: no items.
        Unsupported: torch.export refuses the network, or no norm or gated layer feeds linear layers alone.
    """
    if not len(items):
        raise CalibrationError("scales need calibration items: got none; give the data set a calibration split")
    groups = graph.Flow(network, example).groups()
    if not groups:
        raise Unsupported(
            "scales move from a layer norm, RMS norm or gated linear layer into linear layers that alone read it: "
            "there are none"
        )
    copied, seen = copy.deepcopy(network), observed(network, [group.linears[0] for group in groups], items)
    for group in groups:
        weights = [copied.get_submodule(name).get_parameter("weight").detach() for name in group.linears]
        _move(copied, group, choose(seen[group.linears[0]], weights))
    return copied


def _move(network: nn.Module, group: Group, scale: torch.Tensor) -> None:
    equalize.divide_outputs(network.get_submodule(group.source), scale)
    for name in group.linears:
        weight = network.get_submodule(name).get_parameter("weight")
        weight.data = weight.data * scale


def observed(network: nn.Module, linears: Sequence[str], items: Split) -> Mapping[str, Seen]:
    """Return what the items show of the input of each of these linear layers."""
    found: dict[str, list[Seen]] = {name: [] for name in linears}
    each = math.ceil(ROWS / math.ceil(len(items) / layers.BATCH))  # rows of one batch

    def watching(name: str) -> Callable[[nn.Module, tuple], None]:
        def hook(_: nn.Module, inputs: tuple) -> None:
            rows = inputs[0].reshape(-1, inputs[0].shape[-1])
            sample = rows[:: math.ceil(len(rows) / each)]
            found[name].append(Seen(rows.amin(0), rows.amax(0), rows.abs().mean(0), sample.clone()))

        return hook

    handles = [network.get_submodule(name).register_forward_pre_hook(watching(name)) for name in linears]
    try:
        layers.answers(network, items)
    finally:
        for handle in handles:
            handle.remove()
    return {name: _joined(parts) for name, parts in found.items()}


def _joined(parts: Sequence[Seen]) -> Seen:
    return Seen(
        low=torch.stack([part.low for part in parts]).amin(0),
        high=torch.stack([part.high for part in parts]).amax(0),
        mean=torch.stack([part.mean for part in parts]).mean(0),  # a smaller last batch weighs as much: a ranking only
        sample=torch.cat([part.sample for part in parts]),
    )


def output_error(seen: Seen, weights: Sequence[torch.Tensor], scale: torch.Tensor, scheme: Scheme) -> float:
    """Return the mean squared error that a scheme brings to the outputs of linear layers whose input is rescaled.

    Args:
        weights: each [out, in], as they are before rescaling; rounded by the scheme afterwards.
        scale: s, [in]; where the scheme's activations are static, x / s lies on a grid over all that was seen.
    """
    inputs, weight = seen.sample / scale, torch.cat(list(weights))
    if scheme.activations != "none":
        low, high = float((seen.low / scale).min()), float((seen.high / scale).max())
        inputs = layers.on_grid(inputs, low, high, scheme.activation_bits)
    rounded = torch.cat(
        [layers.rounded(part * scale, scheme) for part in weights]
    )  # each may have one scale of its own
    near, exact = functional.linear(inputs, rounded), functional.linear(seen.sample, weight)
    return float((near - exact).square().mean())


def best(
    seen: Seen, weights: Sequence[torch.Tensor], candidates: Sequence[torch.Tensor], scheme: Scheme
) -> torch.Tensor:
    """Return the candidate with the smallest output error; of equal ones the first."""
    return min(candidates, key=lambda scale: output_error(seen, weights, scale, scheme))

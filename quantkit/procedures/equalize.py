"""Cross-layer equalisation: the channels between two layers are rescaled so that both weights have equal ranges.

For two layers joined by a function with f(s·x) = s·f(x), channel i of the first weight is divided by s_i and channel i
of the second multiplied by it: the network computes the same. With s_i = sqrt(r1_i · r2_i) / r2_i both ranges become
sqrt(r1_i · r2_i), so that no channel is lost below the step of a scale that a whole weight shares.
Source: Nagel et al. 2019, arXiv:1906.04721, section 4.1.

ReLU6 is no such function: it clips at 6 whatever the scale. The paper replaces it by ReLU. Here it becomes a ReLU where
no calibration item reaches the 6, and min(relu(x), 6 / s_i) elsewhere, which is the same function for every input.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import nn

from quantkit.contracts import Arrays, Split
from quantkit.errors import Unsupported
from quantkit.procedures import graph, layers
from quantkit.procedures.graph import Pair

ROUNDS, SETTLED = 40, 1e-3  # a layer in two pairs is balanced again and again until no scale moves by a thousandth
CLIP = 6.0


class Limited(nn.Module):
    """ReLU with an upper limit for each channel: ReLU6 after its input was rescaled.

    Args:
        limit: [channels].
        trailing: axes behind the channels of what is clipped: [..., channels, *trailing].
    """

    limit: torch.Tensor

    def __init__(self, limit: torch.Tensor, trailing: int):
        super().__init__()
        self.register_buffer("limit", limit.reshape(-1, *(1,) * trailing))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return min(relu(x), limit)."""
        return torch.minimum(torch.relu(x), self.limit)


def equalized(network: nn.Module, example: Arrays, items: Split) -> nn.Module:
    """Return a copy that computes the same, batch norms folded, with the ranges of neighbouring weights made equal.

    Args:
        network: in eval mode, float32; not changed.
        example: inputs of one item.
        items: calibration items; they tell which ReLU6 never clips (and may become a ReLU).

    Raises:
        Unsupported: torch.export refuses the network, or it has no two layers that could be equalised.
    """
    copied = graph.folded(network, example)
    pairs = graph.Flow(copied, example).pairs()
    if not pairs:
        raise Unsupported(
            "cross-layer equalisation needs two layers with nothing but a ReLU or pooling between them: there are none"
        )
    highest = output_maxima(copied, [pair.first for pair in pairs if pair.bounded], items)
    scales = {pair: torch.ones(_channels(copied, pair)) for pair in pairs}
    with torch.no_grad():
        for _ in range(ROUNDS):
            moved = [_balance(copied, pair, scales) for pair in pairs]
            if max(moved) < SETTLED:
                break
    for pair in pairs:
        if pair.bounded:
            clips = bool((highest[pair.first] > CLIP).any())
            copied.set_submodule(pair.bounded, Limited(CLIP / scales[pair], pair.trailing) if clips else nn.ReLU())
    return copied


def _balance(network: nn.Module, pair: Pair, scales: dict[Pair, torch.Tensor]) -> float:
    """Rescale one pair in place; return how far its scales moved, as the largest |ln s|."""
    first, second = network.get_submodule(pair.first), network.get_submodule(pair.second)
    scale = balancing(output_ranges(first), input_ranges(second))
    divide_outputs(first, scale)
    multiply_inputs(second, scale)
    scales[pair] = scales[pair] * scale
    return float(scale.log().abs().max())


def balancing(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Return s = sqrt(r1 · r2) / r2 for two vectors of ranges; 1 for a channel that either weight does not use.

    >>> balancing(torch.tensor([8.0, 1.0, 0.0]), torch.tensor([2.0, 4.0, 1.0]))
    tensor([2.0000, 0.5000, 1.0000])
    """
    used = (first > 0) & (second > 0)
    return torch.where(used, (first / torch.where(used, second, 1.0)).sqrt(), 1.0)


def output_ranges(layer: nn.Module) -> torch.Tensor:
    """Return the largest magnitude among the weights of each output channel, [out]."""
    weight = layer.get_parameter("weight").detach()
    return weight.reshape(len(weight), -1).abs().amax(1)


def input_ranges(layer: nn.Module) -> torch.Tensor:
    """Return the largest magnitude among the weights that read each input channel, [in]."""
    return _by_input(layer).detach().abs().amax((1, 3)).flatten()


def divide_outputs(layer: nn.Module, scale: torch.Tensor) -> None:
    """Divide each output channel of a layer, [out], in place: weights and bias."""
    weight = layer.get_parameter("weight")
    weight.data = weight.data / scale.reshape(-1, *(1,) * (weight.ndim - 1))
    if getattr(layer, "bias", None) is not None:
        bias = layer.get_parameter("bias")
        bias.data = bias.data / scale


def multiply_inputs(layer: nn.Module, scale: torch.Tensor) -> None:
    """Multiply the weights that read each input channel, [in], in place."""
    weight, blocks = layer.get_parameter("weight"), _by_input(layer)
    weight.data = (blocks.data * scale.reshape(blocks.shape[0], 1, blocks.shape[2], 1)).reshape(weight.shape)


def _by_input(layer: nn.Module) -> torch.Tensor:
    """Return a weight as [groups, outputs of a group, inputs of a group, rest]; a linear layer is one group."""
    weight, groups = layer.get_parameter("weight"), getattr(layer, "groups", 1)
    return weight.reshape(groups, len(weight) // groups, weight.shape[1], math.prod(weight.shape[2:]))


def _channels(network: nn.Module, pair: Pair) -> int:
    return len(network.get_submodule(pair.first).get_parameter("weight"))


def output_maxima(network: nn.Module, names: Sequence[str], items: Split) -> Mapping[str, torch.Tensor]:
    """Return layer name -> largest output of each channel over the items, [channels]."""
    found: dict[str, torch.Tensor] = {}

    def watching(name: str, axis: int):  # type: ignore[no-untyped-def]
        def hook(_: nn.Module, __: object, output: torch.Tensor) -> None:
            highest = output.movedim(axis, 0).flatten(1).amax(1)
            found[name] = torch.maximum(found[name], highest) if name in found else highest

        return hook

    modules = {name: network.get_submodule(name) for name in names}
    handles = [m.register_forward_hook(watching(name, channel_axis(m))) for name, m in modules.items()]
    try:
        if names:
            layers.answers(network, items)
    finally:
        for handle in handles:
            handle.remove()
    return found


def channel_axis(layer: nn.Module) -> int:
    """Return the axis of a layer's outputs that its channels lie on."""
    return -1 if isinstance(layer, nn.Linear) else 1

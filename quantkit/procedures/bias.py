"""Empirical bias correction: each layer's mean error, which rounding its weights brings, is taken off its bias.

Rounded weights shift the mean output of a channel by E[y~] - E[y]; where a channel has few weights (depthwise filters)
the errors do not cancel. Layer after layer, in the order of computation, the shift is measured on calibration items
(the layers before it already quantized and corrected) and subtracted from the bias.
Source: Nagel et al. 2019, arXiv:1906.04721, section 4.2 and appendix D; Finkelstein et al. 2019, arXiv:1906.03193.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from contextlib import ExitStack

import torch
from torch import nn

from quantkit.contracts import Plan, Split
from quantkit.errors import CalibrationError, Unsupported
from quantkit.procedures import layers
from quantkit.procedures.equalize import channel_axis

CORRECTED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
ITEMS, VALUES = 256, 2**22  # held at once: a layer's shift is measured on all items before the next layer computes
Hook = Callable[[nn.Module, tuple, torch.Tensor], "torch.Tensor | None"]


def corrected(network: nn.Module, plan: Plan, items: Split) -> nn.Module:
    """Return a copy whose biases take back the mean errors that the plan's rounding brings.

    Args:
        network: in eval mode, float32, batch norms folded; not changed. A layer without a bias gets one. Layers that
            are used more than once, and those without a bias by type (LSTM, embeddings), stay as they are.
        plan: as the backend will be given it; weights, and inputs of layers where asked for, are rounded by it.
        items: calibration items; the first 256 (fewer where they are large) are used, at once.

    Raises:
        CalibrationError: no items.
        Unsupported: a format that is not simulated, or no layer that could be corrected.
    """
    if not len(items):
        raise CalibrationError(
            "bias correction needs calibration items: got none; give the data set a calibration split"
        )
    first = Split(tuple(x[:ITEMS] for x in items.inputs), items.targets[:ITEMS], items.ids[:ITEMS])
    names = _correctable(network, plan)
    targets, uses = _means(network, names, first)
    once = {name: targets[name] for name in names if uses.get(name) == 1}
    if not once:
        raise Unsupported("bias correction needs linear layers or convolutions that are quantized: there are none")
    shifts = _shifts(layers.simulated(network, plan, _ranges(network, plan, first)), once, first)
    return _with_biases(network, shifts)


def _some(items: Split) -> Split:
    """Return the first items, as many as fit: 256 of up to 16 thousand values each, at least 16."""
    count = max(16, min(ITEMS, VALUES // max(x[0].size for x in items.inputs)))
    return Split(tuple(x[:count] for x in items.inputs), items.targets[:count], items.ids[:count])


def _correctable(network: nn.Module, plan: Plan) -> list[str]:
    schemes = {name: plan.layers.get(name, plan.default) for name in layers.weight_layers(network)}
    quantized = [name for name, scheme in schemes.items() if scheme is not None and scheme.quantized]
    return [name for name in quantized if isinstance(network.get_submodule(name), CORRECTED)]


def _ranges(network: nn.Module, plan: Plan, items: Split) -> Mapping[str, layers.Range]:
    schemes = [plan.default, *(scheme for scheme in plan.layers.values() if scheme)]
    return layers.input_ranges(network, items) if any(s.activations == "static" for s in schemes) else {}


def channel_means(output: torch.Tensor, axis: int) -> torch.Tensor:
    """Return the mean of each channel, [channels], summed in float64."""
    return output.movedim(axis, 0).flatten(1).double().mean(1).float()


def _means(network: nn.Module, names: list[str], items: Split) -> tuple[dict[str, torch.Tensor], dict[str, int]]:
    """Return layer -> mean output of each channel, and how often each layer computed."""
    means: dict[str, torch.Tensor] = {}
    uses: dict[str, int] = {}

    def watching(name: str) -> Hook:
        def hook(module: nn.Module, _: tuple, output: torch.Tensor) -> None:
            means[name] = channel_means(output, channel_axis(module))
            uses[name] = uses.get(name, 0) + 1

        return hook

    _run(network, {name: watching(name) for name in names}, items)
    return means, uses


def _shifts(simulated: nn.Module, targets: Mapping[str, torch.Tensor], items: Split) -> dict[str, torch.Tensor]:
    """Return layer -> what its bias has to take back, each measured behind layers that are corrected already."""
    shifts: dict[str, torch.Tensor] = {}

    def correcting(name: str) -> Hook:
        def hook(module: nn.Module, _: tuple, output: torch.Tensor) -> torch.Tensor:
            axis = channel_axis(module)
            shifts[name] = channel_means(output, axis) - targets[name]
            return output - shifts[name].reshape(-1, *(1,) * (output.ndim - 1 - axis % output.ndim))

        return hook

    _run(simulated, {name: correcting(name) for name in targets}, items)
    return shifts


def _run(network: nn.Module, hooks: Mapping[str, Hook], items: Split) -> None:
    """Compute all items at once with a hook on the outputs of some layers."""
    with ExitStack() as stack:
        for name, hook in hooks.items():
            stack.callback(network.get_submodule(name).register_forward_hook(hook).remove)
        layers.answers(network, items, batch=len(items))


def _with_biases(network: nn.Module, shifts: Mapping[str, torch.Tensor]) -> nn.Module:
    copied = copy.deepcopy(network)
    for name, shift in shifts.items():
        layer = copied.get_submodule(name)
        before = torch.zeros_like(shift) if layer.bias is None else layer.bias.detach()
        layer.bias = nn.Parameter(before - shift, requires_grad=layer.weight.requires_grad)
    return copied

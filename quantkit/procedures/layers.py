"""The layers of a network that hold weights, and simulated quantization of them ("fake quantization").

A simulated network computes in float32 with weights (and inputs of layers) that lie on the grid of a scheme:
x ≈ (round(x / scale) + zero_point - zero_point) · scale. Backends make the real codes; this foretells their error.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping

import numpy as np
import torch
from torch import nn

from quantkit.contracts import Plan, Split
from quantkit.errors import Unsupported
from quantkit.numerics import grids
from quantkit.scheme import PerChannelGroup, PerGroup, PerTensor, Scheme

Range = tuple[float, float]
Hook = Callable[[nn.Module, tuple], tuple | None]
FLOATS = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
BATCH = 64  # items that a simulated network answers at once


def weight_layers(network: nn.Module) -> dict[str, nn.Module]:
    """Return name -> module of every layer that owns a float matrix, in the order of the network."""
    return {name: module for name, module in network.named_modules() if weights_of(module)}


def weights_of(module: nn.Module) -> dict[str, nn.Parameter]:
    """Return the module's own parameters with two axes or more: the weights, not biases, norms or buffers."""
    own = module.named_parameters(recurse=False)
    return {name: p for name, p in own if p.ndim > 1 and p.is_floating_point()}


def rounded(weight: torch.Tensor, scheme: Scheme, *, signed: bool = False) -> torch.Tensor:
    """Return a weight [out, ...] on the grid of a scheme, rounded to nearest; its gradient passes straight through.

    Groups run along everything but the first axis; a last group may be smaller.

    Args:
        signed: of symmetric integers, whether the value farthest from 0 gets the lowest code, whatever its sign, as
            ONNX Runtime's blocks do: the scale is it / -2^(bits-1), and all 2^bits codes are used.

    Raises:
        Unsupported: a format that is not simulated (floats of 4 and 8 bits).

    Source of the gradient: Bengio et al. 2013, arXiv:1308.3432 (straight-through estimator).
    """
    if scheme.format in FLOATS:
        near = weight.detach().to(FLOATS[scheme.format]).to(weight.dtype)
    elif scheme.format == "int":
        near = _uniform(weight.detach(), scheme, signed)
    elif scheme.format in ("lut", "nf4"):
        near = _book(weight.detach(), scheme)
    else:
        raise Unsupported(f"{scheme.name} is not simulated: integers, palettes, NF4 and 16-bit floats are")
    return weight + (near - weight).detach()


def _uniform(weight: torch.Tensor, scheme: Scheme, signed: bool) -> torch.Tensor:
    rows = shared(weight, scheme)
    if scheme.symmetric and signed:
        qmin, qmax = -(2 ** (scheme.bits - 1)), 2 ** (scheme.bits - 1) - 1
        scale, zero = rows.gather(1, rows.abs().argmax(1, keepdim=True)) / qmin, torch.zeros(())
    elif scheme.symmetric:
        qmin, qmax = grids.symmetric_range(scheme.bits)
        scale, zero = rows.abs().amax(1, keepdim=True) / qmax, torch.zeros(())
    else:
        qmin, qmax = grids.affine_range(scheme.bits)
        low, high = rows.amin(1, keepdim=True).clamp(max=0), rows.amax(1, keepdim=True).clamp(min=0)
        scale = (high - low) / (qmax - qmin)
        zero = torch.round(-low / scale.clamp_min(torch.finfo(scale.dtype).tiny))
    scale = torch.where(scale != 0, scale, 1.0)
    return _unshared(((rows / scale).round() + zero).clamp(qmin, qmax).sub(zero) * scale, weight, scheme)


def _book(weight: torch.Tensor, scheme: Scheme) -> torch.Tensor:
    """Return the weight with each value replaced by the nearest of a code book: NF4's own, or one found by k-means."""
    rows = shared(weight, scheme)
    if scheme.format == "nf4":
        scale = rows.abs().amax(1, keepdim=True)
        book = torch.from_numpy(grids.nf4_codebook()).to(weight.dtype)
        scaled = rows / torch.where(scale > 0, scale, 1.0)
        return _unshared(book[torch.bucketize(scaled, (book[1:] + book[:-1]) / 2)] * scale, weight, scheme)
    near = [torch.from_numpy(_palettized(row.numpy(), 2**scheme.bits)) for row in rows]
    return _unshared(torch.stack(near).to(weight.dtype), weight, scheme)


def _palettized(values: np.ndarray, levels: int) -> np.ndarray:
    book = grids.lloyd_max(values, min(levels, values.size), iterations=100)
    return book[grids.nearest(values, book)]


def shared(weight: torch.Tensor, scheme: Scheme) -> torch.Tensor:
    """Return the weight as rows that share a scale or code book, [rows, n]; short rows are padded with zeros."""
    per, flat = scheme.granularity, weight.reshape(weight.shape[0], -1)
    if isinstance(per, PerTensor):
        return flat.reshape(1, -1)
    if isinstance(per, PerChannelGroup):
        missing = -len(flat) % per.channels
        return nn.functional.pad(flat, (0, 0, 0, missing)).reshape(-1, per.channels * flat.shape[1])
    if isinstance(per, PerGroup):
        return nn.functional.pad(flat, (0, -flat.shape[1] % per.group_size)).reshape(-1, per.group_size)
    return flat


def _unshared(rows: torch.Tensor, weight: torch.Tensor, scheme: Scheme) -> torch.Tensor:
    """Return rows as `shared` gave them in the weight's own shape, without the padding."""
    flat = weight.reshape(weight.shape[0], -1)
    if isinstance(scheme.granularity, PerGroup):
        return rows.reshape(len(flat), -1)[:, : flat.shape[1]].reshape(weight.shape)
    return rows.reshape(-1, flat.shape[1])[: len(flat)].reshape(weight.shape)


def simulated(network: nn.Module, plan: Plan, ranges: Mapping[str, Range] | None = None) -> nn.Module:
    """Return a copy whose layers compute with the weights, and where asked for the inputs, of their schemes.

    Args:
        network: in eval mode; not changed.
        plan: which layer gets which scheme.
        ranges: name -> range of a layer's first input, for schemes with static activations (`input_ranges` gives
            them); dynamic ones take the extremes of each call. Layers that are not simulated so (embeddings) keep
            their inputs.

    Raises:
        Unsupported: a scheme that is not simulated.
    """
    copied = copy.deepcopy(network)
    for name, module in weight_layers(copied).items():
        scheme = plan.layers.get(name, plan.default)
        if scheme is None:
            continue
        with torch.no_grad():
            for weight in weights_of(module).values():
                weight.copy_(rounded(weight, scheme))
        if scheme.activations != "none" and not isinstance(module, nn.Embedding):
            module.register_forward_pre_hook(_rounding_inputs(scheme, (ranges or {}).get(name)))
    return copied


def _rounding_inputs(scheme: Scheme, fixed: Range | None) -> Hook:
    """Return a hook that puts a layer's first input on an affine grid."""

    def hook(_: nn.Module, inputs: tuple) -> tuple:
        first, *others = inputs
        low, high = fixed or (float(first.min()), float(first.max()))
        return (on_grid(first, low, high, scheme.activation_bits), *others)

    return hook


def on_grid(values: torch.Tensor, low: float, high: float, bits: int) -> torch.Tensor:
    """Return values rounded to an affine grid of 2^bits levels over [low, high], widened to contain 0."""
    low, high = min(low, 0.0), max(high, 0.0)
    scale = (high - low) / (2**bits - 1) or 1.0
    zero = round(-low / scale)
    return ((values / scale).round() + zero).clamp(0, 2**bits - 1).sub(zero) * scale


def input_ranges(network: nn.Module, items: Split) -> dict[str, Range]:
    """Return layer name -> smallest and largest value of its first float input over the items."""
    found: dict[str, Range] = {}

    def watching(name: str) -> Hook:
        def hook(_: nn.Module, inputs: tuple) -> None:
            if inputs and inputs[0].is_floating_point():
                low, high = found.get(name, (float("inf"), float("-inf")))
                found[name] = min(low, float(inputs[0].min())), max(high, float(inputs[0].max()))

        return hook

    layers = weight_layers(network).items()
    handles = [module.register_forward_pre_hook(watching(name)) for name, module in layers]
    try:
        answers(network, items)
    finally:
        for handle in handles:
            handle.remove()
    return found


def answers(network: nn.Module, items: Split, batch: int = BATCH) -> torch.Tensor:
    """Return the network's outputs for all items, [n, ...], float32, batch by batch."""
    with torch.inference_mode():
        return torch.cat([network(*inputs).float() for inputs in batches(items, batch)])


def batches(items: Split, size: int) -> Iterable[tuple[torch.Tensor, ...]]:
    """Yield the inputs of the items, `size` at a time."""
    for start in range(0, len(items), size):
        yield tuple(torch.from_numpy(np.ascontiguousarray(x[start : start + size])) for x in items.inputs)

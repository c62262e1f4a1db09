"""Schemes in coremltools' words: the deployment target they need, and its own quantizers called for the layers asked.

Layers are told one by one (`op_name_configs`), with `weight_threshold=0`: coremltools' default would leave weights of
up to 2,048 elements in float without a word, and take in tables that are no layer's weights. What it still skips
(groups that do not divide) shows in the report.

Traps of coremltools 9: its magnitude pruner takes the percentile in float16, which overflows beyond 65,504 weights and
then prunes nothing, so it is given the threshold itself; palettes of fewer than 10 entries cannot be quantized.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from quantkit.backends._coreml_lower import Weight, program_of, quiet, toolchain
from quantkit.errors import Unsupported
from quantkit.scheme import PerChannel, PerChannelGroup, PerGroup, PerTensor, Scheme

if TYPE_CHECKING:
    from quantkit.contracts import Plan

TARGETS = {"iOS16": "macOS13", "iOS17": "macOS14", "iOS18": "macOS15"}
Schemes = Mapping[str, Scheme | None]  # layer -> its scheme, None where it stays in float


def scheme_refusal(scheme: Scheme) -> str | None:
    """Return why Core ML or coremltools has no form for a scheme, whatever the model, or None."""
    per = scheme.granularity
    if not scheme.quantized:
        return None
    if scheme.format not in ("int", "lut"):
        return f"Core ML has uniform integer codes and palettes, not {scheme.format}"
    if scheme.codes != "nearest":
        return f"coremltools rounds converted weights to the nearest code: no {scheme.codes}"
    if scheme.activations == "dynamic":
        return "Core ML has no ranges taken at run time: activations are static int8 or float16"
    if scheme.activations == "static" and scheme.activation_bits != 8:
        return f"coremltools quantizes activations to 8 bits: not {scheme.name}"
    if scheme.activations == "static" and scheme.sparsity:
        return "sparse weights together with int8 activations are not done yet with Core ML"
    if isinstance(per, PerGroup | PerChannel | PerChannelGroup) and per.axis != 0:
        return f"coremltools shares scales and palettes along the inputs of an output channel: got axis {per.axis}"
    return palette_refusal(scheme) if scheme.format == "lut" else integer_refusal(scheme)


def integer_refusal(scheme: Scheme) -> str | None:
    per = scheme.granularity
    if scheme.bits not in (4, 8):
        return f"Core ML's integer weights have 4 or 8 bits: got {scheme.bits}; a palette can have 1, 2, 3, 4, 6 or 8"
    if scheme.double:
        return "Core ML keeps scales in float16: only a palette's entries can be 8-bit codes themselves"
    if isinstance(per, PerChannelGroup):
        return (
            "Core ML's integer weights share a scale per tensor, channel or block of inputs, not for several channels"
        )
    if scheme.activations == "static" and (scheme.bits != 8 or isinstance(per, PerGroup)):
        return "Core ML's int8 activations go with weights in int8 per channel or tensor, or with a palette"
    if scheme.sparsity and isinstance(per, PerGroup):
        return "Core ML's sparse weights share a scale per channel or tensor, not per group"
    return None


def palette_refusal(scheme: Scheme) -> str | None:
    if scheme.bits not in (1, 2, 3, 4, 6, 8):
        return f"coremltools' palettes have 1, 2, 3, 4, 6 or 8 bits: got {scheme.bits}"
    if not isinstance(scheme.granularity, PerTensor | PerChannelGroup):
        return f"coremltools shares a palette per tensor or per group of output channels: got {scheme.granularity}"
    if scheme.double and (scheme.bits < 4 or not isinstance(scheme.granularity, PerTensor)):
        return "coremltools quantizes the entries of palettes of at least 4 bits, one palette per tensor"
    if scheme.sparsity:
        return "sparse palettes are not done yet with Core ML"
    return None


def needs(scheme: Scheme) -> str:
    """Return the oldest deployment target that has a scheme's operations."""
    new = isinstance(scheme.granularity, PerGroup | PerChannelGroup) or scheme.double or scheme.sparsity
    if scheme.quantized and (new or (scheme.format == "int" and scheme.bits == 4) or scheme.bits == 3):
        return "iOS18"
    return "iOS17" if scheme.quantized and scheme.activations == "static" else "iOS16"


def deployment_target(plan: Plan, *, half: bool, lstm: bool, states: bool) -> tuple[str, str]:
    """Return the deployment target and a note of what needs it."""
    schemes = [plan.default, *(scheme for scheme in plan.layers.values() if scheme)]
    wants = [("iOS16", "float weights and compression"), *((needs(s), s.name) for s in schemes if s.quantized)]
    if half and lstm:
        wants.append(("iOS17", "recurrent layers in float16 (before, they are float32)"))
    if states:
        wants.append(("iOS18", "states"))
    target, reason = max(wants, key=lambda want: want[0])
    return target, f"deployment target {target} / {TARGETS[target]}: needed by {reason}"


def wanted(weights: Iterable[Weight], plan: Plan) -> dict[str, Scheme | None]:
    """Return each layer's scheme; a float one is None, for there is one float format in a program.

    Raises:
        Unsupported: a layer's own scheme has no form in Core ML.
    """
    found = {weight.layer: plan.layers.get(weight.layer, plan.default) for weight in weights}
    for layer, scheme in found.items():
        if scheme and (reason := scheme_refusal(scheme)):
            raise Unsupported(f"layer {layer!r}: {reason}")
    return {layer: scheme if scheme and scheme.quantized else None for layer, scheme in found.items()}


def compress_weights(model: Any, weights: Sequence[Weight], schemes: Schemes) -> Any:
    """Return the model with the weights that `schemes` asks for compressed, by coremltools' own functions."""
    toolchain()
    from coremltools.optimize import coreml

    def apply(function: Callable[..., Any], config: Callable[[Weight, Scheme], Any], **options: bool) -> None:
        nonlocal model
        configs: dict[str, Any] = {}
        for weight in weights:
            scheme = schemes[weight.layer]
            one = config(weight, scheme) if scheme else None
            # a step's result is named after its constant: joint compression goes by that name
            stages = ("", "_sparsified", "_palettized") if options else ("",)
            configs |= {name + stage: one for name in weight.names for stage in stages if one}
        if configs:
            model = function(model, coreml.OptimizationConfig(op_name_configs=configs), **options)

    with quiet():
        apply(coreml.prune_weights, pruning)
        apply(coreml.palettize_weights, palette)
        apply(coreml.linear_quantize_weights, uniform)
        apply(coreml.linear_quantize_weights, joint, joint_compression=True)
    return model


def pruning(weight: Weight, scheme: Scheme) -> Any:
    """Return how the smallest weights are set to zero, or None."""
    from coremltools.optimize import coreml

    if not scheme.sparsity:
        return None
    threshold = float(np.quantile(np.abs(weight.values).astype(np.float32), scheme.sparsity))
    return coreml.OpThresholdPrunerConfig(
        threshold=threshold, minimum_sparsity_percentile=scheme.sparsity / 2, weight_threshold=0
    )


def palette(weight: Weight, scheme: Scheme) -> Any:
    """Return how a palette is chosen (k-means over the tensor, or over each group of output channels), or None."""
    from coremltools.optimize import coreml

    per = scheme.granularity
    if scheme.format != "lut":
        return None
    sharing: dict[str, Any] = {"granularity": "per_tensor"}
    if isinstance(per, PerChannelGroup):
        sharing = {"granularity": "per_grouped_channel", "group_size": per.channels, "channel_axis": 0}
    return coreml.OpPalettizerConfig(mode="kmeans", nbits=scheme.bits, weight_threshold=0, **sharing)


def uniform(weight: Weight, scheme: Scheme) -> Any:
    """Return how dense integer codes are chosen, or None."""
    return integers(scheme) if scheme.format == "int" and not scheme.sparsity else None


def joint(weight: Weight, scheme: Scheme) -> Any:
    """Return how what is already sparse or a palette is quantized on top, or None."""
    if scheme.sparsity:
        return integers(scheme)
    return integers(Scheme(8, granularity=PerTensor())) if scheme.double else None


def integers(scheme: Scheme) -> Any:
    from coremltools.optimize import coreml

    per = scheme.granularity
    sharing: dict[str, Any] = {"granularity": "per_channel"}
    if isinstance(per, PerTensor):
        sharing = {"granularity": "per_tensor"}
    elif isinstance(per, PerGroup):
        sharing = {"granularity": "per_block", "block_size": per.group_size}
    kind = ("linear_symmetric", f"int{scheme.bits}") if scheme.symmetric else ("linear", f"uint{scheme.bits}")
    return coreml.OpLinearQuantizerConfig(mode=kind[0], dtype=kind[1], weight_threshold=0, **sharing)


def activation_config(model: Any, layers: Mapping[str, str], schemes: Schemes, default: Scheme) -> Any:
    """Return which operations take int8 activations: the layers asked for and, where all are, what lies between them.

    coremltools' pass knows convolutions, linear layers, poolings and additions. The latter two follow the default where
    most weights are convolutions, so that integers flow from one to the next. A transformer's additions stay in
    float: int8 in its residual stream cost MiniLM 4 dB, and its mask of -10,000 would take a whole range.
    """
    from coremltools.converters.mil.mil import types
    from coremltools.optimize import coreml

    config = coreml.OpLinearQuantizerConfig(mode="linear_symmetric", dtype="int8")
    static = default.quantized and default.activations == "static"
    operations = program_of(model).functions["main"].operations
    between = mostly_convolutions(operations)
    special: dict[str, Any] = {}
    for op in operations:
        layer = next((layers[out.name] for out in op.outputs if out.name in layers), None)
        if layer is not None:
            scheme = schemes[layer]
            asked = scheme is not None and scheme.activations == "static"
        else:
            asked = static and between and types.is_float(op.outputs[0].dtype)
        if asked != static:
            special |= dict.fromkeys((op.name, op.outputs[0].name), config if asked else None)
    return coreml.OptimizationConfig(global_config=config if static else None, op_name_configs=special)


def mostly_convolutions(operations: Iterable[Any]) -> bool:
    """Return whether more than half of the weights in matrices belong to convolutions."""
    sizes = {True: 0, False: 0}
    for op in operations:
        weight = op.inputs.get("weight")
        if weight is not None and weight.val is not None:
            sizes[op.op_type.startswith("conv")] += weight.val.size
    return sizes[True] > sizes[False]

"""torchao's quantizers by scheme: `quantize_` for weight-only and dynamic schemes, PT2E for static ones.

Importing this module imports torch and torchao (seconds).
"""

from __future__ import annotations

import contextlib
import logging
import platform
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import nn

from quantkit.backends._pytorch_errors import export, refusing
from quantkit.backends._pytorch_package import Decision, Layer
from quantkit.contracts import Arrays, Plan, Prepared, Split
from quantkit.errors import CalibrationError, Unsupported
from quantkit.scheme import PerGroup, PerTensor, Scheme

Tensors = tuple[torch.Tensor, ...]
ARM = platform.machine().lower() in ("arm64", "aarch64")
NOISE = (  # (logger, part of the message) that importing torchao writes on a machine without CUDA
    ("torchao", "Failed to load "),
    ("torch.utils._pytree", " is an Enum subclass and is now natively supported by torch.compile"),
)


@contextlib.contextmanager
def _without_import_noise() -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        for name, part in NOISE:
            logger = logging.getLogger(name)

            def keep(record: logging.LogRecord, part: str = part) -> bool:
                return part not in record.getMessage()

            logger.addFilter(keep)
            stack.callback(logger.removeFilter, keep)
        yield


with _without_import_noise():
    from torchao.prototype.quantization.int4 import PrototypeInt4WeightOnlyConfig
    from torchao.quantization import Int8DynamicActivationInt8WeightConfig, Int8WeightOnlyConfig, granularity, quantize_
    from torchao.quantization.pt2e import (
        HistogramObserver,
        MinMaxObserver,
        MovingAverageMinMaxObserver,
        PerChannelMinMaxObserver,
    )
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    if ARM:
        from torchao.quantization.pt2e.quantizer.arm_inductor_quantizer import ArmInductorQuantizer as StaticQuantizer
        from torchao.quantization.pt2e.quantizer.arm_inductor_quantizer import (
            get_default_arm_inductor_quantization_config as static_config,
        )
    else:
        from torchao.quantization.pt2e.quantizer.x86_inductor_quantizer import X86InductorQuantizer as StaticQuantizer
        from torchao.quantization.pt2e.quantizer.x86_inductor_quantizer import (
            get_default_x86_inductor_quantization_config as static_config,
        )


OBSERVERS = {"minmax": MinMaxObserver, "moving_average": MovingAverageMinMaxObserver, "mse": HistogramObserver}
SMALLEST_SCALE = 2.0**-12  # of activations, as in torchao's own configs


class OneScale(PerChannelMinMaxObserver):
    """Per-tensor weights in the per-channel layout: every channel has the tensor's scale.

    Inductor fuses int8 kernels only with per-channel weight scales; a per-tensor `qscheme` is stored as int8 and then
    computed in float.
    """

    def calculate_qparams(self):
        """Return the same scale and zero point for every channel."""
        self.min_val.fill_(self.min_val.min())
        self.max_val.fill_(self.max_val.max())
        return super().calculate_qparams()


class Halved(nn.Module):
    """A bfloat16 network with the float32 face of the original: floats are cast on the way in and out."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, *inputs):
        """Return the network's output as float32."""
        cast = [x.to(torch.bfloat16) if x.is_floating_point() else x for x in inputs]
        return self.network(*cast).float()


def decide(network: nn.Module, layers: Sequence[Layer], plan: Plan) -> list[Decision]:
    """Return what is asked of each layer and why torchao must leave it in float, where it must.

    Raises:
        Unsupported: static and other activations are mixed, or the plan names a layer that has no weights.
    """
    asked = {layer.name: plan.layers.get(layer.name, plan.default) for layer in layers}
    if unknown := sorted(set(plan.layers) - set(asked)):
        raise Unsupported(f"the plan names layers that hold no weights here: {', '.join(unknown[:3])}")
    kinds = {s.activations == "static" for s in asked.values() if s is not None and s.quantized}
    if len(kinds) > 1:
        raise Unsupported("torchao cannot mix static with dynamic or float activations in one network")
    static = True in kinds
    return [Decision(x, asked[x.name], _obstacle(network.get_submodule(x.name), asked[x.name], static)) for x in layers]


def _obstacle(module: nn.Module, scheme: Scheme | None, static: bool) -> str:
    """Return why torchao leaves this layer in (wider) floats than its scheme says, or ""; `static`: as the others."""
    if static and scheme is not None and scheme.format in ("bf16", "fp16"):
        return "torchao's PT2E keeps the layers that it leaves alone in float32"
    if scheme is None or not scheme.quantized:
        return ""
    if scheme.activations == "static":
        return "" if isinstance(module, nn.Linear | nn.Conv2d) else "torchao's PT2E takes Conv2d and Linear only"
    if type(module) is not nn.Linear:
        return f"torchao's {scheme.name} takes Linear only"
    group = scheme.granularity.group_size if isinstance(scheme.granularity, PerGroup) else 1
    multiple = 16 if scheme.bits == 4 else 1
    if module.in_features % group or module.out_features % multiple:
        outputs = f" and outputs of {multiple}" if multiple > 1 else ""
        got = f"[{module.out_features}, {module.in_features}]"
        return f"torch's kernel needs inputs in multiples of {group}{outputs}: got {got}"
    return ""


def apply(prepared: Prepared, example: Tensors, decisions: Sequence[Decision]) -> tuple[nn.Module, float]:
    """Return the quantized network, ready to be exported, and the seconds that calibration took."""
    if any(d.quantized and d.scheme.activations == "static" for d in decisions):
        return _static(prepared, example, decisions)
    halved = any(s and s.format in ("bf16", "fp16") for s in (prepared.plan.default, *(d.scheme for d in decisions)))
    return _eager(prepared.network, halved, [d for d in decisions if d.quantized]), 0.0


def _eager(network: nn.Module, halved: bool, quantized: Sequence[Decision]) -> nn.Module:
    """Return the network with torchao's weight-only and dynamic configs applied.

    Its floats are bfloat16 where `halved` or where a scheme needs it: a layer alone cannot have them.
    """
    four = {d.layer.name: d.scheme for d in quantized if d.scheme.bits == 4}
    eight = {d.layer.name: d.scheme for d in quantized if d.scheme.bits == 8}
    _quantize(network, four)  # first: its codes are better taken from float32 weights
    halved = halved or bool(four)
    if halved:
        network.to(torch.bfloat16)
    _quantize(network, eight)
    for name in four:  # `.to` leaves torchao's scales in float32, for which torch's int4 kernel is 30x slower
        module = network.get_submodule(name)
        weight = module.weight
        scales = weight.scale_and_zero.to(torch.bfloat16)
        module.weight = nn.Parameter(type(weight)(weight.qdata, scales, weight.block_size, weight.shape), False)
    return Halved(network) if halved else network


def _quantize(network: nn.Module, schemes: dict[str, Scheme]) -> None:
    for scheme in set(schemes.values()):
        names = {name for name, own in schemes.items() if own == scheme}
        quantize_(network, _config(scheme), filter_fn=lambda _, name, names=names: name in names)


def _config(scheme: Scheme):
    """Return torchao's config of a scheme; none of them may change inductor's global settings."""
    per = scheme.granularity
    if scheme.bits == 4 and isinstance(per, PerGroup):
        return PrototypeInt4WeightOnlyConfig(group_size=per.group_size, set_inductor_config=False)
    shared: granularity.Granularity = granularity.PerRow()
    if isinstance(per, PerGroup):
        shared = granularity.PerGroup(per.group_size)
    elif isinstance(per, PerTensor):
        shared = granularity.PerTensor()
    if scheme.activations == "none":
        return Int8WeightOnlyConfig(granularity=shared, set_inductor_config=False)
    return Int8DynamicActivationInt8WeightConfig(granularity=[granularity.PerRow(), shared], set_inductor_config=False)


def _static(prepared: Prepared, example: Tensors, decisions: Sequence[Decision]) -> tuple[nn.Module, float]:
    """Return the calibrated and converted graph, and the seconds that calibration took."""
    items = _checked(prepared.calibration, prepared.example)
    quantizer = StaticQuantizer()
    default = prepared.plan.default
    if default.activations == "static":  # global, so that convolutions fuse with the norms and additions around them
        quantizer.set_global(_static_config(default))
    for decision in decisions:
        if not decision.quantized:
            quantizer.set_module_name_qconfig(decision.layer.name, None)
        elif decision.scheme != default:
            quantizer.set_module_name_qconfig(decision.layer.name, _static_config(decision.scheme))
    graph = export(prepared.network, example).module()
    with refusing("torchao's PT2E quantizer cannot take"):
        observed = prepare_pt2e(graph, quantizer)
        start = time.perf_counter()
        for index in range(len(items)):
            observed(*(torch.from_numpy(x) for x in items.item(index)))
        calibration_s = time.perf_counter() - start
        return convert_pt2e(observed), calibration_s


def reduced_range() -> bool:
    """Return True where 8-bit products could overflow: x86 without VNNI."""
    return not ARM and not torch.cpu._is_vnni_supported()


def _static_config(scheme: Scheme):
    """Return torchao's config with the scheme's observers, and their own smallest weight scale.

    Its default for weights stops at 2^-12: channels whose weights all lie below 127 * 2^-12 = 0.03 would lose bits.
    Its default for activations is the histogram of least squared error, whatever a scheme says.
    """
    config = static_config() if ARM else static_config(reduce_range=reduced_range())
    weights = OneScale if isinstance(scheme.granularity, PerTensor) else PerChannelMinMaxObserver
    seeing = OBSERVERS[scheme.ranges].with_args(eps=SMALLEST_SCALE)
    activation = replace(config.input_activation, observer_or_fake_quant_ctr=seeing)
    return replace(
        config,
        input_activation=activation,
        output_activation=activation,
        weight=replace(config.weight, observer_or_fake_quant_ctr=weights),
    )


def _checked(calibration: Split | None, example: Arrays) -> Split:
    """Return the calibration items after looking at each.

    Raises:
        CalibrationError: none, not finite, or of other shapes than the example.
    """
    if calibration is None or not len(calibration):
        raise CalibrationError("int8 with static activations needs calibration items: got none")
    for got, expected in zip(calibration.inputs, example, strict=True):
        if got.shape[1:] != expected.shape[1:] or got.dtype != expected.dtype:
            raise CalibrationError(
                f"calibration items must be like the example: got {got.dtype} {list(got.shape[1:])}, "
                f"expected {expected.dtype} {list(expected.shape[1:])}"
            )
        if not np.isfinite(got).all():
            raise CalibrationError("calibration items must be finite: got nan or inf")
    return calibration

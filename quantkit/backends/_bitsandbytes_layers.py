"""One `nn.Linear` as a bitsandbytes layer: made from float weights, or put together again from stored tensors.

Stored is what the library itself stores (`state_dict()` of its layers): `weight`, `weight.absmax`, `weight.quant_map`,
`weight.nested_absmax`, `weight.quant_state.bitsandbytes__nf4`, … for 4 bits; `weight`, `SCB`, `weight_format` for 8.
Importing this module imports bitsandbytes (seconds): `bitsandbytes.py` does so inside `build` and `open` only.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from types import ModuleType
from typing import Any

import torch
from torch import nn

from quantkit import extras
from quantkit.scheme import PerGroup, Scheme

THRESHOLD = 6.0  # LLM.int8: an input column with a value this large is multiplied in float (arXiv:2208.07339)
COMPUTE = torch.bfloat16  # in which a 4-bit layer multiplies: the fused AVX512-BF16 kernel has no other
OUTPUTS = 32  # the tile of the fused 4-bit kernel; with other widths the first call fails where there is AVX512-BF16
LARGEST = 65504.0  # float16, through which LLM.int8 reads weights
LOUD = ("autograd._functions", "backends.cpu.ops")  # a warning at each float32 call, and one at import


def library() -> ModuleType:
    """Return bitsandbytes, its two warnings about choices that are made here on purpose silenced.

    Raises:
        MissingExtra: it is not installed.
    """
    for name in LOUD:
        logging.getLogger(f"bitsandbytes.{name}").setLevel(logging.ERROR)
    return extras.require("bitsandbytes")


bnb = library()


def obstacle(module: nn.Module, scheme: Scheme) -> str:
    """Return why bitsandbytes must leave a layer in float, or ""."""
    if type(module) is not nn.Linear:  # a subclass is often looked into by its owner (nn.MultiheadAttention)
        return "bitsandbytes quantizes nn.Linear only"
    if scheme.bits == 8:
        largest = float(module.weight.detach().abs().max())
        return f"LLM.int8 reads weights through float16: the largest is {largest:.3g}" if largest > LARGEST else ""
    assert isinstance(scheme.granularity, PerGroup)
    block, got = scheme.granularity.group_size, f"[{module.out_features}, {module.in_features}]"
    if module.in_features % block or module.out_features % OUTPUTS:
        return f"bitsandbytes' 4-bit kernel needs inputs in multiples of {block} and outputs of {OUTPUTS}: got {got}"
    return ""


def quantized(linear: nn.Linear, scheme: Scheme) -> nn.Module:
    """Return the layer in the scheme's format, by the library's own quantizer; it keeps the bias in float32."""
    weight = linear.weight.detach()
    if scheme.bits == 8:
        layer = _empty_int8(linear.in_features, linear.out_features)
        layer.weight = bnb.nn.Int8Params(weight, requires_grad=False, has_fp16_weights=False).to("cpu")
    else:
        assert isinstance(scheme.granularity, PerGroup)
        layer = _empty_4bit(linear.in_features, linear.out_features)
        layer.weight = bnb.nn.Params4bit(
            weight,
            requires_grad=False,
            blocksize=scheme.granularity.group_size,
            compress_statistics=scheme.double,
            quant_type=scheme.format,
            module=layer,
        ).to("cpu")
    if linear.bias is not None:  # a copy: at its first call a layer casts its own bias to COMPUTE, in place
        layer.bias = nn.Parameter(linear.bias.detach().clone(), requires_grad=False)
    return layer.eval()


def restored(tensors: Mapping[str, torch.Tensor], inputs: int, outputs: int) -> nn.Module:
    """Return a layer [outputs, inputs] from its stored tensors.

    Raises:
        KeyError, ValueError: tensors are missing, or of another size than the layer.
    """
    weight = tensors["weight"]
    if "SCB" in tensors:
        layer, expected = _empty_int8(inputs, outputs), {"weight": (outputs, inputs), "SCB": (outputs,)}
        layer.weight = bnb.nn.Int8Params(
            weight, requires_grad=False, has_fp16_weights=False, CB=weight, SCB=tensors["SCB"]
        )
    else:
        layer, expected = _empty_4bit(inputs, outputs), {"weight": (inputs * outputs // 2, 1)}
        stats = {key: value for key, value in tensors.items() if key.startswith("weight.")}
        layer.weight = bnb.nn.Params4bit.from_prequantized(weight, stats, device="cpu", module=layer)
        expected["weight.absmax"] = (inputs * outputs // layer.weight.blocksize,)
    for key, shape in expected.items():
        if tuple(tensors[key].shape) != shape:
            raise ValueError(f"{key} has shape {list(tensors[key].shape)}, expected {list(shape)}")
    layer.bias = nn.Parameter(tensors["bias"], requires_grad=False) if "bias" in tensors else None
    return layer.eval()


class Rows(nn.Module):
    """A bitsandbytes layer that takes inputs of any number of axes (LLM.int8 itself takes two or three)."""

    def __init__(self, layer: nn.Module):
        super().__init__()
        self.layer = layer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return [..., outputs] from [..., inputs]."""
        return self.layer(x.reshape(-1, x.shape[-1])).reshape(*x.shape[:-1], -1)


def _empty_int8(inputs: int, outputs: int) -> Any:
    return bnb.nn.Linear8bitLt(inputs, outputs, bias=False, has_fp16_weights=False, threshold=THRESHOLD, device="meta")


def _empty_4bit(inputs: int, outputs: int) -> Any:
    return bnb.nn.Linear4bit(inputs, outputs, bias=False, compute_dtype=COMPUTE, device="meta")

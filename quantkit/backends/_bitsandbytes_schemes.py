"""What bitsandbytes has a form for, and what it has none for, in words; imports nothing heavy."""

from __future__ import annotations

from typing import TYPE_CHECKING

from quantkit.scheme import PerChannel, PerGroup, Scheme

if TYPE_CHECKING:
    from quantkit.contracts import ModelInfo

BLOCKS = (32, 64, 128, 256, 512, 1024, 2048, 4096)  # weights that share a 4-bit scale


def scheme_refusal(scheme: Scheme) -> str | None:
    """Return why bitsandbytes has no form for a scheme, or None."""
    if not scheme.quantized:
        return None
    if scheme.sparsity or scheme.codes != "nearest" or scheme.ranges != "minmax" or scheme.activation_bits != 8:
        return f"bitsandbytes rounds dense weights to the nearest code and takes extremes as ranges: not {scheme.name}"
    if scheme.format in ("nf4", "fp4"):
        return _refusal_4bit(scheme)
    if scheme.format != "int" or scheme.bits != 8 or scheme.activations != "dynamic":
        return f"bitsandbytes has nf4, fp4 and 8 bits with dynamic activations (LLM.int8), not {scheme.name}"
    if scheme.granularity != PerChannel(0) or not scheme.symmetric or scheme.double:
        return f"LLM.int8 has symmetric codes and one float scale per output channel: got {scheme}"
    return None


def _refusal_4bit(scheme: Scheme) -> str | None:
    per = scheme.granularity
    if scheme.activations != "none":
        return f"bitsandbytes' 4-bit layers keep activations in float: got {scheme.name}"
    if not isinstance(per, PerGroup) or per.axis != 0 or per.group_size not in BLOCKS:
        return f"bitsandbytes' 4-bit codes share a scale in blocks of 32 to 4096 (powers of two) inputs: got {per}"
    return None


def model_refusal(scheme: Scheme, model: ModelInfo) -> str | None:
    """Return why nearly nothing of a model would be quantized, or None."""
    if not scheme.quantized:
        return None
    if "linear" not in model.layers:
        return f"bitsandbytes quantizes Linear layers only: got {', '.join(model.layers)}"
    if model.family in ("cnn", "rnn"):
        kind = "convolutions" if model.family == "cnn" else "LSTM"
        return f"bitsandbytes quantizes Linear layers only: the {kind}, nearly all weights, would stay in float"
    return None

"""What ONNX Runtime's quantizers cannot give, said before anything runs: by scheme alone, then by kind of model."""

from __future__ import annotations

from quantkit.contracts import ModelInfo
from quantkit.scheme import PerChannelGroup, PerGroup, PerTensor, Scheme

PACKED_BITS = (2, 4, 8)  # widths that `MatMulNBits` has a quantizer and a kernel for
GROUPS = (16, 32, 64, 128, 256)


def no_form(scheme: Scheme) -> str | None:
    """Return why no quantizer of ONNX Runtime gives this scheme, whatever the model."""
    if not scheme.quantized:
        return None
    if scheme.format != "int" or scheme.double or scheme.sparsity or isinstance(scheme.granularity, PerChannelGroup):
        return f"ONNX Runtime's quantizers write integer codes on a uniform grid, not {scheme.name}"
    if scheme.activations == "none":
        return _no_packing(scheme) or _no_search(scheme)
    if scheme.bits != 8:
        return f"ONNX Runtime quantizes activations together with 8-bit weights only, not {scheme.bits}-bit"
    if isinstance(scheme.granularity, PerGroup):
        return "ONNX Runtime has no kernel for 8-bit activations with a weight scale per group"
    if scheme.codes != "nearest":
        return f"ONNX Runtime's {scheme.codes.upper()} is for weight-only codes; with quantized activations it rounds"
    return _no_range(scheme)


def _no_packing(scheme: Scheme) -> str | None:
    if scheme.bits not in PACKED_BITS:
        return f"ONNX Runtime packs weight-only codes of 2, 4 or 8 bits, not {scheme.bits}"
    if isinstance(scheme.granularity, PerTensor):
        return "MatMulNBits keeps a scale per block of inputs; it has no form with one scale per tensor"
    if isinstance(scheme.granularity, PerGroup) and scheme.granularity.group_size not in GROUPS:
        return f"MatMulNBits takes groups of 16, 32, 64, 128 or 256 weights, not {scheme.granularity.group_size}"
    return None


def _no_search(scheme: Scheme) -> str | None:
    """Return why weight codes cannot be chosen by HQQ or GPTQ in this scheme."""
    if scheme.codes == "nearest":
        return None
    if scheme.bits != 4:
        return f"{scheme.codes.upper()} is offered for 4-bit codes, not {scheme.bits}-bit"
    if scheme.codes == "hqq" and scheme.symmetric:
        return "ONNX Runtime's HQQ fits a zero point to each group; it has no symmetric form"
    return None


def _no_range(scheme: Scheme) -> str | None:
    """Return why activation codes or their ranges cannot be had."""
    if scheme.activations == "dynamic" and scheme.activation_bits != 8:
        return f"ONNX Runtime's dynamic quantizer has 8-bit activations only, not {scheme.activation_bits}-bit"
    if scheme.ranges == "entropy" and scheme.activation_bits != 8:
        return "ONNX Runtime's entropy calibrator compares with 128 levels, which says nothing of 16-bit activations"
    return None


def no_operation(model: ModelInfo, scheme: Scheme) -> str | None:
    """Return why nearly nothing of this model would be quantized."""
    if not scheme.quantized:
        return None
    if "lstm" in model.layers and model.family == "rnn" and scheme.activations != "dynamic":
        kind = "static" if scheme.activations == "static" else "weight-only"
        return f"ONNX Runtime's {kind} quantizer has no LSTM; the dynamic one has (method int8_dynamic)"
    if "conv2d" in model.layers and model.family == "cnn" and scheme.activations == "none":
        return "ONNX Runtime's weight-only form (MatMulNBits) takes matrix products; the convolutions would stay float"
    if scheme.activations == "none" and "linear" not in model.layers:
        return "ONNX Runtime's weight-only form (MatMulNBits) takes matrix products; this model has none with weights"
    return None


def no_own_form(scheme: Scheme) -> str | None:
    """Return why the QOperator form would add nothing to the QDQ form, or cannot be; the float baseline is let by."""
    if scheme.format == "fp32":
        return None
    if scheme.activations != "static":
        return "only static schemes differ in QOperator form: the file would be the one of backend onnxruntime"
    if scheme.activation_bits != 8:
        return "ONNX Runtime writes 16-bit activations in QDQ form only (backend onnxruntime)"
    return None

"""What a network is, and which methods some installed backend can build for it: read off its layers, nothing is run."""

from __future__ import annotations

from dataclasses import replace

from torch import nn

from quantkit.catalog import BACKENDS, METHODS
from quantkit.contracts import ModelInfo, Quality
from quantkit.deploy import source
from quantkit.engines.config import FORMATS, QuantizationMethod
from quantkit.engines.ptq import METHOD
from quantkit.engines.records import ModelArchitectureInfo
from quantkit.errors import QuantizationError
from quantkit.extras import missing
from quantkit.records import Case

FRAMEWORKS = ("pytorch", "onnx")
M = QuantizationMethod
PIPELINE = {  # method of the façade -> bits of the pipeline's method that must be possible; 0 is dynamic
    M.PTQ_8BIT: 8, M.PTQ_4BIT: 4, M.QAT: 8, M.MIXED_PRECISION: 8, M.DYNAMIC: 0
}  # fmt: skip
FIRST = {  # architecture -> the order in which methods are worth trying; docs/python.md has the reasons
    "cnn": (M.PTQ_8BIT, M.MIXED_PRECISION, M.QAT, M.DYNAMIC, M.PTQ_4BIT),
    "transformer": (M.DYNAMIC, M.PTQ_4BIT, M.MIXED_PRECISION, M.PTQ_8BIT, M.QAT),
    "rnn": (M.DYNAMIC, M.PTQ_4BIT, M.PTQ_8BIT, M.MIXED_PRECISION, M.QAT),
    "mixed": (M.PTQ_8BIT, M.DYNAMIC, M.PTQ_4BIT, M.MIXED_PRECISION, M.QAT),
}


def analyze(model: nn.Module) -> ModelArchitectureInfo:
    """Return what a network is and which methods serve it on this machine's CPU.

    Raises:
        QuantizationError: it is no network, or has no layer with weights.
    """
    info = info_of(model)
    refused = {method: refusal(method, info) for method in M}
    return ModelArchitectureInfo(
        name=type(model).__name__,
        parameters=sum(p.numel() for p in model.parameters()),
        architecture_type=info.family,
        quantization_compatibility={method.value: not reason for method, reason in refused.items()},
        recommended_methods=[method.value for method in FIRST[info.family] if not refused[method]],
        reasons={method.value: reason for method, reason in refused.items() if reason},
    )


def info_of(model: nn.Module) -> ModelInfo:
    """Return the description that backends decide by.

    Raises:
        QuantizationError: it is no network, or has no layer with weights.
    """
    if not isinstance(model, nn.Module):
        raise QuantizationError(f"model must be a torch.nn.Module: got {type(model).__name__}")
    shares = source.shares(model)
    if not shares:
        raise QuantizationError(f"{type(model).__name__} has no layer with weights: there is nothing to quantize")
    none = ModelInfo("own", "own", "mixed", "vision", "", Quality("none", "none"), (), "", "", tuple(shares), ())
    return replace(none, family=source.family(model, shares))


def refusal(method: QuantizationMethod, info: ModelInfo) -> str:
    """Return why no framework can build a method for a network, or an empty string where one can."""
    reasons = []
    for framework in FRAMEWORKS:
        name = METHOD[framework, PIPELINE[method]] if PIPELINE[method] else "int8_dynamic"
        backend = BACKENDS.get(FORMATS[framework])
        absent = missing(backend.extra) if backend.extra else None
        case = Case(info.name, name, backend.name, "cpu")
        reason = (
            absent or METHODS.get(name).unsupported(info) or backend.unsupported(case, info, METHODS.get(name).scheme)
        )
        if not reason:
            return ""
        reasons.append(f"{framework}: {reason}")
    return "; ".join(reasons)


def stored_bytes(model: nn.Module, method: QuantizationMethod) -> int:
    """Return about how many bytes the weights take after a method: codes and a 16-bit scale for 32 of them or a row.

    Exact figures come with the artifact (`quantized_bytes`); what stays in float is counted with 4 bytes.
    """
    taken = {"cnn": nn.Conv2d | nn.Linear}.get(info_of(model).family, nn.Linear | nn.Conv2d | nn.RNNBase)
    bits = {M.PTQ_4BIT: 4 + 16 / 32, M.MIXED_PRECISION: 9.0}.get(method, 8.0)
    total = 0.0
    for module in model.modules():
        for p in module.parameters(recurse=False):
            coded = isinstance(module, taken) and p.ndim > 1
            total += p.numel() * bits / 8 + 2 * p.shape[0] if coded else p.numel() * 4
    return int(total)

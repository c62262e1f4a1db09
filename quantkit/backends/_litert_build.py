"""What builds a .tflite artifact, whichever interpreter will run it, and which schemes its toolchain has."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from quantkit import extras, files
from quantkit.backends import _coverage, _litert_graph, _litert_lower, _litert_quantize, _litert_session
from quantkit.contracts import Arrays, BuildReport, ModelInfo, Prepared
from quantkit.errors import Unsupported
from quantkit.scheme import PerChannel, PerGroup, PerTensor, Scheme

BUILD_MODULES = ("litert_torch", "ai_edge_quantizer.quantizer", "ai_edge_litert.interpreter")
DISTRIBUTIONS = ("torch", "litert-torch", "litert-converter", "ai-edge-quantizer", "ai-edge-litert")
BLOCKS = (32, 64, 128, 256)


def unsupported(model: ModelInfo, scheme: Scheme) -> str | None:
    """Return why the toolchain cannot give this scheme on this kind of model, or None."""
    return _no_form(scheme) or _no_operation(model, scheme)


def versions() -> Mapping[str, str]:
    """Return the versions of exporter, converter and quantizer."""
    return {name: extras.version(name) for name in DISTRIBUTIONS}


def build(prepared: Prepared, folder: Path) -> BuildReport:
    """Write `model.tflite`; `compile_s` is the time of export, conversion, calibration and quantization.

    Raises:
        Unsupported: an operation, layer or scheme that the toolchain refuses, or kernels refuse when they open it.
        CalibrationError: a scheme that needs calibration items without usable ones.
    """
    for module in ("ai_edge_litert", "ai_edge_quantizer", "litert_torch"):
        extras.require(module)
    _check_plan(prepared)
    start = time.perf_counter()
    ready = getattr(prepared.network, "flatbuffer", None)  # of a model that comes from TensorFlow
    source = ready or _litert_lower.lower(prepared.network, prepared.example)
    name_of = _litert_graph.namer(prepared.network)
    ops = list(_litert_graph.weight_ops(_litert_graph.read(source), name_of))
    asked = _litert_quantize.wishes(ops, prepared.plan)
    data, notes = _litert_quantize.quantize(source, ops, asked, prepared.plan.default, prepared.calibration)
    compile_s = time.perf_counter() - start

    model = _litert_graph.read(data)
    layers = _litert_graph.report(model, asked.schemes, asked.reasons, name_of)
    _coverage.refuse_nearly_float([x for x in layers if x.name not in prepared.plan.layers], prepared.plan.default)
    opened = _tried(data, prepared.example)
    _, inputs, outputs = _litert_session.signature(opened)
    files.write_atomic(folder / _litert_session.FILE, data)
    return BuildReport(
        layers=layers,
        weight_bytes=_litert_graph.weight_bytes(model),
        compile_s=compile_s,
        format="fp16" if any(s and not s.quantized for s in asked.schemes.values()) else "fp32",
        notes=(*notes, *_narrowed(prepared.example), _litert_session.who_runs(opened)),
        inputs=_litert_session.described(inputs),
        outputs=_litert_session.described(outputs),
    )


def _check_plan(prepared: Prepared) -> None:
    """Raise Unsupported where the plan's own schemes have no form here: a plan may differ from its method's scheme."""
    for layer, scheme in {"": prepared.plan.default, **prepared.plan.layers}.items():
        if scheme is not None and (reason := _no_form(scheme)):
            raise Unsupported(f"layer {layer!r}: {reason}" if layer else reason)


def _tried(data: bytes, example: Arrays) -> Any:
    """Return the opened artifact after one call: some kernels refuse a type only then."""
    try:
        opened = _litert_session.interpreter(data, 1)
        _, inputs, _ = _litert_session.signature(opened)
        for (_, tensor), array in zip(inputs, _litert_session.by_name(inputs, example).values(), strict=True):
            opened.set_tensor(tensor["index"], array)
        opened.invoke()
    except RuntimeError as error:
        raise Unsupported(f"LiteRT's CPU kernels refuse it: {_litert_session.first_line(error)}") from error
    return opened


def _narrowed(example: Arrays) -> tuple[str, ...]:
    wide = any(x.dtype == "int64" for x in example)
    return ("64-bit integer inputs became 32-bit",) if wide else ()


def _no_form(scheme: Scheme) -> str | None:
    """Return why ai-edge-quantizer has no form of this scheme, whatever the model."""
    if not scheme.quantized:
        return None
    if scheme.format != "int" or scheme.double or scheme.sparsity:
        return f"ai-edge-quantizer writes integer codes on a uniform grid, not {scheme.name}"
    if scheme.bits not in (4, 8):
        return f"LiteRT's CPU kernels take weights of 4 or 8 bits, not {scheme.bits}"
    if not scheme.symmetric:
        return "LiteRT's kernels take weight codes around zero only"
    if scheme.ranges not in ("minmax", "moving_average"):
        return f"ai-edge-quantizer's calibrator keeps the extremes of each item, so it has no {scheme.ranges} ranges"
    if scheme.codes == "hqq":
        return "ai-edge-quantizer has no HQQ"
    return _no_granularity(scheme)


def _no_granularity(scheme: Scheme) -> str | None:
    granularity = scheme.granularity
    if isinstance(granularity, PerGroup):
        if scheme.bits != 4 or scheme.activations == "static":
            return f"LiteRT keeps a scale per block for 4-bit weights with float activations only, not {scheme.name}"
        if granularity.group_size not in BLOCKS:
            return f"LiteRT takes blocks of 32, 64, 128 or 256 weights, not {granularity.group_size}"
    elif not isinstance(granularity, PerChannel | PerTensor):
        return f"LiteRT keeps a weight scale per tensor, output channel or block, not {scheme.name}"
    if granularity.axis if not isinstance(granularity, PerTensor) else 0:
        return "LiteRT's kernels keep weight scales along the output channels"
    if isinstance(granularity, PerTensor) and scheme.activations == "dynamic":
        # measured with ai-edge-litert 2.3: 0.4 dB on a transformer, worse on a CNN, where per channel gives 46 and 34
        return "LiteRT's dynamic kernels answer wrongly with one weight scale per tensor; per channel they are right"
    if scheme.codes == "gptq" and scheme.activations != "none":
        return "GPTQ is done here for float activations only"
    return None


def _no_operation(model: ModelInfo, scheme: Scheme) -> str | None:
    """Return why nearly nothing of this model would be quantized."""
    blocks = isinstance(scheme.granularity, PerGroup) or scheme.codes == "gptq"
    if scheme.quantized and blocks and ("linear" not in model.layers or model.family == "cnn"):
        return f"LiteRT has {scheme.name} for fully connected layers and embeddings; the convolutions would stay float"
    return None

"""Weights and activations as integers with calibrated ranges, by `quantize_static`, in QDQ or QOperator form.

Products of two activations (attention) stay float, and in QDQ form products leave their output float: quantizing them
as well cost a vision transformer 22 dB and brought no speed. What lies between convolutions is quantized, so that
integers flow from one to the next; a transformer's residual stream is not (that cost 10 dB).
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from quantkit.backends import _onnx_calibrate, _onnx_graph
from quantkit.contracts import Split
from quantkit.scheme import PerChannel, Scheme

if TYPE_CHECKING:
    import onnx

Form = Literal["QDQ", "QOperator"]
BETWEEN_CONVOLUTIONS = (
    *("Add", "AveragePool", "Clip", "Concat", "Flatten", "GlobalAveragePool", "MaxPool", "Relu", "Reshape"),
)


def quantize(
    model: onnx.ModelProto,
    scheme: Scheme,
    excluded: Sequence[str],
    calibration: Split | None,
    folder: Path,
    form: Form,
) -> tuple[onnx.ModelProto, list[str]]:
    """Return the graph with all nodes of the operations that are quantized, but the excluded ones, as integers.

    Raises:
        CalibrationError: no usable calibration items.
    """
    import onnx

    calibration = _onnx_calibrate.checked(model, calibration)
    tools = importlib.import_module(_onnx_calibrate.QUANTIZATION)
    operations = ["Conv", "ConvTranspose", "Gemm", "MatMul", "Gather"]
    if _mostly_convolutions(model):
        operations += BETWEEN_CONVOLUTIONS
    source, result = folder / "float.onnx", folder / "static.onnx"
    onnx.save(model, source)
    tools.quantize_static(
        source,
        result,
        **_ranges(model, source, operations, scheme, calibration),
        **_codes(tools, scheme),
        quant_format=tools.QuantFormat[form],
        op_types_to_quantize=operations,
        nodes_to_exclude=list(excluded),
    )
    return onnx.load(result), _notes(scheme, form, len(calibration))


def _codes(tools: Any, scheme: Scheme) -> dict[str, Any]:
    """Return `quantize_static`'s names for what the scheme says of codes and ranges."""
    return {
        "per_channel": isinstance(scheme.granularity, PerChannel),
        "activation_type": tools.QuantType.QInt16 if scheme.activation_bits == 16 else tools.QuantType.QUInt8,
        "weight_type": tools.QuantType.QInt8,
        "calibrate_method": _onnx_calibrate.method(scheme.ranges),
        "extra_options": {
            "WeightSymmetric": scheme.symmetric,
            "OpTypesToExcludeOutputQuantization": ["MatMul", "Gemm"],
        },
    }


def _ranges(
    model: onnx.ModelProto, source: Path, operations: Sequence[str], scheme: Scheme, calibration: Split
) -> dict[str, Any]:
    """Return where `quantize_static` gets its ranges: extremes it takes itself, the others come as a file."""
    if scheme.ranges == "minmax":
        rows = range(len(calibration))
        return {"calibration_data_reader": _onnx_calibrate.reader(model, calibration, rows)}
    return {"calibration_cache_path": _onnx_calibrate.ranges_file(source, operations, scheme, calibration)}


def _notes(scheme: Scheme, form: Form, items: int) -> list[str]:
    kind = "signed 16-bit" if scheme.activation_bits == 16 else "unsigned 8-bit"
    notes = [f"{form}, {kind} activations, {_onnx_calibrate.SAYINGS[scheme.ranges]} of {items} calibration items"]
    if scheme.activation_bits == 16:
        notes.append("the processor has no kernel with 16-bit codes: products compute in float32 on rounded values")
    return notes


def _mostly_convolutions(model: onnx.ModelProto) -> bool:
    sizes: dict[bool, int] = {True: 0, False: 0}
    for node, tensors in _onnx_graph.weight_nodes(model):
        sizes[node.op_type == "Conv"] += sum(map(_onnx_graph.elements, tensors))
    return sizes[True] > sizes[False]

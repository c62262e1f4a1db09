"""Reads weights out of an ONNX graph: which node holds which tensors, in how many bits, in how many bytes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from quantkit.contracts import LayerReport, TensorInfo
from quantkit.scheme import Scheme

if TYPE_CHECKING:
    import onnx

# operation: the inputs that may be weights
WEIGHTS = {
    **dict.fromkeys(("Conv", "ConvTranspose", "ConvInteger", "MatMulNBits"), (1,)),
    **dict.fromkeys(("MatMul", "Gemm", "MatMulInteger"), (0, 1)),
    **dict.fromkeys(("LSTM", "GRU", "RNN", "DynamicQuantizeLSTM"), (1, 2)),
    **dict.fromkeys(("Gather", "GatherBlockQuantized"), (0,)),
    **dict.fromkeys(("QLinearConv", "QLinearMatMul", "QGemm"), (0, 3)),  # three inputs each: codes, scale, zero point
}
# operations that move or convert a constant on its way from the file to the node that uses it
PASSES = {
    *("Cast", "Concat", "DequantizeLinear", "Identity", "QuantizeLinear"),
    *("Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze"),
}
# ONNX's TensorProto.DataType: bits of one element; weights are floats or narrow integers, never int32, int64 or bool
WEIGHT_BITS = {1: 32, 2: 8, 3: 8, 4: 16, 5: 16, 10: 16, 11: 64, 16: 16, 21: 4, 22: 4, 25: 2, 26: 2}
OTHER_BITS = {6: 32, 7: 64, 9: 8, 12: 32, 13: 64}
DTYPES = {1: "float32", 6: "int32", 7: "int64", 9: "bool", 10: "float16", 11: "float64"}  # of inputs and outputs


def elements(tensor: onnx.TensorProto) -> int:
    """Return the number of elements."""
    return math.prod(tensor.dims)


def stored_bytes(tensor: onnx.TensorProto) -> int:
    """Return the bytes of a tensor as stored: two 4-bit codes share one."""
    bits = WEIGHT_BITS.get(tensor.data_type) or OTHER_BITS[tensor.data_type]
    return (elements(tensor) * bits + 7) // 8


def weight_bytes(model: onnx.ModelProto) -> int:
    """Return the bytes of all constants of the graph: weights, scales, zero points, biases, masks, shapes."""
    constants = (a.t for n in model.graph.node if n.op_type == "Constant" for a in n.attribute if a.HasField("t"))
    return sum(map(stored_bytes, (*model.graph.initializer, *constants)))


def ends(model: onnx.ModelProto) -> tuple[tuple[TensorInfo, ...], tuple[TensorInfo, ...]]:
    """Return the inputs and the outputs of the graph."""

    def info(value: onnx.ValueInfoProto) -> TensorInfo:
        tensor = value.type.tensor_type
        return TensorInfo(value.name, tuple(d.dim_value for d in tensor.shape.dim), DTYPES[tensor.elem_type])

    return tuple(map(info, model.graph.input)), tuple(map(info, model.graph.output))


def weight_nodes(model: onnx.ModelProto) -> Iterator[tuple[onnx.NodeProto, list[onnx.TensorProto]]]:
    """Yield each node that holds weights with the stored tensors they come from."""
    constants = {t.name: t for t in model.graph.initializer}
    producers = {name: node for node in model.graph.node for name in node.output}

    def origin(name: str) -> list[onnx.TensorProto] | None:
        """Return the constants that a value is made of, or None when it depends on an input of the graph."""
        if name in constants:
            return [constants[name]]
        node = producers.get(name)
        if node is None or node.op_type not in PASSES:
            return None
        parts = [origin(i) for i in (node.input if node.op_type == "Concat" else node.input[:1])]
        return None if None in parts else [t for part in parts if part for t in part]

    for node in model.graph.node:
        found = [origin(node.input[i]) for i in WEIGHTS.get(node.op_type, ()) if i < len(node.input)]
        unique = {t.name: t for part in found if part for t in part}
        tensors = [t for t in unique.values() if len(t.dims) > 1 and t.data_type in WEIGHT_BITS]
        if tensors:
            yield node, tensors


def report(
    model: onnx.ModelProto, wanted: Mapping[str, Scheme | None], layers: Mapping[str, str]
) -> tuple[LayerReport, ...]:
    """Return what the finished graph holds, layer by layer.

    Args:
        wanted: name of a node in the float graph -> the scheme that the plan asked for.
        layers: name of a node in the float graph -> layer of the network; quantizers only append to a node's name.
    """
    found = []
    for node, tensors in weight_nodes(model):
        name = original(node.name, layers)
        weights, bits = _size(node, tensors)
        scheme = wanted.get(name)
        missed = scheme is not None and bits > scheme.bits
        reason = f"no {scheme.name} form of {node.op_type} in ONNX Runtime's quantizer" if missed and scheme else ""
        found.append(LayerReport(name or node.name, node.op_type, weights, bits, reason))
    return tuple(found)


def original(name: str, layers: Iterable[str]) -> str:
    """Return the longest known node name that `name` starts with, or ""."""
    return max((known for known in layers if name.startswith(known)), key=len, default="")


def _size(node: onnx.NodeProto, tensors: list[onnx.TensorProto]) -> tuple[int, float]:
    """Return the number of weights and the bits of one; `MatMulNBits` packs its codes into bytes and has attributes."""
    if node.op_type == "MatMulNBits":
        values = {a.name: a.i for a in node.attribute}
        return values["K"] * values["N"], values["bits"]
    weights = sum(map(elements, tensors))
    return weights, sum(elements(t) * WEIGHT_BITS[t.data_type] for t in tensors) / weights

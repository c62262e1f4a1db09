"""Layers in float16, by ONNX Runtime's own converter: the whole graph, or single layers of a graph with integers."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Collection
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx

NOTE = "float16; operations without a float16 kernel on the CPU compute in float32"
FLOAT, FLOAT16 = 1, 10  # ONNX's TensorProto.DataType


def whole(model: onnx.ModelProto, kept: Collection[str]) -> onnx.ModelProto:
    """Return the graph in float16 with float32 inputs and outputs; the nodes named in `kept` stay float32."""
    convert = importlib.import_module("onnxruntime.transformers.float16").convert_float_to_float16
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*will be truncated.*")
        model = convert(model, keep_io_types=True, node_block_list=list(kept))
    # A value that several float32 nodes take has got its Cast once for each of them, all under one name.
    first: dict[str, int] = {}
    for index, node in enumerate(model.graph.node):
        first.setdefault(node.output[0], index)
    for index in sorted(set(range(len(model.graph.node))) - set(first.values()), reverse=True):
        del model.graph.node[index]
    return model


def single(model: onnx.ModelProto, kept: Collection[str]) -> onnx.ModelProto:
    """Return the graph with single nodes, all but the `kept` ones, in float16, before others become integers.

    The converter gives every other node a Cast at each end, so that all values between layers would be float16 too:
    pairs of them are taken out again. It goes first because it must know the type of every value, and ONNX's shape
    inference knows nothing of `MatMulNBits`.
    """
    return _without_detours(whole(model, kept))


def _without_detours(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the graph without float32 -> float16 -> float32 between two nodes that compute in float32."""
    import onnx_ir
    from onnx_ir.passes import common

    graph = model.graph
    halves = {n.output[0]: n.input[0] for n in graph.node if n.op_type == "Cast" and n.attribute[0].i == FLOAT16}
    backs = {n.output[0]: n.input[0] for n in graph.node if n.op_type == "Cast" and n.attribute[0].i == FLOAT}
    same = {value: halves[source] for value, source in backs.items() if source in halves}
    for node in graph.node:
        node.input[:] = [same.get(name, name) for name in node.input]
    steps = common.TopologicalSortPass(), common.RemoveUnusedNodesPass()
    model = onnx_ir.to_proto(onnx_ir.passes.Sequential(*steps)(onnx_ir.from_proto(model)).model)
    constants = {t.name for t in model.graph.initializer}
    typed = [value for value in model.graph.value_info if value.name not in constants]  # quantizers transpose those
    del model.graph.value_info[:]
    model.graph.value_info.extend(typed)
    return model

"""Reads weights out of a .tflite flatbuffer: which operation holds which tensors, in how many bits and bytes.

litert-torch names tensors after the module they come from, `Root class/Class_name/Class_name;`, several of them where
operations were fused; plan and report find a layer of the network by that path.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from quantkit import extras
from quantkit.contracts import LayerReport
from quantkit.scheme import Scheme

if TYPE_CHECKING:
    from torch import nn

# operation: the inputs that may be weights
WEIGHTS = {
    **dict.fromkeys(("FULLY_CONNECTED", "CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV", "CONV_3D"), (1,)),
    "EMBEDDING_LOOKUP": (1,),
    "GATHER": (0,),
    "BATCH_MATMUL": (0, 1),
    "UNIDIRECTIONAL_SEQUENCE_LSTM": tuple(range(1, 9)),
}
CONVOLUTIONS = {"CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV", "CONV_3D"}
# bits of one weight as stored; INT32 and INT64 constants are indices, shapes and biases, never weights
BITS = {"FLOAT32": 32, "FLOAT16": 16, "BFLOAT16": 16, "INT16": 16, "INT8": 8, "UINT8": 8, "INT4": 4, "INT2": 2}


@dataclass(frozen=True)
class WeightOp:
    """One operation that holds weights.

    Args:
        kind: the builtin operation, e.g. `CONV_2D`.
        scope: names of its outputs, as the quantizer's recipes match them.
        layer: the layer of the network, or the name of the first weight tensor where none is known.
        tensors: stored weight tensors by name: (buffer, shape, bits).
    """

    kind: str
    scope: str
    layer: str
    tensors: Mapping[str, tuple[int, tuple[int, ...], int]]

    @property
    def width(self) -> int:
        """Number of weights that lie along the axis of a group."""
        return max(shape[-1] for _, shape, _ in self.tensors.values())


def read(data: bytes) -> Any:
    """Return the flatbuffer as a tree of objects."""
    return extras.require("ai_edge_litert.tools.flatbuffer_utils").read_model_from_bytearray(bytearray(data))


def weight_ops(model: Any, name_of: Callable[[Iterable[str]], str] = lambda names: "") -> Iterator[WeightOp]:
    """Yield each operation that holds weights; `name_of` finds a layer from tensor names."""
    schema = extras.require("ai_edge_litert.schema_py_generated")
    utils = extras.require("ai_edge_quantizer.utils.tfl_flatbuffer_utils")
    kinds = {v: k for k, v in vars(schema.BuiltinOperator).items() if isinstance(v, int)}
    types = {v: k for k, v in vars(schema.TensorType).items() if isinstance(v, int)}
    for graph in model.subgraphs:
        kind_of = [kinds[model.operatorCodes[op.opcodeIndex].builtinCode] for op in graph.operators]
        pairs = list(zip(kind_of, graph.operators, strict=True))
        expanded = {op.outputs[0]: op.inputs[0] for kind, op in pairs if kind == "DEQUANTIZE"}
        for kind, op in pairs:
            found = {}
            for position in WEIGHTS.get(kind, ()):
                index = op.inputs[position] if position < len(op.inputs) else -1
                tensor = graph.tensors[expanded.get(index, index)]
                type_name, shape = types[tensor.type], tensor.shape
                if index < 0 or not _stored(model, tensor) or len(shape) < 2 or type_name not in BITS:
                    continue
                found[tensor.name.decode()] = (tensor.buffer, tuple(map(int, shape)), BITS[type_name])
            if found:
                around = [graph.tensors[i].name.decode() for i in (*op.inputs[2:], *op.outputs) if i >= 0]
                layer = name_of((*found, *around)) or next(iter(found))
                yield WeightOp(kind, utils.get_op_scope(op, graph.tensors), layer, found)


def _stored(model: Any, tensor: Any) -> bool:
    return model.buffers[tensor.buffer].data is not None


def weight_bytes(model: Any) -> int:
    """Return the bytes of all constants: weights, biases, masks, shapes, and their scales and zero points."""
    stored = {t.buffer: len(model.buffers[t.buffer].data) for t in _constants(model)}
    parameters = 0
    for tensor in _constants(model):
        if tensor.quantization is not None and tensor.quantization.scale is not None:
            parameters += 4 * len(tensor.quantization.scale)  # float32
            parameters += 8 * len(tensor.quantization.zeroPoint)  # int64
    return sum(stored.values()) + parameters


def _constants(model: Any) -> Iterator[Any]:
    return (t for graph in model.subgraphs for t in graph.tensors if _stored(model, t))


def report(
    model: Any, wanted: Mapping[str, Scheme | None], reasons: Mapping[str, str], name_of: Callable[[Iterable[str]], str]
) -> tuple[LayerReport, ...]:
    """Return what the finished flatbuffer holds, layer by layer; a tensor that many operations share counts once.

    A layer whose tensors are stored in several widths (an LSTM of which one matrix fits no block) has a row for each.

    Args:
        wanted: layer -> the scheme that the plan asked for.
        reasons: scope of an operation in the float graph -> why the quantizer was told to leave it.
    """
    groups: dict[tuple[str, int], dict[int, tuple[int, WeightOp]]] = {}
    for op in weight_ops(model, name_of):
        for buffer, shape, bits in op.tensors.values():
            groups.setdefault((op.layer, bits), {}).setdefault(buffer, (math.prod(shape), op))
    found = []
    for (layer, bits), buffers in groups.items():
        ops = [op for _, op in buffers.values()]
        kind = " and ".join(sorted({op.kind for op in ops}))
        scheme, reason = wanted.get(layer), ""
        if scheme is not None and bits > scheme.bits:
            known = {reasons[op.scope] for op in ops if op.scope in reasons}
            reason = "; ".join(sorted(known)) or f"no {scheme.name} form of {kind} in LiteRT's quantizer"
        found.append(LayerReport(layer, kind, sum(weights for weights, _ in buffers.values()), bits, reason))
    return tuple(found)


def mostly_convolutions(model: Any) -> bool:
    """Return whether convolutions hold more than half of the weights."""
    sizes = {b: (math.prod(s), op.kind) for op in weight_ops(model) for b, s, _ in op.tensors.values()}
    inside = sum(size for size, kind in sizes.values() if kind in CONVOLUTIONS)
    return 2 * inside > sum(size for size, _ in sizes.values())


def namer(network: nn.Module) -> Callable[[Iterable[str]], str]:
    """Return a function from tensor names to the layer of `network` that they belong to, or "".

    Of several layers in a name, the first that holds a matrix is taken; a path that fits two layers names none.
    """
    paths: dict[str, list[tuple[str, list[str]]]] = {}
    for layer, module in network.named_modules():
        if any(p.ndim > 1 for p in module.parameters(recurse=False)):
            chain = _chain(network, layer)
            paths.setdefault(chain[-1], []).append((layer, chain))
    known: dict[str, str] = {}

    def locate(path: str) -> str:
        if path not in known:
            parts = path.split("/")
            fits = [layer for layer, chain in paths.get(parts[-1], ()) if _inside(parts, chain)]
            known[path] = fits[0] if len(fits) == 1 else ""
        return known[path]

    def name_of(names: Iterable[str]) -> str:
        return next((layer for name in names for path in re.split(";+", name) if (layer := locate(path))), "")

    return name_of


def _chain(network: nn.Module, layer: str) -> list[str]:
    """Return the converter's words for each module on the way from the root to a layer."""
    names = layer.split(".") if layer else []
    modules = [network.get_submodule(".".join(names[:depth])) for depth in range(len(names) + 1)]
    suffixes = ["", *(f"_{name}" for name in names)]
    return [f"{type(m).__module__}.{type(m).__qualname__}{suffix}" for m, suffix in zip(modules, suffixes, strict=True)]


def _inside(parts: list[str], chain: list[str]) -> bool:
    """Return whether `parts` is `chain` with some of its middle left out: lists of modules are never called."""
    rest = iter(chain)
    return parts[0] == chain[0] and all(part in rest for part in parts)

"""What a saved .mlpackage holds: which operation takes which stored weights, in how many bits, in how many bytes."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from quantkit.backends._coreml_lower import LEAST, WEIGHTS, Weight
from quantkit.contracts import LayerReport, TensorInfo
from quantkit.mil import package as packages
from quantkit.scheme import PerChannelGroup, PerGroup, Scheme

# parameters of `const` and `constexpr_*` that are codes, plain floats or masks
CODES = {
    *("val", "data", "quantized_data", "indices", "nonzero_data", "indices_nonzero_data"),
    *("mask", "data_mask", "indices_mask"),
}
SCALES = {"scale", "zero_point", "offset", "lut"}
NUMPY = {"FLOAT32": "float32", "FLOAT16": "float16", "INT32": "int32", "DOUBLE": "float64"}


@dataclass(frozen=True)
class Stored:
    """The weights of one layer as they lie in the package."""

    layer: str
    kind: str
    weights: int
    bits: float


class Package:
    """A saved package's program, its operations by the names of their outputs."""

    def __init__(self, spec: Any):
        self._spec = spec
        self._operations = list(packages.operations(spec))
        self._makers = {output.name: op for op in self._operations for output in op.outputs}

    def weight_bytes(self) -> int:
        """Return the bytes of the weight file's blobs, alignment apart, and of the palettes and scales in the text."""
        blobs, text = {}, 0
        for op in self._operations:
            for name, value in values_of(op):
                if value.WhichOneof("value") == "blobFileValue":
                    blobs[place(op, "", value)] = bytes_of(value)
                elif name in CODES | SCALES and op.type.startswith("constexpr_"):
                    text += bytes_of(value)
        return sum(blobs.values()) + text

    def stored(self, layers: Mapping[str, str]) -> Iterator[Stored]:
        """Yield each operation's stored weights; one tensor that two operations share is told once."""
        told = set()
        for op in self._operations:
            for parameter in WEIGHTS.get(op.type, ()):
                for argument in op.inputs[parameter].arguments if parameter in op.inputs else ():
                    maker = self._makers.get(argument.name)
                    layer = next((layers[out.name] for out in op.outputs if out.name in layers), None)
                    if maker is None or argument.name in told or layer is None or not is_constant(maker):
                        continue
                    told.add(argument.name)
                    weights = elements(maker, argument.name)
                    if weights >= LEAST:
                        yield Stored(layer, op.type, weights, 8 * sum(self._codes(maker).values()) / weights)

    def _codes(self, op: Any) -> dict[Any, int]:
        """Return the bytes of the codes that a constant is made of, by place: a mask may be named twice."""
        found = {place(op, name, value): bytes_of(value) for name, value in values_of(op) if name in CODES}
        for name, argument in op.inputs.items():
            for link in argument.arguments if name in CODES else ():
                if link.name in self._makers:
                    found |= self._codes(self._makers[link.name])
        return found

    def activations(self, layers: Iterable[str]) -> tuple[int, int]:
        """Return how many operations with weights take int8 activations, and how many there are."""
        users = [self._makers[name] for name in layers if name in self._makers and "x" in self._makers[name].inputs]
        makers = [self._makers.get(op.inputs["x"].arguments[0].name) for op in users]
        return sum(maker is not None and maker.type == "dequantize" for maker in makers), len(users)

    def tensors(self, which: str) -> tuple[TensorInfo, ...]:
        """Return the `input`s or `output`s as an application sees them."""
        return tuple(described(feature) for feature in getattr(self._spec.description, which))


def described(feature: Any) -> TensorInfo:
    from coremltools import proto

    array = feature.type.multiArrayType
    kind = proto.FeatureTypes_pb2.ArrayFeatureType.ArrayDataType.Name(array.dataType)
    return TensorInfo(feature.name, tuple(array.shape), NUMPY.get(kind, kind))


def is_constant(op: Any) -> bool:
    return op.type == "const" or op.type.startswith("constexpr_")


def values_of(op: Any) -> Iterator[tuple[str, Any]]:
    """Yield the values written into an operation, with their parameters' names (attributes before iOS18)."""
    yield from op.attributes.items()
    for name, argument in op.inputs.items():
        yield from ((name, link.value) for link in argument.arguments if link.WhichOneof("binding") == "value")


def place(op: Any, parameter: str, value: Any) -> tuple[str, Any]:
    """Return where a value lies: in the weight file, or in an operation's own text."""
    if value.WhichOneof("value") == "blobFileValue":
        return value.blobFileValue.fileName, value.blobFileValue.offset
    return op.outputs[0].name, parameter


def bytes_of(value: Any) -> int:
    """Return the bytes of a tensor as stored: narrow codes share bytes."""
    from coremltools import proto

    tensor = value.type.tensorType
    bits = packages.BITS[proto.MIL_pb2.DataType.Name(tensor.dataType)]
    return math.ceil(math.prod(d.constant.size for d in tensor.dimensions) * bits / 8)


def elements(op: Any, output: str) -> int:
    """Return the number of elements of one of an operation's outputs."""
    (found,) = [out for out in op.outputs if out.name == output]
    return math.prod(d.constant.size for d in found.type.tensorType.dimensions)


def layer_reports(
    found: Iterable[Stored], weights: Sequence[Weight], schemes: Mapping[str, Scheme | None]
) -> tuple[LayerReport, ...]:
    """Return one report a layer: an LSTM's matrices are told together."""
    shapes: dict[str, list[tuple[int, ...]]] = defaultdict(list)
    parts: dict[str, list[Stored]] = defaultdict(list)
    for weight in weights:
        shapes[weight.layer].append(weight.shape)
    for stored in found:
        parts[stored.layer].append(stored)
    reports = []
    for layer, group in parts.items():
        total = sum(part.weights for part in group)
        bits = round(sum(part.weights * part.bits for part in group) / total, 2)
        scheme = schemes[layer]
        reason = why_float(scheme, shapes[layer]) if scheme and bits > scheme.bits else ""
        reports.append(LayerReport(layer, ", ".join(sorted({p.kind for p in group})), total, bits, reason))
    return tuple(reports)


def table_reports(tables: Mapping[str, int], default: Scheme) -> Iterator[LayerReport]:
    """Yield what is no layer of the program: it stays in the program's float format, whatever was asked."""
    reason = "folded into a constant that is added, of which only what the fixed shape needs is stored"
    for name, weights in tables.items():
        bits = 32 if default.format == "fp32" else 16
        yield LayerReport(name, "table", weights, bits, reason if default.quantized else "")


def why_float(scheme: Scheme, shapes: Sequence[tuple[int, ...]]) -> str:
    """Return why coremltools left a layer alone, which it does without a word."""
    per = scheme.granularity
    if isinstance(per, PerGroup) and (bad := {shape[1] for shape in shapes if shape[1] % per.group_size}):
        return f"{listed(bad)} inputs do not divide into groups of {per.group_size}: coremltools leaves them in float"
    if isinstance(per, PerChannelGroup) and (bad := {shape[0] for shape in shapes if shape[0] % per.channels}):
        return f"{listed(bad)} channels do not divide into groups of {per.channels}: coremltools leaves them in float"
    return f"coremltools' quantizer skipped it for {scheme.name}"


def listed(numbers: Iterable[int]) -> str:
    return " and ".join(map(str, sorted(numbers)))

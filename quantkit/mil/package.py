"""Reading a saved .mlpackage: the manifest, the protobuf and the blobs of weight.bin, each checked before use.

Nothing here trusts the file: a length that does not fit, a blob without its mark, or an entry that is missing is a
`CorruptFile`. A package carries no checksum of its own, so a changed byte inside a weight cannot be seen here; whoever
writes the package records a hash. Blob layout: MILBlob's StorageFormat, 64 bytes of metadata before each blob (mark,
type, size in bytes, offset of the data, all little-endian).
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from quantkit.errors import CorruptFile, Unsupported

BLOB_MARK = 0xDEADBEEF
METADATA_BYTES = 64
BITS = {
    **{"FLOAT16": 16, "FLOAT32": 32, "FLOAT64": 64, "BFLOAT16": 16, "BOOL": 8},
    **{f"{sign}INT{bits}": bits for sign in ("", "U") for bits in (1, 2, 3, 4, 6, 8, 16, 32, 64)},
}


def corrupt(package: Path, what: str) -> CorruptFile:
    return CorruptFile(f"{package} cannot be read as a Core ML package: {what}; build it again")


def read(package: Path) -> tuple[Any, Path]:
    """Return the model specification (protobuf) of a package and the folder of its weights.

    Raises:
        CorruptFile: a part is missing, truncated or inconsistent, or it holds no ML program.
    """
    from coremltools import proto
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    model = model_file(package)
    spec = proto.Model_pb2.Model()
    try:
        spec.ParseFromString(model.read_bytes())
    except DecodeError as error:
        raise corrupt(package, f"{model.name} is not a model specification ({error})") from error
    kind = spec.WhichOneof("Type")
    if kind != "mlProgram":
        raise corrupt(package, f"got a model of type {kind}, expected mlProgram")
    weights = model.parent / "weights"
    for op in operations(spec):
        for value in values(op):
            check_blob(package, weights, value)
    return spec, weights


def model_file(package: Path) -> Path:
    """Return the file of the specification, as the manifest names it."""
    manifest = package / "Manifest.json"
    if not manifest.is_file():
        raise corrupt(package, "Manifest.json is missing")
    try:
        entries = json.loads(manifest.read_text())
        place = entries["itemInfoEntries"][entries["rootModelIdentifier"]]["path"]
    except (ValueError, KeyError, TypeError) as error:
        raise corrupt(package, f"Manifest.json names no model ({type(error).__name__}: {error})") from error
    model = package / "Data" / str(place)
    if not model.is_file():
        raise corrupt(package, f"{place} is missing")
    return model


def main(spec: Any, package: Path) -> Any:
    """Return the block of the function that Core ML runs when none is named."""
    name = spec.description.defaultFunctionName or "main"
    if name not in spec.mlProgram.functions:
        raise corrupt(package, f"the program has no function {name!r}")
    function = spec.mlProgram.functions[name]
    if function.opset not in function.block_specializations:
        raise corrupt(package, f"function {name!r} has no block for its opset {function.opset!r}")
    return function.block_specializations[function.opset]


def operations(spec: Any) -> Iterator[Any]:
    """Yield every operation of every function, nested blocks included."""
    for function in spec.mlProgram.functions.values():
        for block in function.block_specializations.values():
            yield from nested(block)


def nested(block: Any) -> Iterator[Any]:
    for op in block.operations:
        yield op
        for inner in op.blocks:
            yield from nested(inner)


def values(op: Any) -> Iterator[Any]:
    """Yield the values written into an operation itself."""
    yield from op.attributes.values()
    for argument in op.inputs.values():
        yield from (binding.value for binding in argument.arguments if binding.WhichOneof("binding") == "value")


def check_blob(package: Path, weights: Path, value: Any) -> None:
    """Check that a value kept in a weight file lies inside that file and has the length that its type needs."""
    from coremltools import proto

    if value.WhichOneof("value") != "blobFileValue":
        return
    place = value.blobFileValue
    file = weights / place.fileName.rpartition("/")[2]
    if not file.is_file():
        raise corrupt(package, f"the weight file {file.name} is missing")
    size = file.stat().st_size
    if place.offset + METADATA_BYTES > size:
        raise corrupt(package, f"{file.name} ends at byte {size}, expected a blob at {place.offset}")
    with file.open("rb") as handle:
        handle.seek(place.offset)
        mark, _, length, start = struct.unpack("<IIQQ", handle.read(24))
    tensor = value.type.tensorType
    bits = BITS[proto.MIL_pb2.DataType.Name(tensor.dataType)]
    needed = math.ceil(math.prod(d.constant.size for d in tensor.dimensions) * bits / 8)
    if mark != BLOB_MARK or length != needed or start + length > size:
        raise corrupt(
            package, f"{file.name} at {place.offset}: got {length} bytes from {start} on, expected {needed} of {size}"
        )


def to_pymil(package: Path, spec: Any, weights: Path) -> Any:
    """Return the specification as a PyMIL program, the values read from the weight file.

    Raises:
        CorruptFile: coremltools finds it inconsistent.
        Unsupported: coremltools itself has no reader for something in it.
    """
    from coremltools.converters.mil.frontend.milproto.load import load

    try:
        return load(spec, specification_version=spec.specificationVersion, file_weights_dir=str(weights))
    except NotImplementedError as error:
        raise Unsupported(f"coremltools cannot read {package}: {error}") from error
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, AssertionError, RuntimeError) as error:
        # its reader checks nothing up front: whatever does not fit ends in one of these
        raise corrupt(package, f"coremltools' reader says {type(error).__name__}: {error}") from error

"""Pieces of generated code in each language: the artifact's inputs, its output and its labels."""

from __future__ import annotations

import math
from typing import Any

from quantkit.deploy.names import literal, variables
from quantkit.errors import Unsupported

SWIFT = {"float32": "Float", "int32": "Int32", "float16": "Float", "float64": "Double"}
SWIFT_MLX = {"float32": "Float", "int32": "Int32", "int64": "Int64", "int8": "Int8", "uint8": "UInt8", "bool": "Bool"}
KOTLIN = {
    "float32": ("FloatArray", "Float"),
    "int32": ("IntArray", "Int"),
    "int64": ("LongArray", "Long"),
    "int8": ("ByteArray", "Int8"),
    "uint8": ("ByteArray", "Int8"),
    "bool": ("BooleanArray", "Boolean"),
}
CPP = {
    "float32": ("FLOAT", 4), "float16": ("FLOAT16", 2), "float64": ("DOUBLE", 8), "int64": ("INT64", 8),
    "int32": ("INT32", 4), "int8": ("INT8", 1), "uint8": ("UINT8", 1), "bool": ("BOOL", 1),
}  # fmt: skip


def pieces(manifest: dict[str, Any], backend: str) -> dict[str, str]:
    """Return every piece of the languages that the format's application is written in.

    Raises:
        Unsupported: an input's type has no form in that language.
    """
    made: dict[str, str] = {}
    for language in LANGUAGES.get(backend, (python,)):
        made |= language(manifest)
    return made


def swift(manifest: dict[str, Any]) -> dict[str, str]:
    """Return the pieces of the Swift package: parameters, features by name, the golden call."""
    inputs, output = manifest["inputs"], manifest["outputs"][0]
    table = SWIFT_MLX if manifest["backend"]["name"] == "mlx" else SWIFT
    parameters, features, golden, arrays = [], [], [], []
    for position, (variable, info) in enumerate(zip(variables(t["name"] for t in inputs), inputs, strict=True)):
        kind, shape = _type(table, info, "Swift"), info["shape"]
        name, count = literal(info["name"], "swift"), math.prod(shape)
        parameters.append(f"{variable}: [{kind}]")
        features.append(f"{name}: try Self.feature({variable}, shape: {shape}, type: .{info['dtype']}),")
        arrays.append(f"{name}: MLXArray({variable}, {shape}),")
        stored = ", stored: Float16.self" if info["dtype"] == "float16" else ""
        golden.append(f'{variable}: try golden("input{position}", call: call, count: {count}, as: {kind}.self{stored})')
    return {
        "swift_parameters": ", ".join(parameters),
        "swift_features": _lines(features, 12),
        "swift_arrays": _lines(arrays, 12),
        "swift_golden": _lines(golden, 16, ","),
        "swift_output": literal(output["name"], "swift"),
        "swift_labels": _list(manifest["labels"], "swift", "[", "]"),
        "swift_stateful": "true" if manifest["model"]["stepwise"] else "false",
        "output_values": str(math.prod(output["shape"])),
    }


def kotlin(manifest: dict[str, Any]) -> dict[str, str]:
    """Return the pieces of the Kotlin library."""
    inputs = manifest["inputs"]
    parameters, writes, golden = [], [], []
    for position, (variable, info) in enumerate(zip(variables(t["name"] for t in inputs), inputs, strict=True)):
        kind, method = _type(KOTLIN, info, "Kotlin")
        count = math.prod(info["shape"])
        words = literal(f"{info['name']} takes {count} values: got ", "kotlin")[:-1]
        parameters.append(f"{variable}: {kind}")
        writes += [f'require({variable}.size == {count}) {{ {words}${{{variable}.size}}" }}']
        writes += [f"inputs[{position}].write{method}({variable})"]
        golden.append(f'{variable} = golden("input{position}.bin", call).{_reader(kind)}')
    return {
        "kotlin_parameters": ", ".join(parameters),
        "kotlin_writes": _lines(writes, 8),
        "kotlin_golden": _lines(golden, 16, ","),
        "kotlin_file": literal(_artifact(manifest), "kotlin"),
        "kotlin_labels": f"listOf<String>({_list(manifest['labels'], 'kotlin', '', '')})",
    }


def _reader(kind: str) -> str:
    return {
        "FloatArray": "floats()", "IntArray": "ints()", "LongArray": "longs()", "BooleanArray": "booleans()",
        "ByteArray": "bytes()",
    }[kind]  # fmt: skip


def cpp(manifest: dict[str, Any]) -> dict[str, str]:
    """Return the pieces of the C++ program."""
    rows = []
    for info in manifest["inputs"]:
        kind, size = _type(CPP, info, "C++")
        shape = ", ".join(map(str, info["shape"]))
        rows.append(f"{{{literal(info['name'], 'cpp')}, {{{shape}}}, ONNX_TENSOR_ELEMENT_DATA_TYPE_{kind}, {size}}},")
    return {"cpp_inputs": _lines(rows, 4), "cpp_labels": _list(manifest["labels"], "cpp", "{", "}")}


def python(manifest: dict[str, Any]) -> dict[str, str]:
    """Return the pieces of the Python program."""
    rows = [f"({t['name']!r}, {tuple(t['shape'])!r}, {t['dtype']!r})," for t in manifest["inputs"]]
    labels = ", ".join(map(repr, manifest["labels"]))
    return {"python_inputs": _lines(rows, 4), "python_labels": f"[{labels}]"}


LANGUAGES = {"coreml": (swift,), "mlx": (python, swift), "litert": (kotlin,), "onnxruntime": (python, cpp)}


def _type(table: dict[str, Any], info: dict[str, Any], language: str) -> Any:
    if info["dtype"] not in table:
        raise Unsupported(
            f"the {language} template has no form of input {info['name']!r}, which is {info['dtype']}: "
            "export without --template"
        )
    return table[info["dtype"]]


def _artifact(manifest: dict[str, Any]) -> str:
    """Return the name of the artifact's first file (the only one, where a format has one file)."""
    return next((name.rpartition("/")[2] for name in manifest["files"] if name.startswith("artifact/")), "")


def _lines(lines: list[str], indent: int, between: str = "") -> str:
    return f"{between}\n{' ' * indent}".join(lines)


def _list(texts: list[str], language: str, begin: str, end: str) -> str:
    return begin + ", ".join(literal(text, language) for text in texts) + end

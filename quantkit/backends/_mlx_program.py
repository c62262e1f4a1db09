"""The MLX artifact and its interpreter: `graph.json` lists ATen operations, `weights.safetensors` holds their weights.

Weights are named as in the original network; a quantized one has codes, scales and biases as `mlx.nn.QuantizedLinear`
has them, and its settings (bits, group_size, mode) stand in the graph; kernels of convolutions have channels last, as
in `mlx.nn`. Opening needs MLX only. Inputs and the output are float32 outside, whatever is computed in between.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx

from quantkit.backends import _mlx_ops, _mlx_ops_layers, _mlx_ops_shape
from quantkit.backends._mlx_weights import MODES, resolve
from quantkit.errors import CorruptFile

GRAPH, WEIGHTS = "graph.json", "weights.safetensors"
FORMAT, VERSION = "quantkit-mlx", 1
OPS: dict[str, Callable[..., Any]] = {**_mlx_ops.OPS, **_mlx_ops_shape.OPS, **_mlx_ops_layers.OPS}
FLOATS = {"float32": mx.float32, "bfloat16": mx.bfloat16}
OTHERS = {
    "bool": mx.bool_, "int8": mx.int8, "int16": mx.int16, "int32": mx.int32, "int64": mx.int64, "uint8": mx.uint8,
}  # fmt: skip
KEYS = {"format", "version", "dtype", "inputs", "output", "tensors", "quantization", "nodes"}


class Program:
    """A graph with its weights, ready to be called.

    Args:
        graph: what `graph.json` holds; in it the type `float` means the program's own float type.
        tensors: name -> array, what `weights.safetensors` holds.
    """

    def __init__(self, graph: dict[str, Any], tensors: dict[str, mx.array]):
        self._graph = graph
        self._types = {**OTHERS, "float": FLOATS[graph["dtype"]]}
        self._weights = resolve(tensors, graph["quantization"])

    def __call__(self, *inputs: mx.array) -> mx.array:
        """Return the output, float32, as a lazy array."""
        values = self.start(inputs)
        for node in self._graph["nodes"]:
            values[node["name"]] = self.step(node, values)
        output = values[self._graph["output"]["node"]]
        return output.astype(mx.float32) if mx.issubdtype(output.dtype, mx.floating) else output

    def start(self, inputs: Sequence[mx.array]) -> dict[str, Any]:
        """Return the values by name that are there before the first operation."""
        names = [known["name"] for known in self._graph["inputs"]]
        return {name: self._own(x) for name, x in zip(names, inputs, strict=True)}

    def step(self, node: dict[str, Any], values: dict[str, Any]) -> Any:
        """Return the value of one operation, in the type that the graph records."""
        arguments = [self._argument(a, values) for a in node["args"]]
        keywords = {key: self._argument(a, values) for key, a in node["kwargs"].items()}
        value = OPS[node["op"]](*arguments, **keywords)
        wanted = self._types.get(node["dtype"])
        return value.astype(wanted) if wanted is not None and value.dtype != wanted else value

    def _own(self, x: mx.array) -> mx.array:
        return x.astype(self._types["float"]) if mx.issubdtype(x.dtype, mx.floating) else x

    def _argument(self, value: Any, values: dict[str, Any]) -> Any:
        if isinstance(value, list):
            return [self._argument(part, values) for part in value]
        if not isinstance(value, dict):
            return value
        ((kind, name),) = value.items()
        if kind == "node":
            return values[name]
        if kind == "weight":
            return self._weights[name]
        return self._types[name] if kind == "dtype" else float(name)  # JSON has no inf and nan


def read(folder: Path) -> tuple[dict[str, Any], dict[str, mx.array]]:
    """Return the graph and the (lazy) weights of an artifact, checked against each other.

    Raises:
        CorruptFile: a file is missing, cannot be read, is of another version, or the two do not belong together.
    """
    graph = _graph(folder / GRAPH)
    path = folder / WEIGHTS
    if not path.is_file():
        raise CorruptFile(f"{path} is missing: build the case again")
    try:
        tensors: Any = mx.load(str(path))
    except RuntimeError as error:
        raise CorruptFile(f"MLX cannot read {path}, build the case again: {str(error).splitlines()[0]}") from error
    got = {name: describe(tensor) for name, tensor in tensors.items()}
    if got != graph["tensors"]:
        names = sorted(n for n in {*got, *graph["tensors"]} if got.get(n) != graph["tensors"].get(n))
        first = f"{names[0]} is {got.get(names[0])}, expected {graph['tensors'].get(names[0])}"
        raise CorruptFile(f"{path} does not belong to its graph ({first}): build the case again")
    return graph, tensors


def describe(tensor: mx.array) -> list[Any]:
    """Return type and shape as the graph records them."""
    return [str(tensor.dtype).removeprefix("mlx.core."), list(tensor.shape)]


def _graph(path: Path) -> dict[str, Any]:
    """Return the graph, or say what is wrong with it."""
    try:
        graph = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CorruptFile(f"{path} is missing: build the case again") from error
    except ValueError as error:
        raise CorruptFile(f"{path} is no JSON, build the case again: {error}") from error
    if not isinstance(graph, dict) or graph.get("format") != FORMAT:
        raise CorruptFile(f"{path} is no graph of {FORMAT}: build the case again")
    if graph.get("version") != VERSION:
        raise CorruptFile(f"{path} has version {graph.get('version')}, expected {VERSION}: build the case again")
    if lacking := sorted(KEYS - set(graph)):
        raise CorruptFile(f"{path} lacks {', '.join(lacking)}: build the case again")
    if unknown := sorted({node["op"] for node in graph["nodes"]} - set(OPS)):
        raise CorruptFile(f"{path} has operations unknown here ({', '.join(unknown)}): build the case again")
    modes = {settings["mode"] for settings in graph["quantization"].values()}
    if graph["dtype"] not in FLOATS or not modes <= MODES:
        raise CorruptFile(f"{path} has formats unknown here ({graph['dtype']}, {modes}): build the case again")
    return graph

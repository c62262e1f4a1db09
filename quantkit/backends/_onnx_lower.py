"""PyTorch network -> float32 ONNX graph, by `torch.onnx.export(dynamo=True)`.

The exporter folds constants and renames freely, so every node that holds weights is renamed here to the layer it came
from: ONNX Runtime's optimizer keeps node names, and plan and report can speak of layers.
"""

from __future__ import annotations

import ast
import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from quantkit import extras
from quantkit.backends import _onnx_graph
from quantkit.contracts import Arrays
from quantkit.errors import Unsupported

if TYPE_CHECKING:
    import onnx
    from torch import nn

OPSET = 21  # the first with 4-bit integers
LARGEST = 2**31 - 2**24  # protobuf refuses 2 GiB; some room for the graph itself
OUTPUT = "output"  # inputs are called as the parameters of forward by the exporter itself
SCOPES = "pkg.torch.onnx.name_scopes"


@dataclass(frozen=True)
class Lowered:
    """The float32 graph, and for the name of each node that holds weights the layer it came from."""

    model: onnx.ModelProto
    layers: dict[str, str]


def lower(network: nn.Module, example: Arrays) -> Lowered:
    """Return the network as a checked ONNX graph with the fixed shapes of `example`.

    Raises:
        Unsupported: the exporter knows no ONNX form of an operation (named in the message), or the graph is too large.
    """
    import torch

    onnx = extras.require("onnx")
    extras.require("onnxscript")
    size = sum(p.numel() * p.element_size() for p in network.parameters())
    if size > LARGEST:
        raise Unsupported(f"the float32 network has {size / 2**30:.1f} GiB; one ONNX file holds less than 2 GiB")
    inputs = tuple(torch.from_numpy(x) for x in example)
    with quiet():
        try:
            program = torch.onnx.export(
                network, inputs, output_names=[OUTPUT], dynamo=True, verbose=False, opset_version=OPSET
            )
        except (torch.onnx.errors.OnnxExporterError, RuntimeError) as error:
            raise Unsupported(f"torch.onnx.export refuses this network: {_cause(error)}") from error
    assert program is not None
    model = program.model_proto
    layers = _name_nodes(model, network)
    _strip(model)
    onnx.checker.check_model(model)
    return Lowered(model, layers)


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the exporter's notes that are no news to a user: deprecations of its own, torchvision not installed."""
    registry = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = registry.level
    registry.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=FutureWarning, message=".*LeafSpec.*")
            warnings.filterwarnings("ignore", category=UserWarning, message=".*were assigned during export.*")
            yield
    finally:
        registry.setLevel(level)


def _cause(error: BaseException) -> str:
    """Return one line: the operation that has no ONNX form, or the first line of the innermost cause."""
    chain = [error]
    while (inner := chain[-1].__cause__ or chain[-1].__context__) is not None and inner not in chain:
        chain.append(inner)
    text = "\n".join(map(str, chain))
    if found := re.search(r"No ONNX function found for <OpOverload\(op='([\w.:]+)'", text):
        where = re.search(r"node \[name='?(\w+)|%(\w+) :", text)
        return f"operation {found[1]} has no ONNX form" + (f" (node {where[1] or where[2]})" if where else "")
    lines = [line.strip() for line in str(chain[-1]).splitlines() if line.strip()]
    return f"{type(chain[-1]).__name__}: {lines[0] if lines else 'no message'}"


def _name_nodes(model: onnx.ModelProto, network: nn.Module) -> dict[str, str]:
    """Rename each node that holds weights to its layer (`layer#2` where it is used again); return name -> layer."""
    layers: dict[str, str] = {}
    for node, tensors in _onnx_graph.weight_nodes(model):
        layer = _module(node, network) or tensors[0].name.rpartition(".")[0] or tensors[0].name
        used = sum(other == layer for other in layers.values())
        node.name = layer if not used else f"{layer}#{used + 1}"
        layers[node.name] = layer
    return layers


def _module(node: onnx.NodeProto, network: nn.Module) -> str:
    """Return the innermost module that the exporter recorded, or "" where it holds no matrix (a folded batch norm)."""
    for entry in node.metadata_props:
        if entry.key == SCOPES:
            scopes = ast.literal_eval(entry.value)  # ['', 'layers', 'layers.0', 'linear_3']: the last is the operation
            path = scopes[-2] if len(scopes) > 1 else ""
            own = network.get_submodule(path).parameters(recurse=False)
            return path if any(p.ndim > 1 for p in own) else ""
    return ""


def _strip(model: onnx.ModelProto) -> None:
    """Drop stack traces (no part of an artifact) and the shapes of constants (quantizers transpose those)."""
    graph = model.graph
    constants = {t.name for t in graph.initializer}
    shapes = [v for v in graph.value_info if v.name not in constants]
    del graph.value_info[:]
    graph.value_info.extend(shapes)
    for item in (model, graph, *graph.node, *graph.value_info, *graph.input, *graph.output, *graph.initializer):
        item.ClearField("metadata_props")
        item.ClearField("doc_string")

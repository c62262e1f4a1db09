"""The network around its bitsandbytes layers: a torch.export program with a named hole for each of them.

A hole is a call of `quantkit::bnb_linear(x, layer, outputs)`. The operation only stands in the saved graph: opening
puts that session's own layer in its place, so nothing is shared between sessions and no weight is stored twice.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import nn

from quantkit.backends import _bitsandbytes_layers as bnb_layers
from quantkit.backends._pytorch_errors import export, without_known_warnings
from quantkit.contracts import TensorInfo
from quantkit.errors import CorruptFile

GRAPH, WEIGHTS = "graph.pt2", "weights.safetensors"
PATHS = ("stack_trace", "nn_module_stack", "torch_fn")  # where the model's code lies on this machine: no part of it
Tensors = dict[str, torch.Tensor]


@torch.library.custom_op("quantkit::bnb_linear", mutates_args=())
def bnb_linear(x: torch.Tensor, layer: str, outputs: int) -> torch.Tensor:
    """Stand for the layer of that name: [..., inputs] -> [..., outputs]."""
    raise AssertionError(f"layer {layer!r} was not put into the graph")


@bnb_linear.register_fake
def _(x, layer, outputs):
    return x.new_empty((*x.shape[:-1], outputs))


class Hole(nn.Module):
    """Where a layer will be, while the network is traced."""

    def __init__(self, name: str, outputs: int):
        super().__init__()
        self.name, self.outputs = name, outputs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return a call by name, [..., outputs]."""
        return bnb_linear(x, self.name, self.outputs)


def save(network: nn.Module, example: tuple[torch.Tensor, ...]) -> tuple[bytes, set[str]]:
    """Return the network, holes included, as a torch.export archive, and the names of the holes that it calls.

    Raises:
        Unsupported: torch.export cannot trace it.
    """
    with torch.no_grad(), without_known_warnings():
        program = export(network, example)
    program.example_inputs = None
    for module in program.graph_module.modules():
        for node in module.graph.nodes if isinstance(module, torch.fx.GraphModule) else ():
            for key in PATHS:
                node.meta.pop(key, None)
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    return buffer.getvalue(), {str(node.args[1]) for node in holes(program.graph)}


def load(folder: Path) -> tuple[torch.export.ExportedProgram, dict[str, Tensors]]:
    """Return the program and the stored tensors of each hole's layer.

    Raises:
        CorruptFile: a file is missing or unreadable, or the two do not belong together.
    """
    path = folder / GRAPH
    if not path.is_file():
        raise CorruptFile(f"{path} is missing: build the case again")
    try:
        with without_known_warnings():
            program = torch.export.load(path)
    except (RuntimeError, ValueError, LookupError, EOFError, AttributeError, zipfile.BadZipFile) as error:
        first = next(iter(str(error).splitlines()), type(error).__name__)
        raise CorruptFile(f"torch.export cannot read {path}, build the case again: {first}") from error
    named = {node.args[1] for node in holes(program.graph)}
    tensors = _tensors(folder / WEIGHTS) if named else {}
    if named != set(tensors):
        odd = min(named ^ set(tensors))
        raise CorruptFile(f"{path} and {WEIGHTS} do not belong together (layer {odd!r}): build the case again")
    return program, tensors


def _tensors(path: Path) -> dict[str, Tensors]:
    """Return layer -> the tensors stored for it, by the library's own names."""
    try:
        with safetensors.safe_open(path, "pt") as file:
            owners = json.loads(file.metadata()["layers"])
            return {name: {key: file.get_tensor(f"{name}.{key}") for key in keys} for name, keys in owners.items()}
    except FileNotFoundError as error:
        raise CorruptFile(f"{path} is missing: build the case again") from error
    except (safetensors.SafetensorError, TypeError, LookupError, ValueError) as error:
        raise CorruptFile(f"safetensors cannot read {path}, build the case again: {error}") from error


def pack(layers: Mapping[str, nn.Module]) -> bytes:
    """Return layers as one safetensors file, before their first call (which repacks weights in place)."""
    states = {name: layer.state_dict() for name, layer in layers.items()}
    # layers share the library's code book, safetensors wants each tensor to itself: hence the copies
    flat = {f"{name}.{key}": tensor.clone() for name, state in states.items() for key, tensor in state.items()}
    owners = json.dumps({name: list(state) for name, state in states.items()})
    return safetensors.torch.save(flat, {"format": "pt", "layers": owners})


def holes(graph: torch.fx.Graph) -> list[torch.fx.Node]:
    """Return the graph's calls by name."""
    return [node for node in graph.nodes if node.target is torch.ops.quantkit.bnb_linear.default]


def faces(program: torch.export.ExportedProgram) -> tuple[tuple[TensorInfo, ...], tuple[TensorInfo, ...]]:
    """Return the program's inputs and outputs."""
    values = {node.name: node.meta["val"] for node in program.graph.nodes if "val" in node.meta}

    def described(names: tuple[object, ...]) -> tuple[TensorInfo, ...]:
        known = [(str(name), values[str(name)]) for name in names]
        return tuple(TensorInfo(name, tuple(v.shape), str(v.dtype).removeprefix("torch.")) for name, v in known)

    return described(program.graph_signature.user_inputs), described(program.graph_signature.user_outputs)


def fill(program: torch.export.ExportedProgram, tensors: Mapping[str, Tensors]) -> nn.Module:
    """Return the program as a module of its own, each hole filled with its layer.

    Raises:
        CorruptFile: a layer's stored tensors do not fit its place in the graph.
    """
    module = program.module(check_guards=False)  # the session checks the inputs
    assert isinstance(module, torch.fx.GraphModule)
    places: dict[str, str] = {}
    for node in holes(module.graph):
        x, name, outputs = node.args
        if name not in places:
            places[name] = f"bnb_layer_{len(places)}"
            try:
                layer = bnb_layers.restored(tensors[name], x.meta["val"].shape[-1], outputs)
            except (LookupError, ValueError, AssertionError) as error:
                raise CorruptFile(f"{WEIGHTS} does not fit {GRAPH} in layer {name!r}: {error}") from error
            module.add_submodule(places[name], bnb_layers.Rows(layer))
        with module.graph.inserting_before(node):
            node.replace_all_uses_with(module.graph.call_module(places[name], (x,)))
        module.graph.erase_node(node)
    module.recompile()
    return module


def repack(module: nn.Module) -> None:
    """Call every layer once with zeros: the first call of a 4-bit layer turns its codes into the kernel's order.

    A layer in training mode would neither be repacked nor fast (30 to 50 times slower).
    """
    rows = [part for part in module.modules() if isinstance(part, bnb_layers.Rows)]
    assert not any(part.layer.training for part in rows)
    with torch.no_grad():
        for part in rows:
            part(torch.zeros(1, part.layer.in_features))

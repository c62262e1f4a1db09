"""PyTorch network -> list of ATen operations as `graph.json` has them, by `torch.export`.

What MLX has in one piece (linear, conv2d, lstm, norms, attention, embedding) stays in one piece; everything else is
decomposed by torch's own table until only known operations are left.
"""

from __future__ import annotations

import contextlib
import math
import operator
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from quantkit.backends._mlx_program import OPS
from quantkit.contracts import Arrays, TensorInfo
from quantkit.errors import Unsupported

if TYPE_CHECKING:
    from torch import fx, nn

KERNELS = {"aten.conv1d.default", "aten.conv2d.default", "aten.convolution.default"}
NORM = "aten._native_batch_norm_legit_no_training.default"
DTYPES = {
    **dict.fromkeys((torch.float32, torch.bfloat16, torch.float16), "float"),
    **{t: str(t).removeprefix("torch.") for t in (torch.bool, torch.int8, torch.int16, torch.int32, torch.int64)},
    torch.uint8: "uint8",
}
# said to torch's allocator: nothing that an MLX array has
ALLOCATION = {"device", "layout", "memory_format", "non_blocking", "pin_memory"}


@dataclass
class Lowered:
    """The graph, and what is known of the tensors it uses.

    Args:
        nodes: operations in order, as `graph.json` has them.
        shapes: name of a node -> shape of its value, for values that are one array.
        output: name of the node whose value is the answer.
        tensors: stored name -> tensor, as the operations want it (kernels with channels last).
        uses: stored name -> who uses it, as `aten.linear.default[1]`: operation and argument.
    """

    nodes: list[dict[str, Any]] = field(default_factory=list)
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    inputs: tuple[TensorInfo, ...] = ()
    output: str = ""
    tensors: dict[str, torch.Tensor] = field(default_factory=dict)
    uses: dict[str, set[str]] = field(default_factory=dict)


def lower(network: nn.Module, example: Arrays) -> Lowered:
    """Return the network as operations that the interpreter knows, with the fixed shapes of `example`.

    Raises:
        Unsupported: torch.export cannot trace the network, or an operation has no MLX form here (both named).
    """
    with _refusing("torch.export cannot trace the network"):
        program = torch.export.export(network, tuple(map(torch.from_numpy, example)))
        if _unknown(program.graph):  # this takes most of the time
            table = torch.export.default_decompositions()
            for op in [op for op in table if str(op) in OPS]:
                del table[op]
            program = program.run_decompositions(table)
    if program.graph_signature.buffers_to_mutate:
        changed = ", ".join(program.graph_signature.buffers_to_mutate.values())
        raise Unsupported(f"the network changes its buffers ({changed}): the artifact keeps no state between calls")
    names = _stored_names(program, network)
    graph = program.graph
    lowered = Lowered(tensors=_tensors(program, names), inputs=_inputs(program))
    _fold_norms(graph, names, lowered.tensors)
    graph.eliminate_dead_code()
    for node in graph.nodes:
        if node.op == "call_function" and not str(node.target).startswith("aten._assert"):
            _append(lowered, node, names)
    (answer, *_) = next(iter(reversed(graph.nodes))).args[0]
    lowered.output = answer.name
    _turn_kernels(lowered)
    lowered.tensors = {name: tensor for name, tensor in lowered.tensors.items() if name in lowered.uses}
    return lowered


def _name(node: fx.Node) -> str:
    return "getitem" if node.target is operator.getitem else str(node.target)


def _unknown(graph: fx.Graph) -> bool:
    """Return whether an operation has to be decomposed, or writes into its argument (those are unknown too)."""
    return any(_name(node) not in OPS for node in graph.nodes if node.op == "call_function")


@contextlib.contextmanager
def _refusing(what: str) -> Iterator[None]:
    """Turn a refusal, which may be any exception (the model's own code runs in it), into one line."""
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.filterwarnings("ignore", r"The tensor attributes? .*_flat_weights.* assigned during export")
            warnings.filterwarnings("ignore", r"`isinstance\(treespec, LeafSpec\)` is deprecated", FutureWarning)
            yield
    except (OSError, MemoryError):  # these say nothing about the model
        raise
    except Exception as error:
        first = next((line.strip() for line in str(error).splitlines() if line.strip()), "no message")
        raise Unsupported(f"{what}: {type(error).__name__}: {first[:300]}") from error


def _stored_names(program: Any, network: nn.Module) -> dict[str, str]:
    """Return placeholder -> name of its tensor; a shared parameter has one name, the first."""
    first = {id(p): name for name, p in network.named_parameters()}
    signature = program.graph_signature
    shared = {name: first[id(p)] for name, p in network.named_parameters(remove_duplicate=False)}
    found = {key: shared[name] for key, name in signature.inputs_to_parameters.items()}
    return {**found, **signature.inputs_to_buffers, **signature.inputs_to_lifted_tensor_constants}


def _tensors(program: Any, names: dict[str, str]) -> dict[str, torch.Tensor]:
    known = {**program.constants, **program.state_dict}
    return {name: known[name].detach() for name in names.values()}


def _inputs(program: Any) -> tuple[TensorInfo, ...]:
    names = set(program.graph_signature.user_inputs)
    values = [(node.name, node.meta["val"]) for node in program.graph.nodes if node.name in names]
    return tuple(TensorInfo(name, tuple(x.shape), str(x.dtype).removeprefix("torch.")) for name, x in values)


def _append(lowered: Lowered, node: fx.Node, names: dict[str, str]) -> None:
    """Add one operation.

    Raises:
        Unsupported: the interpreter does not know it, or a type of its arguments or result.
    """
    op = _name(node)
    if op not in OPS:
        raise Unsupported(f"operation {op} (node {node.name}) has no MLX form here")
    value = node.meta.get("val")
    dtype = _dtype(value.dtype, node) if isinstance(value, torch.Tensor) else None
    encoded = [_encode(a, node, names) for a in node.args]
    keywords = {k: _encode(a, node, names) for k, a in node.kwargs.items() if k not in ALLOCATION}
    for position, argument in [*enumerate(encoded), *keywords.items()]:
        for name in _weights(argument):
            lowered.uses.setdefault(name, set()).add(f"{op}[{position}]")
    lowered.nodes.append({"name": node.name, "op": op, "args": encoded, "kwargs": keywords, "dtype": dtype})
    if isinstance(value, torch.Tensor):
        lowered.shapes[node.name] = tuple(value.shape)


def _dtype(dtype: torch.dtype, node: fx.Node) -> str:
    if dtype not in DTYPES:
        raise Unsupported(f"type {dtype} of operation {node.target} (node {node.name}) has no MLX form here")
    return DTYPES[dtype]


def _encode(value: Any, node: fx.Node, names: dict[str, str]) -> Any:
    """Return an argument as JSON: values and weights by name, types by name, infinities as words."""
    if isinstance(value, torch.fx.Node):
        return {"weight": names[value.name]} if value.name in names else {"node": value.name}
    if isinstance(value, list | tuple):
        return [_encode(part, node, names) for part in value]
    if isinstance(value, torch.dtype):
        return {"dtype": _dtype(value, node)}
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": str(value)}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise Unsupported(f"argument {value!r} of operation {node.target} (node {node.name}) has no MLX form here")


def _weights(argument: Any) -> Iterator[str]:
    """Yield the stored names in an encoded argument."""
    if isinstance(argument, list):
        for part in argument:
            yield from _weights(part)
    elif isinstance(argument, dict) and "weight" in argument:
        yield argument["weight"]


def _fold_norms(graph: fx.Graph, names: dict[str, str], tensors: dict[str, torch.Tensor]) -> None:
    """Fold each batch norm that directly follows a convolution into its kernel and bias."""
    shared = [name for node in graph.nodes if node.name in names and node.users for name in [names[node.name]]]
    for norm in [node for node in graph.nodes if str(node.target) == NORM]:
        conv = norm.args[0]
        if str(conv.target) not in KERNELS or len(conv.users) > 1 or not all(u.args[1] == 0 for u in norm.users):
            continue
        kernel, bias = conv.args[1], conv.args[2] if len(conv.args) > 2 else None
        own = [kernel, *([bias] if bias is not None else []), *(a for a in norm.args[1:5] if a is not None)]
        if any(a.name not in names or len(a.users) > 1 or shared.count(names[a.name]) > 1 for a in own):
            continue
        place = bias if bias is not None else norm.args[3]  # the mean's placeholder is free from now on
        _fold_one(conv, norm, place, names, tensors)


def _fold_one(
    conv: fx.Node, norm: fx.Node, place: fx.Node, names: dict[str, str], tensors: dict[str, torch.Tensor]
) -> None:
    kernel = names[conv.args[1].name]
    bias = tensors[names[place.name]] if len(conv.args) > 2 and conv.args[2] is not None else None
    weight, shift, mean, variance = (a if a is None else tensors[names[a.name]] for a in norm.args[1:5])
    fused = torch.nn.utils.fusion.fuse_conv_bn_weights(
        tensors[kernel], bias, mean, variance, norm.args[6], weight, shift
    )
    names[place.name] = f"{kernel.removesuffix('.weight')}.bias"
    tensors[kernel], tensors[names[place.name]] = (part.detach() for part in fused)
    conv.args = (conv.args[0], conv.args[1], place, *conv.args[3:])
    for user in list(norm.users):
        user.replace_all_uses_with(conv)


def _turn_kernels(lowered: Lowered) -> None:
    """Store kernels with channels last, as MLX's convolutions take them.

    Raises:
        Unsupported: a kernel that is computed, or that is used otherwise too.
    """
    for node in lowered.nodes:
        if node["op"] in KERNELS and "weight" not in node["args"][1]:
            raise Unsupported(f"operation {node['op']} (node {node['name']}) has a kernel that is computed")
    for name, uses in lowered.uses.items():
        kernels = {f"{op}[1]" for op in KERNELS}
        if uses & kernels and not uses <= kernels:
            raise Unsupported(f"tensor {name} is a convolution's kernel and something else: {', '.join(sorted(uses))}")
        if uses & kernels:
            lowered.tensors[name] = lowered.tensors[name].movedim(1, -1).contiguous()

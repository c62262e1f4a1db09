"""Lowers a prepared model for MLX: torch.export takes the graph, MLX's own quantizer the weights, as mlx-lm uses it.

As in mlx-lm, all floats are rounded to bfloat16 first, and scales and biases are bfloat16 too: an affine weight takes
bits + 32 / group_size bits.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlx.core as mx

from quantkit import files
from quantkit.backends import _coverage, _mlx_lower, _mlx_program, _mlx_weights
from quantkit.backends._mlx_lower import Lowered
from quantkit.contracts import BuildReport, LayerReport, Plan, Prepared, TensorInfo
from quantkit.errors import Unsupported
from quantkit.scheme import PerGroup, Scheme

if TYPE_CHECKING:
    from torch import nn

TAKES = {"aten.linear.default[1]", "aten.embedding.default[0]", "aten.lstm.input[2]"}  # quantized matrices
GROUPS = (64, 32)  # tried in this order where a scheme wants one scale per channel
FLOAT_BITS = {"float32": 32, "bfloat16": 16}


@dataclass(frozen=True)
class Layer:
    """A matrix of the network: the name that reports and plans know, its stored name, and what becomes of it.

    Args:
        module: path of the module that owns it; `name` says which of the module's matrices where it has several.
        settings: MLX's keywords group_size, bits, mode, or None where it stays in float, with the reason if asked for.
    """

    name: str
    module: str
    kind: str
    stored: str
    settings: dict[str, Any] | None
    reason: str


def build(prepared: Prepared, folder: Path) -> BuildReport:
    """Write the artifact and return what is stored in it; `graph.json`, written last, makes it whole."""
    start = time.perf_counter()
    network, plan = prepared.network, prepared.plan
    lowered = _mlx_lower.lower(network, prepared.example)
    layers = layers_of(network, lowered, plan)
    quantized = {layer.stored: layer.settings for layer in layers if layer.settings}
    with mx.stream(mx.cpu):
        half = bool(quantized) or plan.default.bits == 16
        dtype = "bfloat16" if half else "float32"
        tensors = _tensors(lowered, quantized, _mlx_program.FLOATS[dtype])
        graph = _graph(lowered, quantized, tensors, dtype)
        output = _rehearse(graph, tensors, lowered)
        report = tuple(_report(layer, graph) for layer in layers)
        _coverage.refuse_nearly_float(report, plan.default)
        _save(folder, graph, tensors)
    _, stored = _mlx_program.read(folder)
    return BuildReport(
        layers=report,
        weight_bytes=sum(tensor.nbytes for tensor in stored.values()),
        compile_s=time.perf_counter() - start,
        format="bf16" if half else "fp32",
        notes=_notes(plan, layers, lowered, network),
        inputs=lowered.inputs,
        outputs=(output,),
    )


def layers_of(network: nn.Module, lowered: Lowered, plan: Plan) -> list[Layer]:
    """Return every matrix that a layer owns and the graph uses, with what the plan makes of it.

    Raises:
        Unsupported: the plan names a layer that holds no weights.
    """
    found, shared = [], dict(network.named_parameters(remove_duplicate=False))
    owners = {id(p): name for name, p in network.named_parameters()}
    asked = _asked(network, plan)
    for path, module in network.named_modules():
        matrices = {key: p for key, p in module.named_parameters(recurse=False) if p.ndim > 1}
        if list(module.children()):
            continue  # a bare parameter beside layers, as a table of positions, is no layer
        for key in matrices:
            stored = f"{path}.{key}" if path else key
            if owners[id(shared[stored])] == stored and stored in lowered.uses:
                scheme = asked.get(path, plan.default)
                settings, reason = _decide(scheme, lowered, stored)
                name = path if len(matrices) == 1 else stored
                found.append(Layer(name or stored, path, type(module).__name__, stored, settings, reason))
    return found


def _asked(network: nn.Module, plan: Plan) -> dict[str, Scheme | None]:
    """Return the plan's exceptions by the module that stores the weights: a tied layer is stored with the first.

    Raises:
        Unsupported: the plan names a layer that holds no weights.
    """
    owners = {id(p): name.rpartition(".")[0] for name, p in network.named_parameters() if p.ndim > 1}
    asked: dict[str, Scheme | None] = {}
    for path, scheme in plan.layers.items():
        module = dict(network.named_modules()).get(path)
        own = [] if module is None else [p for p in module.parameters(recurse=False) if p.ndim > 1]
        if not own:
            raise Unsupported(f"the plan names a layer that holds no weights here: {path!r}")
        for parameter in own:
            owner = owners[id(parameter)]
            asked[owner] = None if owner in asked and asked[owner] != scheme else scheme  # in doubt, float
    return asked


def _decide(scheme: Scheme | None, lowered: Lowered, stored: str) -> tuple[dict[str, Any] | None, str]:
    """Return MLX's settings for a matrix, or None and why it stays in float although the scheme quantizes."""
    if scheme is None or not scheme.quantized:
        return None, ""
    if others := sorted(lowered.uses[stored] - TAKES):
        return None, f"MLX quantizes matrix products and embeddings only: {others[0].partition('[')[0]} takes floats"
    width = lowered.tensors[stored].shape[-1]
    sizes = (scheme.granularity.group_size,) if isinstance(scheme.granularity, PerGroup) else GROUPS
    fits = [size for size in sizes if width % size == 0]
    if not fits:
        return None, f"its {width} inputs are no multiple of a group of {min(sizes)}"
    mode = "affine" if scheme.format == "int" else scheme.format
    return {"bits": scheme.bits, "group_size": fits[0], "mode": mode}, ""


def _tensors(lowered: Lowered, quantized: Mapping[str, Any], dtype: mx.Dtype) -> dict[str, mx.array]:
    """Return all that is stored: floats in `dtype`, quantized matrices by MLX's quantizer, integers as they are."""
    found: dict[str, mx.array] = {}
    for name, tensor in lowered.tensors.items():
        array = mx.array(tensor.float().numpy() if tensor.is_floating_point() else tensor.numpy())
        array = array.astype(dtype) if tensor.is_floating_point() else array
        found |= _mlx_weights.quantize(name, array, quantized[name]) if name in quantized else {name: array}
    return found


def _graph(lowered: Lowered, quantized: Mapping[str, Any], tensors: dict[str, mx.array], dtype: str) -> dict[str, Any]:
    return {
        "format": _mlx_program.FORMAT,
        "version": _mlx_program.VERSION,
        "dtype": dtype,
        "inputs": [asdict(x) for x in lowered.inputs],
        "output": {"node": lowered.output},
        "tensors": {name: _mlx_program.describe(tensor) for name, tensor in tensors.items()},
        "quantization": dict(quantized),
        "nodes": lowered.nodes,
    }


def _rehearse(graph: dict[str, Any], tensors: dict[str, mx.array], lowered: Lowered) -> TensorInfo:
    """Go through the graph without computing (MLX is lazy), and compare every shape with torch's.

    Raises:
        Unsupported: MLX refuses an operation, or makes another shape of it; the message names it.
    """
    types = {**_mlx_program.OTHERS, **_mlx_program.FLOATS}
    program = _mlx_program.Program(graph, tensors)
    values = program.start([mx.zeros(x.shape, dtype=types[x.dtype]) for x in lowered.inputs])
    for node in lowered.nodes:
        where = f"operation {node['op']} (node {node['name']})"
        try:
            value = values[node["name"]] = program.step(node, values)
        except Unsupported as error:
            raise Unsupported(f"{where}: {error}") from error
        except (TypeError, ValueError, RuntimeError, IndexError) as error:
            raise Unsupported(f"{where}: MLX refuses: {str(error).splitlines()[0]}") from error
        expected = lowered.shapes.get(node["name"])
        if expected is not None and tuple(value.shape) != expected:
            raise Unsupported(f"{where}: MLX makes {tuple(value.shape)} of it, expected {expected}")
    answer = values[lowered.output]
    dtype = "float32" if mx.issubdtype(answer.dtype, mx.floating) else str(answer.dtype).removeprefix("mlx.core.")
    return TensorInfo("output", tuple(answer.shape), dtype)


def _save(folder: Path, graph: dict[str, Any], tensors: dict[str, mx.array]) -> None:
    """Write the weights, then the graph: without it nothing can be opened.

    Raises:
        StorageError: the folder cannot be written or the disk is full.
    """
    path = folder / _mlx_program.WEIGHTS
    try:
        mx.save_safetensors(str(path), tensors, metadata={"format": "mlx"})
    except RuntimeError as error:  # MLX's own words for what the system refuses
        path.unlink(missing_ok=True)
        raise files.storage_error(OSError(0, str(error).splitlines()[0]), path) from error
    files.write_atomic(folder / _mlx_program.GRAPH, json.dumps(graph, separators=(",", ":")).encode())


def _report(layer: Layer, graph: dict[str, Any]) -> LayerReport:
    """Return what is stored of a layer: codes are packed into words of 32 bits."""
    dtype, shape = graph["tensors"][layer.stored]
    settings = graph["quantization"].get(layer.stored)
    bits = settings["bits"] if settings else FLOAT_BITS[dtype]
    weights = math.prod(shape) * 32 // bits if settings else math.prod(shape)
    return LayerReport(layer.name, layer.kind, weights, bits, layer.reason)


def _notes(plan: Plan, layers: list[Layer], lowered: Lowered, network: nn.Module) -> tuple[str, ...]:
    """Tell what was chosen on the way."""
    settings = [layer.settings for layer in layers if layer.settings]
    affine = sorted({s["group_size"] for s in settings if s["mode"] == "affine"})
    notes = ["one thread: MLX has no thread count on the CPU"]
    if affine and plan.default.symmetric:
        notes.append("MLX's integer codes are asymmetric: a scale and a bias per group, both bfloat16")
    if affine and not isinstance(plan.default.granularity, PerGroup):
        sizes = " or ".join(map(str, affine))
        notes.append(f"MLX has no scale per channel: groups of {sizes} weights along the inputs instead")
    if settings:
        notes.append("what is not quantized is bfloat16, activations too, as mlx-lm has it")
    both = {"aten.linear.default[1]", "aten.embedding.default[0]"}
    notes += [f"{x.name} is embedding and product: stored once" for x in layers if both <= lowered.uses[x.stored]]
    return tuple(notes)

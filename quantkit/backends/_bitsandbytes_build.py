"""Lowers a prepared model: bitsandbytes quantizes its Linear layers, torch.export takes the graph around them."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from quantkit import files
from quantkit.backends import _bitsandbytes_graph as graphs
from quantkit.backends import _bitsandbytes_layers as bnb_layers
from quantkit.backends import _coverage
from quantkit.backends._bitsandbytes_schemes import scheme_refusal
from quantkit.contracts import BuildReport, LayerReport, Plan, Prepared
from quantkit.errors import Unsupported
from quantkit.scheme import Scheme

NESTED_TABLE = 1024  # bytes of the 256 float32 values that double quantization stores with each layer
CAST = "network."


@dataclass(frozen=True)
class Asked:
    """A layer of the original network, what the plan asks of it, and why it stays in float nevertheless.

    Args:
        weights: number of weights of each of its matrices, by full parameter name; without those counted before.
    """

    name: str
    kind: str
    weights: dict[str, int]
    scheme: Scheme | None
    reason: str = ""

    @property
    def quantized(self) -> bool:
        """True where bitsandbytes will quantize the layer."""
        return self.scheme is not None and self.scheme.quantized and not self.reason


class Halved(nn.Module):
    """A bfloat16 network with the float32 face of the original: floats are cast on the way in and out."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network.to(torch.bfloat16)

    def forward(self, *inputs):
        """Return the network's output as float32."""
        cast = [x.to(torch.bfloat16) if x.is_floating_point() else x for x in inputs]
        return self.network(*cast).float()


def build(prepared: Prepared, folder: Path) -> BuildReport:
    """Write `weights.safetensors` (where there are codes) and `graph.pt2`; report what is in them."""
    start = time.perf_counter()
    scheme = prepared.plan.default
    asked = decide(prepared.network.eval(), prepared.plan)
    _coverage.refuse_nearly_float(expected(asked), scheme, widest=8)
    schemes = {a.name: a.scheme for a in asked if a.quantized and a.scheme}
    halved = not scheme.quantized and scheme.bits == 16
    called = _write(prepared, schemes, folder, halved=halved)
    compile_s = time.perf_counter() - start

    program, stored = graphs.load(folder)
    found, idle = _found(program, stored, halved=halved), sorted(set(schemes) - called)
    layers = tuple(report(a, found) for a in asked if a.name not in idle)
    _coverage.refuse_nearly_float(layers, scheme, widest=8)
    inputs, outputs = graphs.faces(program)
    return BuildReport(
        layers=layers,
        weight_bytes=_weight_bytes(program, stored),
        compile_s=compile_s,
        format="bf16" if halved else "fp32",
        notes=tuple(_notes(set(schemes.values()), idle)),
        inputs=inputs,
        outputs=outputs,
    )


def _write(prepared: Prepared, schemes: Mapping[str, Scheme], folder: Path, *, halved: bool) -> set[str]:
    """Quantize, trace and write, the graph last; return the layers that the network calls (no other is stored)."""
    network = prepared.network
    layers = quantize(network, schemes)
    example = tuple(torch.from_numpy(x) for x in prepared.example)
    archive, called = graphs.save(Halved(network) if halved else network, example)
    if called:
        packed = graphs.pack({name: layer for name, layer in layers.items() if name in called})
        files.write_atomic(folder / graphs.WEIGHTS, packed)
    files.write_atomic(folder / graphs.GRAPH, archive)
    return called


def decide(network: nn.Module, plan: Plan) -> list[Asked]:
    """Return what is asked of every layer that owns a weight matrix (two or more axes), in the network's order.

    Raises:
        Unsupported: the plan names a layer that has no weights, or gives one a scheme that cannot be done.
    """
    asked, owners = [], _owners(network)
    for name, module in network.named_modules():
        own = {f"{name}.{key}": p for key, p in module.named_parameters(recurse=False) if p.ndim > 1}
        if not own or list(module.children()):
            continue
        scheme = plan.layers.get(name, plan.default)
        reason = _reason(name, module, scheme, plan.default)
        weights = {key: p.numel() for key, p in own.items() if owners[id(p)][0] == key}
        for key, p in own.items():
            if not reason and (others := [other for other in owners[id(p)] if other != key]):
                reason = f"shares its weight with {others[0].rpartition('.')[0]}, which codes would store a second time"
        floating = scheme is None or not scheme.quantized
        asked.append(Asked(name, type(module).__name__, weights, scheme, "" if floating else reason))
    if unknown := sorted(set(plan.layers) - {a.name for a in asked}):
        raise Unsupported(f"the plan names layers that hold no weights here: {', '.join(unknown[:3])}")
    return asked


def _owners(network: nn.Module) -> dict[int, list[str]]:
    """Return every full name of each parameter."""
    owners: dict[int, list[str]] = {}
    for key, parameter in network.named_parameters(remove_duplicate=False):
        owners.setdefault(id(parameter), []).append(key)
    return owners


def _reason(name: str, module: nn.Module, scheme: Scheme | None, default: Scheme) -> str:
    """Return why the toolchain leaves a layer in float although its scheme quantizes, or "".

    Raises:
        Unsupported: the plan's own scheme for this layer cannot be done, or a weight is nan or infinite (the library
            would give codes without a word).
    """
    if scheme is None:
        return ""
    if refused := scheme_refusal(scheme):
        raise Unsupported(f"layer {name!r}: {refused}")
    if not scheme.quantized and scheme != default:
        raise Unsupported(f"layer {name!r}: one layer in {scheme.name} is not done; None keeps it as the network is")
    if not scheme.quantized:
        return ""
    if not all(bool(p.isfinite().all()) for p in module.parameters()):
        raise Unsupported(f"layer {name!r} holds weights that are nan or infinite: repair the checkpoint")
    return bnb_layers.obstacle(module, scheme)


def quantize(network: nn.Module, schemes: Mapping[str, Scheme]) -> dict[str, nn.Module]:
    """Return the layers as bitsandbytes layers, and leave a hole for each in the network."""
    layers: dict[str, nn.Module] = {}
    for name, scheme in schemes.items():
        linear = network.get_submodule(name)
        assert isinstance(linear, nn.Linear)
        layers[name] = bnb_layers.quantized(linear, scheme)
        network.set_submodule(name, graphs.Hole(name, linear.out_features))
    return layers


def expected(asked: list[Asked]) -> tuple[LayerReport, ...]:
    """Return the report as it will be at best: enough to refuse before anything is written."""
    return tuple(
        LayerReport(
            a.name, a.kind, sum(a.weights.values()), a.scheme.bits if a.quantized and a.scheme else 32, a.reason
        )
        for a in asked
    )


def _found(
    program: torch.export.ExportedProgram, stored: Mapping[str, graphs.Tensors], *, halved: bool
) -> dict[str, int]:
    """Return the bits that each matrix takes in the artifact, by full parameter name."""
    bits = {
        (name.removeprefix(CAST) if halved else name): 8 * value.nbytes for name, value in program.state_dict.items()
    }
    return bits | {f"{name}.weight": 8 * tensors["weight"].nbytes for name, tensors in stored.items()}


def report(asked: Asked, found: Mapping[str, int]) -> LayerReport:
    """Return one layer as stored; of a shared matrix, as the layer that it is counted with."""
    total = sum(asked.weights.values())
    bits = sum(found[key] for key in asked.weights) / total if total else 32.0
    return LayerReport(asked.name, asked.kind, total, bits, asked.reason)


def _weight_bytes(program: torch.export.ExportedProgram, stored: Mapping[str, graphs.Tensors]) -> int:
    """Return the bytes of all stored tensors but the constants of the graph; a shared one counts once."""
    floats = {tensor.data_ptr(): tensor.nbytes for tensor in program.state_dict.values()}
    return sum(floats.values()) + sum(tensor.nbytes for tensors in stored.values() for tensor in tensors.values())


def _notes(schemes: set[Scheme], idle: list[str]) -> Iterator[str]:
    """Tell what was chosen, and what a user would not expect."""
    if any(s.bits == 8 for s in schemes):
        yield (
            f"LLM.int8: input columns with a value of {bnb_layers.THRESHOLD} or more are multiplied in float; "
            "such columns are sought over all rows of a call, so that items answered together affect one another"
        )
    if any(s.bits == 4 for s in schemes):
        yield (
            "4-bit layers multiply in bfloat16, the rest is float32; with AVX512-BF16 their codes are repacked when "
            "opened and their scales rounded to bfloat16, elsewhere weights are dequantized at each call"
        )
    if any(s.double for s in schemes):
        yield (
            f"double quantization stores a table of {NESTED_TABLE} bytes with each layer: "
            "layers below about 24,000 weights become larger, not smaller"
        )
    if idle:
        yield f"never called by the network, so not stored: {', '.join(idle)}"

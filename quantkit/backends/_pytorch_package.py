"""Reads an AOTInductor package: which constants it stores, as what type, and which original layer each belongs to.

The package holds the source of its wrapper, which lists every stored constant (`constants_info_[i].dtype = …`).
Freezing renames packed weights to `_frozen_param7`: those are found again by their number of weights, in order.
"""

from __future__ import annotations

import math
import re
import zipfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quantkit.contracts import LayerReport

if TYPE_CHECKING:
    from torch import nn

BITS = {"float64": 64, "float32": 32, "bfloat16": 16, "float16": 16, "int8": 8, "uint8": 8}
FIELD = re.compile(r"constants_info_\[(\d+)\]\.(\w+) = (.*);")
KERNEL = re.compile(r"aoti_torch_cpu_(\w+)\(")
RENAMED = re.compile(r"_frozen_param\d+|_tensor_constant\d+")

FOLDED = "the compiler folded it back to float"


@dataclass(frozen=True)
class Constant:
    """One tensor that the package stores: its name in the exported network, type, shape and bytes with padding."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    size_bytes: int


@dataclass(frozen=True)
class Layer:
    """A layer of the original network and the number of weights of each of its matrices, by parameter name."""

    name: str
    kind: str
    weights: dict[str, int]


@dataclass(frozen=True)
class Decision:
    """What is asked of a layer (None: to stay in float) and why the toolchain must leave it in float nevertheless."""

    layer: Layer
    scheme: Any  # Scheme | None; where `quantized`, always a Scheme
    reason: str = ""

    @property
    def quantized(self) -> bool:
        """True where the toolchain will quantize the layer."""
        return self.scheme is not None and self.scheme.quantized and not self.reason


def layers_of(network: nn.Module) -> list[Layer]:
    """Return every layer that owns a weight matrix (two or more axes): no norms, no bare parameters."""
    found = []
    for name, module in network.named_modules(remove_duplicate=True):
        weights = {key: p.numel() for key, p in module.named_parameters(recurse=False) if p.ndim > 1}
        if weights and not list(module.children()):
            found.append(Layer(name, type(module).__name__, weights))
    return found


def wrapper(package: Path) -> str:
    """Return the source of the package's wrapper."""
    with zipfile.ZipFile(package) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".wrapper.cpp")]
        return archive.read(name).decode()


def constants(source: str) -> list[Constant]:
    """Return the constants that are stored (those folded anew at every load are not), from the wrapper's source."""
    fields: dict[int, dict[str, str]] = {}
    for index, key, value in FIELD.findall(source):
        fields.setdefault(int(index), {})[key] = value
    return [
        Constant(
            name=f["original_fqn"].strip('"') if f.get("original_fqn") else f["name"].strip('"'),
            dtype=f["dtype"].rpartition("torch_dtype_")[2].rstrip(")"),
            shape=tuple(int(n) for n in re.findall(r"\d+", f["shape"])),
            size_bytes=int(f["data_size"]),
        )
        for _, f in sorted(fields.items())
        if f.get("from_folded") != "true"
    ]


def kernels(source: str) -> Counter[str]:
    """Return how often each library kernel is called (what inductor fused itself has no name here)."""
    return Counter(name.strip("_") for name in KERNEL.findall(source))


def report(decisions: Sequence[Decision], stored: Sequence[Constant]) -> tuple[LayerReport, ...]:
    """Return one LayerReport per layer: bits as stored, and why when the plan asked for fewer."""
    pool, found = list(stored), {}
    for decision in decisions:
        for key in decision.layer.weights:
            found[decision.layer.name, key] = _named(pool, decision.layer.name, key)
    for decision in decisions:  # exact names first, then what freezing renamed, in the order of the network
        for key, count in decision.layer.weights.items():
            if found[decision.layer.name, key] is None:
                found[decision.layer.name, key] = _sized(pool, count, integers=decision.quantized)
    return tuple(_layer(d, [found[d.layer.name, key] for key in d.layer.weights]) for d in decisions)


def _named(pool: list[Constant], layer: str, key: str) -> Constant | None:
    """Take the constant that still has the parameter's name (or its codes, under torchao's parametrization)."""
    names = f"{layer}.{key}", f"{layer}.parametrizations.{key}.original0"
    return _take(pool, [constant for constant in pool if constant.name in names])


def _sized(pool: list[Constant], count: int, *, integers: bool) -> Constant | None:
    """Take the next renamed constant with that many weights; integers first where integers are expected."""
    fits = [c for c in pool if RENAMED.fullmatch(c.name) and len(c.shape) > 1 and c.dtype in BITS]
    fits = [c for c in fits if count in (math.prod(c.shape), _codes(c))]
    return _take(pool, sorted(fits, key=lambda c: ("int" in c.dtype) != integers))


def _take(pool: list[Constant], candidates: list[Constant]) -> Constant | None:
    if not candidates:
        return None
    pool.remove(candidates[0])
    return candidates[0]


def _codes(constant: Constant) -> int:
    """Return the number of 4-bit codes if each byte holds two."""
    return 2 * math.prod(constant.shape) if constant.dtype == "uint8" else 0


def _layer(decision: Decision, stored: list[Constant | None]) -> LayerReport:
    layer, total, scheme = decision.layer, sum(decision.layer.weights.values()), decision.scheme
    if None in stored:
        absent = "not found among the package's constants (shared with another layer or fused away)"
        return LayerReport(layer.name, layer.kind, total, 32, absent)
    pairs = zip(stored, layer.weights.values(), strict=True)
    bits = sum(count * (4 if _codes(c) == count else BITS[c.dtype]) for c, count in pairs if c) / total
    floating = scheme is not None and bits > scheme.bits
    return LayerReport(layer.name, layer.kind, total, bits, (decision.reason or FOLDED) if floating else "")

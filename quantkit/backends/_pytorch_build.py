"""Lowers a prepared model: torchao quantizes, torch.export takes the graph, AOTInductor compiles and packages it.

Importing this module imports torch, torchao and inductor (seconds): `pytorch.py` does so inside `build` only.
"""

from __future__ import annotations

import contextlib
import time
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
import torch._inductor
from torch._inductor.runtime.cache_dir_utils import cache_dir

from quantkit.backends import _pytorch_package as packages
from quantkit.backends import _pytorch_quantize as quantize
from quantkit.backends._pytorch_errors import export, refusing, without_known_warnings
from quantkit.backends._pytorch_package import FOLDED, Decision
from quantkit.contracts import BuildReport, Prepared
from quantkit.errors import Unsupported
from quantkit.scheme import PerTensor, Scheme

NEXT_TO_NOTHING = 0.1  # a model with a smaller share of its weights quantized is refused instead of compared


def build(prepared: Prepared, package: Path, threads: int) -> BuildReport:
    """Write the package and return what is stored in it."""
    decisions = quantize.decide(prepared.network, packages.layers_of(prepared.network), prepared.plan)
    _check_coverage({d.layer.name: d.quantized for d in decisions}, decisions, prepared.plan.default)
    example = tuple(torch.from_numpy(x) for x in prepared.example)
    began, start = time.time(), time.perf_counter()
    with torch.no_grad(), _threads(threads), without_known_warnings():
        network, calibration_s = quantize.apply(prepared, example, decisions)
        program = export(network, example)
        with refusing("AOTInductor cannot compile"):
            torch._inductor.aoti_compile_and_package(
                program, package_path=str(package), inductor_configs=_options(decisions, threads)
            )
    compile_s = time.perf_counter() - start - calibration_s
    source, halved = packages.wrapper(package), isinstance(network, quantize.Halved)
    stored = packages.constants(source)
    if halved:
        stored = [replace(constant, name=constant.name.removeprefix("network.")) for constant in stored]
    layers = packages.report(decisions, stored)
    _check_coverage({r.name: r.bits <= 8 for r in layers}, decisions, prepared.plan.default)
    notes = [*_choices(decisions), *_found(source)]
    if _was_cached(package, began):
        notes.append("compile_s is that of a repeated build: the machine code came from inductor's cache")
    return BuildReport(
        layers=layers,
        weight_bytes=sum(constant.size_bytes for constant in stored),
        compile_s=compile_s,
        format="bf16" if halved else "fp32",
        notes=tuple(notes),
    )


def _options(decisions: Sequence[Decision], threads: int) -> dict[str, object]:
    """Return inductor's settings; without line tables the code is a third as large.

    Freezing packs weights for the kernels, but folds int8 weight-only weights back to float32.
    """
    folds = any(d.quantized and d.scheme.bits == 8 and d.scheme.activations == "none" for d in decisions)
    return {"freezing": not folds, "cpp.threads": threads, "aot_inductor.enable_line_tables": False}


def _check_coverage(quantized: Mapping[str, bool], decisions: Sequence[Decision], scheme: Scheme) -> None:
    """Refuse a quantized model that is hardly one.

    Raises:
        Unsupported: too small a share of the weights; the message names the largest layer left in float and why.
    """
    sizes = {d.layer.name: sum(d.layer.weights.values()) for d in decisions}
    share = sum(size for name, size in sizes.items() if quantized[name]) / max(1, sum(sizes.values()))
    if not scheme.quantized or share >= NEXT_TO_NOTHING:
        return
    left = max((d for d in decisions if not quantized[d.layer.name]), key=lambda d: sizes[d.layer.name], default=None)
    largest = f": {left.layer.kind} '{left.layer.name}' stays in float ({left.reason or FOLDED})" if left else ""
    raise Unsupported(f"only {share:.1%} of the weights would be quantized to {scheme.name}{largest}")


def _choices(decisions: Sequence[Decision]) -> Iterator[str]:
    """Tell what was chosen on the way."""
    schemes = {d.scheme for d in decisions if d.quantized}
    if any(s.bits == 4 for s in schemes):
        yield "int4: torchao's codes 0..15 with a zero point per group, taken from float32; the rest is bfloat16"
    if any(s.activations == "static" and isinstance(s.granularity, PerTensor) for s in schemes):
        yield "per tensor: one scale, repeated for each channel, because inductor fuses int8 kernels only with those"
    if any(s.bits == 8 and s.activations == "none" for s in schemes):
        yield "weight freezing is off: it would fold the int8 weights back to float32"
    if any(s.activations == "static" for s in schemes):
        yield "static: weight scales may be smaller than 2^-12, where torchao's default stops"
    if any(s.activations == "static" for s in schemes) and quantize.reduced_range():
        yield "no VNNI: activations take 7 bits, so that 16-bit sums cannot overflow"


def _found(source: str) -> Iterator[str]:
    """Tell which library kernels the package calls: an int8 plan without int8 kernels computes in float."""
    calls = ", ".join(f"{name} x{count}" for name, count in sorted(packages.kernels(source).items()))
    yield f"library kernels: {calls or 'none'}"


def _was_cached(package: Path, began: float) -> bool:
    """Return True when the package's machine code is older than this build."""
    with zipfile.ZipFile(package) as archive:
        (name,) = [Path(name).name for name in archive.namelist() if name.endswith(".wrapper.so")]
    return any(path.stat().st_mtime < began for path in Path(cache_dir()).glob(f"*/{name}"))


@contextlib.contextmanager
def _threads(count: int) -> Iterator[None]:
    """Packing weights asks oneDNN for the best layout at this thread count."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)

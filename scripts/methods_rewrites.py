"""What do rewrites of the float network save: equalisation and bias correction, SmoothQuant, AWQ?"""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from quantkit.catalog import DATASETS, METHODS, MODELS
from quantkit.pipeline.store import Store
from quantkit.stats.retention import compare

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / ".quantkit" / "methods" / "rewrites.db"
PLUGINS = ROOT / "scripts" / "plugins"  # W4A8 foretold by int8 kernels: methods for this measurement only
VARIANTS = ("", "_bias_corrected", "_equalized_only", "_equalized")
INT4, W4A8 = ([stem + variant for variant in VARIANTS] for stem in ("int4_per_tensor", "w4a8"))
INT8 = (
    *("int8_static", "int8_static_bias_corrected", "int8_static_equalized"),
    *("int8_static_per_tensor", "int8_per_tensor_equalized"),
)
NORMS = ("int8_static", "int8_static_smoothquant", "int4_weight_only", "int4_awq")
PLAIN = dict.fromkeys(INT4[1:], INT4[0]) | dict.fromkeys(W4A8[1:], W4A8[0]) | dict.fromkeys(INT8[1:3], INT8[0])
PLAIN |= {INT8[4]: INT8[3], "int8_static_smoothquant": "int8_static", "int4_awq": "int4_weight_only"}


@dataclass(frozen=True)
class Table:
    """One table: a model, the methods beside each other and the toolchains that hold them."""

    model: str
    methods: tuple[str, ...]
    backends: tuple[str, ...]
    items: int


TABLES = (
    Table("fmnist_mobile", tuple(W4A8), ("onnxruntime", "litert"), 10_000),
    Table("fmnist_mobile", tuple(INT4), ("coreml",), 2_000),
    Table("fmnist_mobile", INT8, ("onnxruntime", "litert"), 10_000),
    Table("fmnist_vit", NORMS, ("onnxruntime", "litert"), 10_000),
    Table("pydoc_gpt", NORMS, ("onnxruntime",), 128),
)


def command(table: Table) -> list[str]:
    """Return the words of the command that measures a table."""
    options = {"models": [table.model], "methods": ["fp32", *table.methods], "backends": table.backends}
    words = [word for name, values in options.items() for word in (f"--{name}", ",".join(values))]
    more = ["--targets", "cpu", "--profile", "regular", "--rounds", "0", "--items", str(table.items)]
    return ["quantkit", "run", *words, *more, "--results", str(RESULTS.relative_to(ROOT))]


def results(table: Table, *, measure: bool = True) -> dict:
    """Build and judge what is not stored; return (method, backend) -> result."""
    if measure:
        run(table)
    stored = [r for r in Store(RESULTS, write=False).newest() if r.case.model == table.model]
    return {(r.case.method, r.case.backend): r for r in stored}


def run(table: Table) -> None:
    """Let quantkit measure a table; progress goes to stderr."""
    program = Path(sys.executable).with_name("quantkit")
    environment = os.environ | {"QUANTKIT_PLUGINS": str(PLUGINS), "PYTHONPATH": str(PLUGINS.parent)}
    subprocess.run([program, *command(table)[1:]], cwd=ROOT, check=False, stdout=sys.stderr, env=environment)


def paired(model: str, before, after):
    """Return the paired comparison of two results at the model's own margin."""
    quality = MODELS.get(model).info.quality
    outcomes = np.array(before.outcomes), np.array(after.outcomes)
    return compare(*outcomes, outcome=quality.outcome, better=quality.better, margin=quality.margin)


def rows(table: Table) -> list[str]:
    """Return the lines of a table: against full precision, and against the same scheme without the rewrite."""
    found, lines = results(table), []
    for backend in table.backends:
        base = found["fp32", backend]
        lines.append(f"| {backend} | full precision | {np.mean(base.outcomes):.4f} | | | | |")
        for method in table.methods:
            result = found.get((method, backend))
            if result is None or result.status != "ok":
                lines.append(f"| {backend} | {method} | {result.reason if result else 'not stored'} | | | | |")
                continue
            plain = found.get((PLAIN.get(method, ""), backend))
            lines.append(row(table.model, backend, result, base, plain))
    return lines


def row(model: str, backend: str, result, base, plain) -> str:
    """Return one line; drops in points of the share, or per cent of the baseline's score."""
    lost = paired(model, base, result)
    noise = result.measurements["sqnr_db"].values[0]
    gained = ""
    if plain is not None and plain.status == "ok":
        drop = paired(model, plain, result)
        gained = f"{-100 * drop.drop:+.2f} ({-100 * drop.drop_high:+.2f} .. {-100 * drop.drop_low:+.2f})"
    change = f"{-100 * lost.drop:+.2f} ({-100 * lost.drop_high:+.2f} .. {-100 * lost.drop_low:+.2f})"
    cells = [backend, result.case.method, f"{np.mean(result.outcomes):.4f}", change, lost.verdict, gained]
    return f"| {' | '.join(cells)} | {noise:.1f} |"


def shown(table: Table) -> list[str]:
    """Return a table with its heading and the command that measures it."""
    info = MODELS.get(table.model).info
    setting = "PYTHONPATH=scripts QUANTKIT_PLUGINS=scripts/plugins " if table.methods[0] in W4A8 else ""
    unit = "points" if info.quality.outcome == "binary" else "per cent of the score"
    return [
        f"### {table.model}",
        "",
        f"{info.title}: {info.quality.name}, {table.items:,} items; margin of the verdict {info.quality.margin:.0%}.",
        "",
        f"    {setting}{' '.join(command(table))}",
        "",
        f"| toolchain | method | quality | against float, {unit} | verdict | against the plain form | SQNR, dB |",
        "|---|---|---:|---:|---|---:|---:|",
        *rows(table),
        "",
    ]


def recovered(table: Table) -> list[str]:
    """Return what the plain form loses, and the share of it that each rewrite wins back, for each toolchain."""
    found, lines = results(table, measure=False), []
    for backend in table.backends:
        quality = {method: float(np.mean(found[method, backend].outcomes)) for method in ("fp32", *table.methods)}
        lost = quality["fp32"] - quality[table.methods[0]]
        back = ((quality[method] - quality[table.methods[0]]) / lost for method in table.methods[1:])
        shares = ", ".join(f"`{method}` {share:.0%}" for method, share in zip(table.methods[1:], back, strict=True))
        lines.append(f"- {backend}: `{table.methods[0]}` loses {100 * lost:.2f} points; won back: {shares}.")
    return ["**Collapse and recovery.**", "", *lines, ""]


def moved_back() -> str:
    """Return what LiteRT's converter makes of a scale that moved out of a norm: the weights of both files compared."""
    from quantkit.backends import _litert_graph, _litert_lower
    from quantkit.procedures import smooth

    data, network = DATASETS.get("fashion_mnist"), MODELS.get("fmnist_vit").load()
    example = data.evaluation(1).item(0)
    smoothed = smooth.smoothed(network, example, data.calibration(64), METHODS.get("int8_static").scheme, alpha=0.5)
    files = [_litert_graph.read(_litert_lower.lower(net, example)) for net in (network, smoothed)]
    width = tuple(network.layers[0].attention.qkv.weight.shape)
    weights = [[constant(file, t) for t in file.subgraphs[0].tensors if tuple(t.shape) == width] for file in files]
    apart = max(float(np.abs(a - b).max()) for a, b in zip(*(filter(len, side) for side in weights), strict=True))
    before = network.layers[0].attention.qkv.weight - smoothed.layers[0].attention.qkv.weight
    return (
        "LiteRT's converter multiplies a norm's weight into the linear layer behind it, and so moves a scale back that "
        "was moved there: the `qkv` weights of fmnist_vit in the float32 .tflite files of the plain and the smoothed "
        f"network differ by at most {apart:.1e}, where those of the networks differ by up to "
        f"{float(before.abs().max()):.2f}. Where norms take the scales, SmoothQuant and AWQ change nothing in that "
        "toolchain."
    )


def constant(file, tensor) -> np.ndarray:
    """Return a tensor's constant values as float32; empty where it has none."""
    data = file.buffers[tensor.buffer].data
    return np.frombuffer(b"" if data is None else bytes(data), np.float32)


def section() -> str:
    """Return the section. Artifacts and answers come from the cache where they were made before."""
    parts = [line for number, table in enumerate(TABLES) for line in (*shown(table), *(after(number, table)))]
    names = [name for table in TABLES for name in table.methods if name not in W4A8]
    titles = [f"- `{name}`: {METHODS.get(name).title}" for name in dict.fromkeys(names)]
    return "\n".join(
        [
            "## Rewrites of the float network",
            "",
            "A rewrite changes the float network and not its function; the toolchain's own quantizer then loses less.",
            "Each figure is of an artifact that was executed; intervals are two-sided at 90 % (one-sided at 95 %). The",
            "figure against the plain form is the same scheme without the rewrite, on the same items; plus is better.",
            "",
            *titles,
            "- `w4a8...`: W4A8, one scale a weight tensor: weights on a 4-bit grid, executed with int8 kernels, as no",
            "  toolchain here has depthwise convolutions of that form (`scripts/methods_rewrites_grid.py`).",
            "",
            *parts,
        ]
    )


def after(number: int, table: Table) -> list[str]:
    """Return what there is to say below a table."""
    if number < 2:
        return recovered(table)
    return [moved_back(), ""] if table.model == "fmnist_vit" else []


if __name__ == "__main__":
    print(section())

"""Do calibrators land on their optima, what does each way to take ranges keep, and what does our procedure cost?"""

import copy
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import norm

from quantkit.catalog import BACKENDS, DATASETS, METHODS, MODELS
from quantkit.conclude import wording
from quantkit.conclude.compare import comparisons
from quantkit.contracts import Plan, Prepared, Split
from quantkit.errors import QuantizationError
from quantkit.numerics import grids
from quantkit.numerics.ranges import Observer
from quantkit.pipeline.store import Store
from quantkit.scheme import PerTensor, Scheme

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / ".quantkit" / "methods" / "calibration.db"
MODELS_TRIED = ("fmnist_cnn", "fmnist_mobile")
METHODS_TRIED = ("int8_static", *(f"int8_static_{way}" for way in ("moving_average", "percentile", "entropy", "mse")))
BACKENDS_TRIED = ("onnxruntime", "pytorch", "coreml", "litert")
ITEMS, CALIBRATION = 2_000, 1_000
TIMED, ROUNDS, MOST = "fmnist_cnn", 5, 1.2  # model, turns of each, largest ratio that is good
OURS = "ours"
LLOYD_MAX = {1: 0.36338, 2: 0.117482, 3: 0.0345478, 4: 0.00950101, 6: 0.00064424}  # Max 1960; mean squared error
SCALES = {4: 0.353411, 8: 0.030870}  # symmetric, of least squared error on N(0, 1)
Arm = Callable[[], Any]


def section() -> str:
    """Return the section."""
    return "\n".join(["## Calibration", "", *oracles(), "", *kept(), "", *times()])


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def oracles() -> list[str]:
    """Return a table of what is measured on N(0,1) data and what theory says."""
    say("oracles")
    draw = np.random.default_rng(0).standard_normal(1_000_000)
    quantiles = norm.ppf((np.arange(65_536) + 0.5) / 65_536)
    rows = []
    for bits, law in SCALES.items():
        observer = Observer("mse", bits, symmetric=True)
        for piece in np.split(draw, 100):
            observer.observe(piece)
        scale = observer.range()[1] / (2 ** (bits - 1) - 1)
        rows.append((f"scale of the MSE calibrator, symmetric, {bits} bits", law, scale))
    for bits, law in LLOYD_MAX.items():
        book = grids.lloyd_max(quantiles, 2**bits)
        error = float(np.mean((book[grids.nearest(quantiles, book)] - quantiles) ** 2))
        rows.append((f"error of k-means, {bits} bits (`numerics.grids`)", law, error))
        rows.append((f"error of the palette that coremltools stores, {bits} bits", law, palette_error(quantiles, bits)))
    rows.append(("largest difference of NF4's code book from bitsandbytes' table", 0.0, nf4_difference()))
    lines = [f"| {what} | {law:.6g} | {got:.6g} | {_off(law, got)} |" for what, law, got in rows]
    head = "Normal data; errors are mean squared errors. k-means is judged on 65,536 quantiles of N(0,1), which end at"
    return [
        f"{head} {quantiles.max():.2f}, so that its errors may lie up to 1 % below the law.", "",
        "| what | law | measured | off |", "|---|---:|---:|---:|", *lines,
    ]  # fmt: skip


def _off(law: float, got: float) -> str:
    return f"{got / law - 1:+.2%}" if law else f"{got:.1e}"


def palette_error(values: np.ndarray, bits: int) -> float:
    """Return the mean squared error of a weight of these values as a saved Core ML package holds it."""
    import torch
    from torch import nn

    size = round(values.size**0.5)
    weight = np.random.default_rng(0).permutation(values).reshape(size, size).astype(np.float32)
    network = nn.Sequential(nn.Linear(size, size, bias=False)).eval()
    network[0].weight.data = torch.from_numpy(weight)
    backend, columns = BACKENDS.get("coreml"), np.eye(size, dtype=np.float32)
    with tempfile.TemporaryDirectory() as folder:
        prepared = Prepared(network, Plan(Scheme(bits, "lut", PerTensor())), (columns[:1],))
        backend.build(prepared, Path(folder), 1)
        session = backend.open(Path(folder), _Cpu(), 1)
        stored = [session.fetch(session.run(session.feed((column[None],)))) for column in columns]
    return float(np.mean((np.concatenate(stored).T - weight) ** 2))


class _Cpu:
    name = "cpu"


def nf4_difference() -> float:
    """Return the largest difference of our code book from the one that bitsandbytes' kernels use."""
    from bitsandbytes import functional

    table = functional.get_4bit_type("nf4", device="cpu").double().numpy()
    return float(np.abs(np.sort(table) - grids.nf4_codebook()).max())


def kept() -> list[str]:
    """Return a table of what each way to take ranges keeps, in each toolchain that has it."""
    models = [name for name in MODELS_TRIED if _loads(name)]
    options = {"models": models, "methods": METHODS_TRIED, "backends": BACKENDS_TRIED, "targets": ["cpu"]}
    words = [word for name, values in options.items() for word in (f"--{name}", ",".join(values))]
    more = ["--profile", "full", "--rounds", "0", "--items", str(ITEMS), "--results", str(RESULTS)]
    command = ["quantkit", "run", *words, *more]
    subprocess.run([Path(sys.executable).with_name(command[0]), *command[1:]], cwd=ROOT, check=False, stdout=sys.stderr)
    results = [r for r in Store(RESULTS, write=False).newest() if r.case.model in models]
    pairs = {pair.result.case: pair for pair in comparisons(results)}
    rows: list[str] = []
    reasons: dict[str, list[str]] = {}
    for result in sorted(results, key=_order):
        if result.case.method not in METHODS_TRIED:
            continue
        name = f"| {result.case.model} | {result.case.backend} | {result.case.method} "
        if result.status != "ok":
            reasons.setdefault(result.reason, []).append(f"{result.case.backend} {result.case.method}")
        elif result.case in pairs:
            pair = pairs[result.case]
            rows.append(f"{name}| {wording.middle(result, 'sqnr_db', digits=1)} | {wording.mean(result, 'quality')} "
                        f"| {wording.loss(pair)} | {pair.verdict} |")  # fmt: skip
    shown = " ".join(word.replace(str(ROOT) + "/", "") for word in command)
    return [
        f"Static int8, {CALIBRATION} calibration and {ITEMS} evaluation items, against full precision of the same "
        f"toolchain: `{shown}`.", "",
        "| model | toolchain | method | SQNR dB | quality | loss (at most) | verdict |",
        "|---|---|---|---:|---:|---:|---|", *rows, "",
        "Refused:", "", *(f"- {', '.join(sorted(set(who)))}: {why}" for why, who in sorted(reasons.items())),
    ]  # fmt: skip


def _loads(model: str) -> bool:
    try:
        MODELS.get(model).load()
    except QuantizationError as error:  # no such model, or its weights are not here
        say(f"{model} is left out: {error}")
        return False
    return True


def _order(result: Any) -> tuple[int, int, int]:
    case = result.case
    methods = [*METHODS_TRIED, *METHODS.names()]
    return MODELS_TRIED.index(case.model), BACKENDS_TRIED.index(case.backend), methods.index(case.method)


def times() -> list[str]:
    """Return the time of our procedure over that of the toolchain's own call, alternated in one process."""
    model = MODELS.get(TIMED)
    split = DATASETS.get(model.info.dataset).calibration(CALIBRATION)
    network = model.load()
    lines = [line for arms in (onnx_arms, pytorch_arms) for line in race(arms(network, split))]
    return [
        f"Seconds to quantize {TIMED} to static int8 with {len(split)} calibration items (one at a time), ours and the "
        f"toolchain's own call, in turn {ROUNDS} times in one process after a warm-up; medians. Inside the clock: "
        "everything from the exported float graph (ONNX Runtime) or the network (PyTorch: `torch.export` too) to the "
        "quantized graph; reading the data set and compiling are outside. Core ML is left out: coremltools' own call "
        "calibrates by predicting, which needs macOS.", "",
        f"| against | ours s | toolchain s | from to, ours / toolchain | ratio | at most {MOST} |",
        "|---|---:|---:|---:|---:|---|", *lines,
    ]  # fmt: skip


def race(arms: dict[str, Arm]) -> list[str]:
    """Return a row for each arm but the first, which is ours; all take turns, in another order each time."""
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    for number in range(ROUNDS + 1):
        for name in random.Random(number).sample(list(arms), len(arms)):
            start = time.perf_counter()
            arms[name]()
            if number:  # the first is a warm-up
                seconds[name].append(time.perf_counter() - start)
        said = ", ".join(f"{name} {values[-1]:.2f} s" for name, values in seconds.items() if values)
        say(f"round {number}/{ROUNDS}: {said or 'warm-up'}")
    (mine, *_), medians = seconds.values(), {name: float(np.median(values)) for name, values in seconds.items()}
    ours, rows = medians.pop(OURS), []
    for name, own in medians.items():
        spread = " / ".join(f"{min(values):.2f} to {max(values):.2f}" for values in (mine, seconds[name]))
        good = "yes" if ours / own <= MOST else "no"
        rows.append(f"| {name} | {ours:.2f} | {own:.2f} | {spread} | {ours / own:.2f} | {good} |")
    return rows


def onnx_arms(network: Any, split: Split) -> dict[str, Arm]:
    """Return ONNX Runtime's arms: ours, and `quantize_static` on the exported graph with and without its pre-pass."""
    import onnx
    from onnxruntime import quantization as tools

    from quantkit.backends import _onnx_lower, _onnx_quantize

    lowered = _onnx_lower.lower(network, split.item(0))
    schemes = _onnx_quantize.wanted(lowered.model, lowered.layers, Plan(METHODS.get("int8_static").scheme))
    name = lowered.model.graph.input[0].name

    class Reader(tools.CalibrationDataReader):
        def __init__(self) -> None:
            self.items = iter(range(len(split)))

        def get_next(self) -> dict[str, Any] | None:
            index = next(self.items, None)
            return None if index is None else {name: split.inputs[0][index : index + 1]}

    def own(prepare: bool) -> Any:
        with tempfile.TemporaryDirectory() as folder:
            source, prepared, result = (Path(folder) / f"{word}.onnx" for word in ("float", "prepared", "static"))
            onnx.save(lowered.model, source)
            if prepare:
                tools.quant_pre_process(source, prepared)
            start = prepared if prepare else source
            tools.quantize_static(start, result, Reader(), per_channel=True, activation_type=tools.QuantType.QUInt8)
            return onnx.load(result)

    def ours() -> Any:
        return _onnx_quantize.quantize(lowered.model, schemes, split)

    return {
        OURS: ours,
        "ONNX Runtime, `quantize_static`": lambda: own(False),
        "ONNX Runtime, `quant_pre_process` and `quantize_static`": lambda: own(True),
    }


def pytorch_arms(network: Any, split: Split) -> dict[str, Arm]:
    """Return PyTorch's arms: ours, and PT2E as documented with its default config, and with observers of extremes."""
    import torch
    from torchao.quantization.pt2e import MinMaxObserver
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    from quantkit.backends import _pytorch_package, _pytorch_quantize

    torch.set_num_threads(1)
    plan = Plan(METHODS.get("int8_static").scheme)
    example = tuple(torch.from_numpy(x) for x in split.item(0))

    def ours() -> Any:
        prepared = Prepared(copy.deepcopy(network), plan, split.item(0), split)
        decisions = _pytorch_quantize.decide(prepared.network, _pytorch_package.layers_of(prepared.network), plan)
        with torch.no_grad():
            return _pytorch_quantize.apply(prepared, example, decisions)

    def own(extremes: bool) -> Any:
        config = _pytorch_quantize.static_config()
        if extremes:
            spec = replace(config.input_activation, observer_or_fake_quant_ctr=MinMaxObserver.with_args(eps=2**-12))
            config = replace(config, input_activation=spec, output_activation=spec)
        quantizer = _pytorch_quantize.StaticQuantizer().set_global(config)
        with torch.no_grad():
            observed = prepare_pt2e(torch.export.export(copy.deepcopy(network), example).module(), quantizer)
            for index in range(len(split)):
                observed(torch.from_numpy(split.inputs[0][index : index + 1]))
            return convert_pt2e(observed)

    return {
        OURS: ours,
        "PyTorch, PT2E with its default observers (histograms)": lambda: own(False),
        "PyTorch, PT2E with observers of extremes, as ours": lambda: own(True),
    }


if __name__ == "__main__":
    print(section())

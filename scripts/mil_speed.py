"""Time the reference executor against PyTorch eager, float32, one thread: prints the ratio for each model.

Both run alternately in one process, so that whatever else the machine does hits both; the ratio of their medians is
what counts, not the times. Inside the clock: one call on one item, inputs and outputs as NumPy arrays for the executor
(that is its interface) and as tensors for PyTorch. Conversion and loading are outside.

    python scripts/mil_speed.py [--models resnet50 minilm] [--rounds 15] [--precision float32 float16]
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from quantkit import mil
from quantkit.catalog import DATASETS, MODELS


def converted(network, example, precision, package: Path):
    import coremltools as ct

    traced = torch.jit.trace(network, tuple(torch.from_numpy(x) for x in example))
    kinds = [np.int32 if x.dtype.kind == "i" else np.float32 for x in example]
    inputs = [ct.TensorType(f"x{i}", x.shape, kind) for i, (x, kind) in enumerate(zip(example, kinds))]
    model = ct.convert(
        traced,
        inputs=inputs,
        compute_precision=ct.precision.FLOAT16 if precision == "float16" else ct.precision.FLOAT32,
        minimum_deployment_target=ct.target.iOS18,
        skip_model_load=True,
    )
    model.save(str(package))
    return mil.load(package)


def alternate(ours, theirs, rounds: int) -> tuple[list[float], list[float]]:
    """Return the seconds of each call of both, taken in turns; the first two turns are thrown away."""
    times: tuple[list[float], list[float]] = ([], [])
    for turn in range(rounds + 2):
        for place, call in ((0, ours), (1, theirs)) if turn % 2 else ((1, theirs), (0, ours)):
            start = time.perf_counter()
            call()
            times[place].append(time.perf_counter() - start)
    return times[0][2:], times[1][2:]


def ratio(name: str, precision: str, rounds: int) -> str:
    model = MODELS.get(name)
    network = model.load()
    example = DATASETS.get(model.info.dataset).evaluation(2).item(0)
    with tempfile.TemporaryDirectory() as folder:
        program = converted(network, example, precision, Path(folder) / "model.mlpackage")
    feed = {t.name: x.astype(t.dtype) for t, x in zip(program.inputs, example)}
    tensors = [torch.from_numpy(x) for x in example]
    with torch.inference_mode():
        ours, theirs = alternate(lambda: program.run(feed), lambda: network(*tensors), rounds)
    share = statistics.median(ours) / statistics.median(theirs)
    return f"{name} {precision}: {share:.2f} times PyTorch eager float32 ({rounds} calls each, one thread)"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["resnet50", "minilm"])
    parser.add_argument("--precision", nargs="+", default=["float32", "float16"], choices=["float32", "float16"])
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    torch.set_num_threads(1)
    for name in options.models:
        for precision in options.precision:
            print(ratio(name, precision, options.rounds), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

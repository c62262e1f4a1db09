"""A toolchain of twenty lines: NumPy weights on a symmetric grid. It makes the pipeline's tests quick and exact."""

import json
import time

import numpy as np

from quantkit.contracts import BuildReport, LayerReport
from quantkit.numerics import grids


class Session:
    """Multiplies by the dequantized weights."""

    load_s, compile_s = 0.001, 0.0

    def __init__(self, weights):
        self._weights = weights

    def feed(self, inputs):
        if inputs[0].shape != (1, 16):
            raise ValueError(f"input 0 has shape {inputs[0].shape}, expected (1, 16)")
        return inputs[0]

    def run(self, fed):
        return fed @ self._weights.T

    def fetch(self, output):
        return output

    def close(self):
        pass


class Grid:
    """Lowers Linear layers only."""

    name, title, extra = "grid", "NumPy on a grid (test)", ""
    targets = ("cpu", "simulated", "ane")
    profiles, stateful = ("fast", "regular", "full"), False
    build_modules, run_modules = ("torch", "quantkit.numerics.grids"), ("quantkit.numerics.grids",)

    def unsupported(self, case, model, scheme):
        return (
            None if model.layers == ("linear",) else f"grid takes Linear layers only, {model.name} has {model.layers}"
        )

    def versions(self):
        return {"numpy": np.__version__}

    def executor(self, target):
        return "NumPy"

    def untimed(self, target):
        return None

    def build(self, prepared, folder, threads):
        started, scheme = time.perf_counter(), prepared.plan.default
        weights = prepared.network.weight.detach().numpy()
        if scheme.quantized:
            scale = grids.choose_symmetric(weights, bits=scheme.bits, axis=0)
            weights = grids.dequantize(grids.quantize_symmetric(weights, scale, bits=scheme.bits), scale)
        np.save(folder / "weights.npy", weights.astype(np.float32))
        (folder / "about.json").write_text(json.dumps({"shape": [1, 16]}))
        bits = float(scheme.bits)
        layer = LayerReport("", "Linear", weights.size, bits)
        return BuildReport((layer,), int(weights.size * bits / 8), time.perf_counter() - started, "fp32")

    def open(self, folder, target, threads):
        return Session(np.load(folder / "weights.npy"))


plugin = Grid()

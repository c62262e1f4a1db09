"""What the self-test times: a small network in ONNX Runtime, about 3 ms on this machine's cores."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from quantkit import extras
from quantkit.latency.side import Side

WIDTH, BATCH = 512, 64
AIM_S, MOST_LAYERS = 3e-3, 256


def side(threads: int, layers: int, share: float = 0.0) -> Side:
    """Return the network as a side; `share` makes each call that much longer."""
    spec: tuple[Any, ...] = ("factory", f"{__name__}:opened", layers, threads)
    name = "network" if not share else f"network, slowed by {share:.0%}"
    return Side(name, ("slow", share, spec) if share else spec, modules=(__name__, "numpy", "onnx", "onnxruntime"))


def layers_for(threads: int) -> int:
    """Return how many layers take about 3 ms here; runs for a fraction of a second.

    Raises:
        MissingExtra: ONNX Runtime is not installed.
    """
    layers = 4
    for _ in range(4):
        call = opened(layers, threads)
        seconds = sorted(_seconds(call) for _ in range(30))[10]
        layers = max(1, min(MOST_LAYERS, round(layers * AIM_S / seconds)))
    return layers


def _seconds(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def opened(layers: int, threads: int) -> Callable[[], Any]:
    """Return a call of a multi-layer perceptron of that many layers, [64, 512] float32 in and out."""
    onnx, ort = extras.require("onnx"), extras.require("onnxruntime")
    rng = np.random.default_rng(0)
    weight = rng.normal(0, WIDTH**-0.5, (WIDTH, WIDTH)).astype(np.float32)  # one for all layers: loading stays short
    names = ["x", *(f"h{i}" for i in range(layers - 1)), "y"]
    nodes = []
    for i in range(layers):
        nodes.append(onnx.helper.make_node("MatMul", [names[i], "w"], [f"m{i}"]))
        nodes.append(onnx.helper.make_node("Relu", [f"m{i}"], [names[i + 1]]))
    ends = [onnx.helper.make_tensor_value_info(name, 1, [BATCH, WIDTH]) for name in ("x", "y")]
    graph = onnx.helper.make_graph(nodes, "mlp", ends[:1], ends[1:], [onnx.numpy_helper.from_array(weight, "w")])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=9)
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # see backends/_onnx_session.py
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    x = rng.normal(size=(BATCH, WIDTH)).astype(np.float32)
    return lambda: session.run(None, {"x": x})

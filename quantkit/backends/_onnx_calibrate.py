"""Calibration data in the forms that ONNX Runtime's tools take, and ranges of activations other than the extremes.

Entropy and percentiles are ONNX Runtime's own; least squared error, which it has not, and the moving average are taken
by `numerics.ranges` from the outputs of ONNX Runtime's calibration graphs. All reach `quantize_static` by its
calibration cache.

Traps: the histogram calibrators keep every intermediate output of all that one `collect_data` reads, so they are fed a
few items at a time; with its own default of 128 bins for 128 levels the entropy calibrator has one candidate, the
extremes; `quantize_static` passes no bin count on; both print; its `moving_average` is the plain mean of all items
that one `collect_data` reads.
"""

from __future__ import annotations

import contextlib
import importlib
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quantkit.contracts import Split
from quantkit.errors import CalibrationError
from quantkit.numerics import ranges
from quantkit.scheme import Scheme

if TYPE_CHECKING:
    import onnx

QUANTIZATION = "onnxruntime.quantization"
ITEMS_AT_ONCE = 8  # whose intermediate outputs are held: 100 MB each for a ResNet-50
ENTROPY_BINS = {"num_bins": 512, "num_quantized_bins": 256}  # a level for each 8-bit code, two bins a level
SAYINGS = {
    "minmax": "extremes",
    "entropy": f"least-entropy ranges ({ENTROPY_BINS['num_bins']} bins)",
    "percentile": "99.999th percentiles",  # ONNX Runtime's default
    "moving_average": f"extremes averaged with weight {ranges.AVERAGING} for the next item",
    "mse": "ranges of least squared error",
}
METHODS = {"minmax": "MinMax", "entropy": "Entropy", "percentile": "Percentile"}


def checked(model: onnx.ModelProto, calibration: Split | None) -> Split:
    """Return the calibration items if the graph can be run on them.

    Raises:
        CalibrationError: none, not finite, or of another shape than the graph's inputs.
    """
    import numpy as np

    if calibration is None or not len(calibration):
        raise CalibrationError("this scheme needs calibration items: got none")
    shapes = [tuple(d.dim_value for d in i.type.tensor_type.shape.dim) for i in model.graph.input]
    got = [x.shape for x in calibration.item(0)]
    if got != shapes:
        raise CalibrationError(f"calibration items must have the shapes of the example: got {got}, expected {shapes}")
    if not all(np.isfinite(x).all() for x in calibration.inputs if x.dtype.kind == "f"):
        raise CalibrationError("calibration items hold nan or inf")
    return calibration


def feeds(model: onnx.ModelProto, calibration: Split, rows: range) -> Iterator[dict[str, Any]]:
    """Yield some items as name of an input -> array."""
    names = [i.name for i in model.graph.input]
    return (dict(zip(names, calibration.item(i), strict=True)) for i in rows)


def reader(model: onnx.ModelProto, calibration: Split, rows: range) -> Any:
    """Return ONNX Runtime's reader over some calibration items, one at a time."""
    base = importlib.import_module(QUANTIZATION).CalibrationDataReader
    items = feeds(model, calibration, rows)

    class Reader(base):  # type: ignore[misc, valid-type]
        """Hands out one item at a time."""

        def get_next(self) -> dict[str, Any] | None:
            """Return the next item, or None at the end."""
            return next(items, None)

    return Reader()


def ranges_file(source: Path, operations: Sequence[str], scheme: Scheme, calibration: Split) -> Path:
    """Take the ranges of a scheme; return the file that `quantize_static` reads them from.

    Args:
        source: the float graph; the file is written beside it.
        operations: kinds of nodes whose inputs and outputs get a range.
    """
    import onnx

    tools = importlib.import_module(f"{QUANTIZATION}.calibrate")
    model = onnx.load(source)
    graph = "percentile" if scheme.ranges == "mse" else scheme.ranges  # one that gives all values, not extremes
    calibrator = tools.create_calibrator(
        source,
        operations,
        augmented_model_path=str(source.with_suffix(".augmented.onnx")),
        calibrate_method=method(graph),
        extra_options=ENTROPY_BINS if scheme.ranges == "entropy" else {},
    )
    take = _observed if scheme.ranges in ("mse", "moving_average") else _counted
    with contextlib.redirect_stdout(io.StringIO()):
        found = take(calibrator, model, scheme, calibration)
    cache = source.with_suffix(".ranges.json")
    tools.save_tensors_data(found, cache)
    return cache


def _counted(calibrator: Any, model: onnx.ModelProto, scheme: Scheme, calibration: Split) -> Any:
    """Return the ranges that ONNX Runtime's histogram calibrator finds."""
    for start in range(0, len(calibration), ITEMS_AT_ONCE):
        rows = range(start, min(start + ITEMS_AT_ONCE, len(calibration)))
        calibrator.collect_data(reader(model, calibration, rows))
    return calibrator.compute_data()


def _observed(calibrator: Any, model: onnx.ModelProto, scheme: Scheme, calibration: Split) -> Any:
    """Return the ranges that our observers find in the outputs of ONNX Runtime's calibration graph, item by item.

    The graph gives values, or two outputs of one number for each: its `..._ReduceMin` and `..._ReduceMax`.
    """
    import numpy as np

    tools = importlib.import_module(f"{QUANTIZATION}.calibrate")
    known = {output.name for output in model.graph.output}
    observers: dict[str, ranges.Observer] = {}
    for feed in feeds(model, calibration, range(len(calibration))):
        for name, values in _values(calibrator, known, feed).items():
            if name not in observers:
                observers[name] = ranges.Observer(scheme.ranges, scheme.activation_bits)
            observers[name].observe(values)
    found = {name: tuple(np.float32(end) for end in observer.range()) for name, observer in observers.items()}
    return tools.TensorsData(method(scheme.ranges), found)


def _values(calibrator: Any, known: set[str], feed: dict[str, Any]) -> dict[str, Any]:
    """Return the values of each tensor that gets a range, or its extremes, for one item."""
    import numpy as np

    names = [output.name for output in calibrator.infer_session.get_outputs()]
    outputs = dict(zip(names, calibrator.infer_session.run(None, feed), strict=True))
    wanted = getattr(calibrator, "tensors_to_calibrate", None)
    if wanted is not None:
        return {name: outputs[name] for name in wanted}
    stems = {name.removesuffix("_ReduceMin") for name in names if name.endswith("_ReduceMin") and name not in known}
    return {stem: np.concatenate([outputs[f"{stem}_ReduceMin"], outputs[f"{stem}_ReduceMax"]]) for stem in stems}


def method(way: str) -> Any:
    """Return ONNX Runtime's name of a way to take ranges; those that it has not go as extremes."""
    return importlib.import_module(QUANTIZATION).CalibrationMethod[METHODS.get(way, "MinMax")]

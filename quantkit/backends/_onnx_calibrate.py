"""Calibration data in the forms that ONNX Runtime's tools take, and ranges of activations from histograms.

Traps: the histogram calibrators keep every intermediate output of all that one `collect_data` reads, so they are fed a
few items at a time; with its own default of 128 bins for 128 levels the entropy calibrator has one candidate, the
extremes; `quantize_static` passes no bin count on, so ranges reach it by its calibration cache; both print.
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
}


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


def histogram_ranges(source: Path, operations: Sequence[str], scheme: Scheme, calibration: Split) -> Path:
    """Take ranges from histograms; return the file that `quantize_static` reads them from.

    Args:
        source: the float graph; the file is written beside it.
        operations: kinds of nodes whose inputs and outputs get a range.
    """
    import onnx

    tools = importlib.import_module(f"{QUANTIZATION}.calibrate")
    model = onnx.load(source)
    calibrator = tools.create_calibrator(
        source,
        operations,
        augmented_model_path=str(source.with_suffix(".augmented.onnx")),
        calibrate_method=method(scheme),
        extra_options=ENTROPY_BINS if scheme.ranges == "entropy" else {},
    )
    with contextlib.redirect_stdout(io.StringIO()):
        for start in range(0, len(calibration), ITEMS_AT_ONCE):
            rows = range(start, min(start + ITEMS_AT_ONCE, len(calibration)))
            calibrator.collect_data(reader(model, calibration, rows))
        ranges = calibrator.compute_data()
    cache = source.with_suffix(".ranges.json")
    tools.save_tensors_data(ranges, cache)
    return cache


def method(scheme: Scheme) -> Any:
    """Return ONNX Runtime's name of a way to take ranges."""
    names = {"minmax": "MinMax", "entropy": "Entropy", "percentile": "Percentile"}
    return importlib.import_module(QUANTIZATION).CalibrationMethod[names[scheme.ranges]]

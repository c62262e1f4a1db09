"""4-bit codes with second-order error feedback, by the GPTQ that ONNX Runtime bundles, two faults of it stepped around.

Measured in ONNX Runtime 1.31 on a small GPT (SQNR on calibration items; to the nearest: 23.2 dB symmetric, 24.2 not):
as it is, GPTQ gives 19.5 and 24.2 dB; with feedback 22.4 and 27.8; packed on its own grid as well 26.4 and 28.3.

1. It takes the upper Cholesky factor of the inverse Hessian and reads it by column, below the diagonal, where it is
   zero: no error is ever fed back. `_readable_both_ways` gives it the factor mirrored: right by row and by column.
2. It returns rounded weights without their scales, and packs them by rounding once more to a scale from their
   extremes, which is another one wherever the outermost code is not used. `_on_its_grid` finds the scale they have.
"""

from __future__ import annotations

import contextlib
import importlib
import io
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from quantkit.backends import _onnx_calibrate, _onnx_graph
from quantkit.contracts import Split
from quantkit.errors import Unsupported
from quantkit.scheme import Scheme

if TYPE_CHECKING:
    import numpy as np
    import onnx

LIBRARY = "onnxruntime.quantization.neural_compressor.weight_only"
ITEMS = 32  # it runs the whole graph once for each item and each input of a product
NEAR = 1e-3  # of a code: what float32 leaves of a whole number


def quantize(
    model: onnx.ModelProto, scheme: Scheme, block: int, excluded: Sequence[str], calibration: Split | None
) -> tuple[onnx.ModelProto, int]:
    """Return the graph with the products' codes chosen by GPTQ, and how many calibration items that took.

    Raises:
        CalibrationError: no usable calibration items.
        Unsupported: a layer whose zero points the library would pack wrongly, with its name.
    """
    calibration = _onnx_calibrate.checked(model, calibration)
    rows = range(min(ITEMS, len(calibration)))
    config: dict[str, Any] = dict.fromkeys(excluded, "fp32")
    shape = {"bits": scheme.bits, "group_size": block, "scheme": "sym" if scheme.symmetric else "asym"}
    for node, tensors in _onnx_graph.weight_nodes(model):
        if node.op_type == "MatMul" and node.name not in config:
            config[node.name] = shape
            if not scheme.symmetric and -(-tensors[0].dims[0] // block) % 2:
                raise Unsupported(f"GPTQ with zero points needs an even number of groups: {node.name} has an odd one")
    library = importlib.import_module(LIBRARY)
    data = [(feed, None) for feed in _onnx_calibrate.feeds(model, calibration, rows)]
    with _stepped_around(library), contextlib.redirect_stdout(io.StringIO()):  # it prints a progress bar
        done = library.gptq_quantize(model, data, weight_config=config, n_samples=-1, blocksize=block, accuracy_level=4)
    return done.model, len(rows)


@contextlib.contextmanager
def _stepped_around(library: Any) -> Iterator[None]:
    """Put right what the library takes its factor and its codes from, for as long as it runs."""
    cholesky, pack = library.np.linalg.cholesky, library.quant_tensor
    library.np.linalg.cholesky = lambda matrix: _readable_both_ways(cholesky(matrix))
    library.quant_tensor = _on_its_grid
    try:
        yield
    finally:
        library.np.linalg.cholesky, library.quant_tensor = cholesky, pack


def _readable_both_ways(lower: np.ndarray) -> np.ndarray:
    """Return a triangular factor [n, n] mirrored at its diagonal: column i from i on is row i from i on."""
    import numpy as np

    return lower + lower.T - np.diag(np.diag(lower))


def _on_its_grid(
    data: np.ndarray, num_bits: int = 4, group_size: int = 32, scheme: str = "asym", dtype: str = "uint"
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return codes [groups, group_size], scales and zero points [groups, 1] that give rounded weights back exactly.

    All weights of a group are whole multiples of its scale, -(2^bits - 1) to 2^bits - 1 of them, so the scale is the
    group's largest magnitude divided by one of 1..2^bits - 1: the first that makes all multiples whole.
    """
    import numpy as np

    assert dtype == "uint", "the library packs unsigned codes"
    data = data.reshape(-1, group_size).astype(np.float64)
    largest = np.abs(data).max(axis=1, keepdims=True)
    scale = np.where(largest > 0, largest, 1.0)
    found = largest[:, 0] == 0
    for steps in range(1, 2**num_bits):
        tried = data / (scale_of := np.where(largest > 0, largest / steps, 1.0))
        fits = ~found & (np.abs(tried - np.round(tried)).max(axis=1) < NEAR)
        scale[fits], found = scale_of[fits], found | fits
    assert found.all(), "GPTQ returned weights that are not on a grid"
    multiples = np.round(data / scale)
    middle = np.full_like(scale, 2 ** (num_bits - 1))
    zero = middle if scheme == "sym" else np.maximum(0, -multiples.min(axis=1, keepdims=True))
    return multiples + zero, scale, zero.astype(np.uint8)

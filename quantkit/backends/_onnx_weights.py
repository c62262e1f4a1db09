"""Weight codes in blocks that share a scale (`MatMulNBits`), activations in float, by `MatMulNBitsQuantizer`.

Codes are the nearest ones, those of half-quadratic optimization (HQQ) or of GPTQ. Embeddings take the nearest in 4 bits
(`GatherBlockQuantized`); other widths leave them in float.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from quantkit.backends import _onnx_gptq, _onnx_graph
from quantkit.contracts import Split
from quantkit.scheme import PerGroup, Scheme

if TYPE_CHECKING:
    import onnx

BLOCKS = (128, 64, 32)  # block sizes with fast kernels, largest first
EMBEDDING_BITS = 4


def quantize(
    model: onnx.ModelProto, scheme: Scheme, excluded: Sequence[str], calibration: Split | None
) -> tuple[onnx.ModelProto, list[str]]:
    """Return the graph with all products (and embeddings) but the excluded ones as blocks of codes, and notes.

    Raises:
        CalibrationError: GPTQ without usable calibration items.
    """
    block, notes = _block(model, scheme, excluded)
    by_int8 = "products take their activations as blockwise int8 (accuracy_level 4)"
    if scheme.codes == "nearest":
        kinds = ("MatMul", "Gather") if scheme.bits == EMBEDDING_BITS else ("MatMul",)
        return _nearest(model, scheme, block, excluded, kinds), [*notes, by_int8]
    embeddings = any(n.op_type == "Gather" and n.name not in excluded for n, _ in _onnx_graph.weight_nodes(model))
    if scheme.codes == "hqq":
        model = _by_hqq(model, scheme, block, excluded)
        notes.append("products compute in float32 (HQQ's zero points are float)")
    else:
        model, items = _onnx_gptq.quantize(model, scheme, block, excluded, calibration)
        notes += [f"GPTQ on {items} calibration items", by_int8]
    notes += [f"embeddings take the nearest codes: ONNX Runtime's {scheme.codes.upper()} is for products"] * embeddings
    return _nearest(model, scheme, block, excluded, ("Gather",)), notes


def _nearest(
    model: onnx.ModelProto, scheme: Scheme, block: int, excluded: Sequence[str], kinds: tuple[str, ...]
) -> onnx.ModelProto:
    """Return the graph with operations of these kinds rounded to the nearest codes."""
    return _run(
        model,
        bits=scheme.bits,
        block_size=block,
        is_symmetric=scheme.symmetric,
        accuracy_level=4,
        nodes_to_exclude=list(excluded),
        op_types_to_quantize=kinds,
    )


def _by_hqq(model: onnx.ModelProto, scheme: Scheme, block: int, excluded: Sequence[str]) -> onnx.ModelProto:
    """Return the graph with the products' codes chosen by HQQ."""
    config = _tools().HQQWeightOnlyQuantConfig(block_size=block, bits=scheme.bits)
    return _run(model, nodes_to_exclude=list(excluded), algo_config=config)


def _run(model: onnx.ModelProto, **options: Any) -> onnx.ModelProto:
    import numpy as np

    quantizer = _tools().MatMulNBitsQuantizer(model, **options)
    # a row of zeros (padding): it divides 0 by 0, then takes 0 all the same; HQQ only reads what it says it may write
    with np.errstate(invalid="ignore"), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*NumPy array is not writable.*")
        quantizer.process()
    return quantizer.model.model


def _tools() -> Any:
    return importlib.import_module("onnxruntime.quantization.matmul_nbits_quantizer")


def _block(model: onnx.ModelProto, scheme: Scheme, excluded: Sequence[str]) -> tuple[int, list[str]]:
    """Return the block size: the scheme's, or for a scale per channel the largest that pads no chosen weight."""
    if isinstance(scheme.granularity, PerGroup):
        return scheme.granularity.group_size, []
    products = [(n, ts) for n, ts in _onnx_graph.weight_nodes(model) if n.op_type == "MatMul"]
    inputs = [t.dims[-2] for n, ts in products if n.name not in excluded for t in ts]
    block = next((b for b in BLOCKS if all(k % b == 0 for k in inputs)), BLOCKS[-1])
    return block, [f"MatMulNBits knows no scale per channel: blocks of {block} inputs share one"]

"""Float32 .tflite flatbuffer -> quantized one, by ai-edge-quantizer: one recipe, with a rule for each layer apart.

Traps that this file steps around: the quantizer's calibration averages the extremes of items unless told to keep them;
its recipe for static int8 makes inputs and outputs int8, and a transformer's residual stream and mask too (that cost
MiniLM 10 dB); explicit dequantization expands a whole embedding table at every call; blockwise codes raise where a row
is no multiple of the block.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from quantkit import extras
from quantkit.backends import _litert_graph, _litert_session
from quantkit.backends._litert_graph import WeightOp
from quantkit.backends._litert_lower import quiet
from quantkit.contracts import Plan, Split
from quantkit.errors import CalibrationError, Unsupported
from quantkit.numerics.ranges import AVERAGING
from quantkit.scheme import PerGroup, PerTensor, Scheme

EVERYWHERE = ".*"
FULLY_CONNECTED, EMBEDDING_LOOKUP = "FULLY_CONNECTED", "EMBEDDING_LOOKUP"
IN_BLOCKS = {FULLY_CONNECTED, EMBEDDING_LOOKUP}  # operations that the quantizer has codes in blocks for
OPERATIONS = {"TRANSPOSE_CONV": "CONV_2D_TRANSPOSE"}  # the flatbuffer's word: the quantizer's, where they differ


@dataclass(frozen=True)
class Wishes:
    """What the plan asks of a float graph.

    Args:
        schemes: layer -> its scheme, or None to keep it in float32.
        reasons: scope of an operation -> why it cannot have its scheme although its kind could.
    """

    schemes: Mapping[str, Scheme | None]
    reasons: Mapping[str, str]


def wishes(ops: list[WeightOp], plan: Plan) -> Wishes:
    """Return the scheme of each layer that holds weights.

    Raises:
        Unsupported: the plan names a layer that the converted graph does not have.
    """
    layers = {op.layer for op in ops}
    if unknown := sorted(set(plan.layers) - layers):
        raise Unsupported(f"the converted graph has no layer {unknown[0]!r}: it has {', '.join(sorted(layers))}")
    schemes = {layer: plan.layers.get(layer, plan.default) for layer in sorted(layers)}
    schemes = {layer: None if s is None or s.format == "fp32" else s for layer, s in schemes.items()}
    reasons = {}
    for op in ops:
        scheme = schemes[op.layer]
        if not scheme or not isinstance(scheme.granularity, PerGroup) or op.kind not in IN_BLOCKS:
            continue
        if op.width % scheme.granularity.group_size:
            reasons[op.scope] = f"its {op.width} inputs are no multiple of {scheme.granularity.group_size}"
    return Wishes(schemes, reasons)


def quantize(
    data: bytes, ops: list[WeightOp], asked: Wishes, default: Scheme, calibration: Split | None
) -> tuple[bytes, tuple[str, ...]]:
    """Return the flatbuffer with every layer in its scheme, and notes on the choices made.

    Raises:
        CalibrationError: a scheme that needs calibration items without usable ones.
    """
    schemes = {s for s in asked.schemes.values() if s}
    if not schemes:
        return data, ()
    with quiet():
        whole = default.activations == "static" and _litert_graph.mostly_convolutions(_litert_graph.read(data))
        manager = _recipe(ops, asked, default, whole)
        ranges = _ranges(data, schemes, manager, calibration)
        notes = [*_notes(ops, schemes, whole), *_keep_infinite(data, manager, ranges or {})]
        worker = extras.require("ai_edge_quantizer.quantizer").Quantizer(data)
        worker.load_quantization_recipe(manager.get_quantization_recipe())
        result = worker.quantize(ranges, enable_progress_bar=False, enable_progress_report=False)
    return bytes(result.quantized_model), tuple(notes)


def _recipe(ops: list[WeightOp], asked: Wishes, default: Scheme, whole: bool) -> Any:
    """Return the rules: the default for each kind of operation, then one for each operation that differs.

    A later rule wins. Rules for single operations match the names of their outputs exactly.
    """
    types = extras.require("ai_edge_quantizer.qtyping")
    manager = extras.require("ai_edge_quantizer.recipe_manager").RecipeManager()
    if whole:
        config, algorithm = _config(default, FULLY_CONNECTED)
        manager.add_quantization_config(EVERYWHERE, types.TFLOperationName.ALL_SUPPORTED, config, algorithm)
        for edge in (types.TFLOperationName.INPUT, types.TFLOperationName.OUTPUT):  # an application gives floats
            manager.add_quantization_config(EVERYWHERE, edge, algorithm_key="no_quantize")
    base = None if default.format == "fp32" else default
    for kind in sorted({op.kind for op in ops}):
        _add(manager, EVERYWHERE, kind, base)
    for op in ops:
        scheme = None if op.scope in asked.reasons else asked.schemes[op.layer]
        if scheme != base:
            _add(manager, f"^{re.escape(op.scope)}$", op.kind, scheme)
    return manager


def _add(manager: Any, scope: str, kind: str, scheme: Scheme | None) -> None:
    """Add a rule; a kind that the quantizer has no form of for this scheme is left in float32."""
    names = extras.require("ai_edge_quantizer.qtyping").TFLOperationName
    word = OPERATIONS.get(kind, kind)
    if word not in names.__members__:
        return
    config, algorithm = (None, "no_quantize") if scheme is None else _config(scheme, kind)
    try:
        manager.add_quantization_config(scope, names[word], config, algorithm)
    except ValueError:  # the quantizer's policy: no such form of this operation; the report says so
        manager.add_quantization_config(scope, names[word], algorithm_key="no_quantize")


def _config(scheme: Scheme, kind: str) -> tuple[Any, str]:
    """Return the quantizer's words for a scheme on a kind of operation, and its algorithm.

    A look-up has no activations to quantize: its table is kept in codes and single rows are expanded.
    """
    types = extras.require("ai_edge_quantizer.qtyping")
    static = scheme.activations == "static" and kind != EMBEDDING_LOOKUP
    # codes in blocks have one form only: without explicit dequantization
    integer = scheme.activations != "none" or isinstance(scheme.granularity, PerGroup) or kind == EMBEDDING_LOOKUP
    integer = integer and scheme.quantized
    weights = types.TensorQuantizationConfig(
        num_bits=scheme.bits,
        symmetric=True,
        granularity=types.QuantGranularity[_granularity(scheme)],
        dtype=types.TensorDataType.INT if scheme.quantized else types.TensorDataType.FLOAT,
    )
    bits = scheme.activation_bits
    config = types.OpQuantizationConfig(
        # kernels take 16-bit activations around zero, and 8-bit ones with a zero point
        activation_tensor_config=types.TensorQuantizationConfig(num_bits=bits, symmetric=bits == 16)
        if static
        else None,
        weight_tensor_config=weights,
        compute_precision=types.ComputePrecision.INTEGER if integer else types.ComputePrecision.FLOAT,
        explicit_dequantize=not integer,
    )
    if not scheme.quantized:
        return config, "float_casting"
    return config, "GPTQ" if scheme.codes == "gptq" and kind == FULLY_CONNECTED else "min_max_uniform_quantize"


def _granularity(scheme: Scheme) -> str:
    if isinstance(scheme.granularity, PerGroup):
        return f"BLOCKWISE_{scheme.granularity.group_size}"
    return "TENSORWISE" if isinstance(scheme.granularity, PerTensor) else "CHANNELWISE"


def _ranges(data: bytes, schemes: set[Scheme], manager: Any, calibration: Split | None) -> dict[str, Any] | None:
    """Return what the quantizer's calibrator saw: extremes of every tensor, and Hessians for GPTQ; None if not needed.

    The profiler gives the same extremes as keeping all tensors does, ten times faster. A range belongs to a tensor
    between layers, so one way of taking it serves the whole graph.

    Raises:
        Unsupported: layers ask for different ways.
    """
    static, second_order = any(s.activations == "static" for s in schemes), any(s.codes == "gptq" for s in schemes)
    if not static and not second_order:
        return None
    tools = extras.require("ai_edge_quantizer.calibrator")
    modes, updates = tools.CalibrationMode, extras.require("ai_edge_quantizer.utils.qsv_utils")
    update = updates.min_max_update
    if _way(schemes) == "moving_average":  # its own default, with weight 0.05 for the next item
        update = functools.partial(updates.moving_average_update, smoothing_factor=1 - AVERAGING)
    seen: dict[str, Any] = {}
    runs: list[tuple[Any, dict[str, Any]]] = []
    if second_order:
        runs.append((modes.CALIBRATION_PRESERVE_ALL_TENSORS, {}))
    if static:
        runs.append((modes.CALIBRATION_PROFILER_BASED, {"qsv_update_func": update}))
    for mode, options in runs:
        calibrator = tools.Calibrator(data, num_threads=1, mode=mode, **options)
        calibrator.calibrate(_items(data, calibration), manager)
        for name, values in calibrator.get_model_qsvs().items():
            seen.setdefault(name, {}).update(values)
    return seen


def _way(schemes: set[Scheme]) -> str:
    """Return how all static layers take their ranges."""
    ways = {s.ranges for s in schemes if s.activations == "static"}
    if len(ways) > 1:
        raise Unsupported(f"one graph takes its ranges in one way: the plan has {', '.join(sorted(ways))}")
    return ways.pop() if ways else "minmax"


def _keep_infinite(data: bytes, manager: Any, ranges: dict[str, Any]) -> Iterator[str]:
    """Add a rule that leaves each operation beside an endless range in float32; yield a note on it.

    A max-pool is padded with minus infinity: no code stands for it; kernels refuse the scale, or answer wrongly.
    """
    endless = {name for name, seen in ranges.items() if not all(np.isfinite(seen[k]).all() for k in ("min", "max"))}
    utils = extras.require("ai_edge_quantizer.utils.tfl_flatbuffer_utils")
    model = _litert_graph.read(data)
    kept = set()
    for graph in model.subgraphs:
        for op in graph.operators:
            name = utils.TFL_OP_CODE_TO_NAME.get(model.operatorCodes[op.opcodeIndex].builtinCode)
            around = {graph.tensors[i].name.decode() for i in (*op.inputs, *op.outputs) if i >= 0}
            if name is not None and around & endless:
                scope = f"^{re.escape(utils.get_op_scope(op, graph.tensors))}$"
                manager.add_quantization_config(scope, name, algorithm_key="no_quantize")
                kept.add(name.value)
    if kept:
        yield f"{', '.join(sorted(kept))} stay float32 where calibration saw infinite values"


def _items(data: bytes, calibration: Split | None) -> dict[str, Any]:
    """Return the calibration items as the quantizer wants them: signature -> list of inputs by name.

    Raises:
        CalibrationError: none, not finite, or of another shape than the graph's inputs.
    """
    if calibration is None or not len(calibration):
        raise CalibrationError("this scheme needs calibration items: got none")
    signature, inputs, _ = _litert_session.signature(_litert_session.interpreter(data, 1))
    shapes = [tuple(map(int, tensor["shape"])) for _, tensor in inputs]
    got = [x.shape for x in calibration.item(0)]
    if got != shapes:
        raise CalibrationError(f"calibration items must have the shapes of the example: got {got}, expected {shapes}")
    if not all(np.isfinite(x).all() for x in calibration.inputs if x.dtype.kind == "f"):
        raise CalibrationError("calibration items hold nan or inf")
    items = (calibration.item(i) for i in range(len(calibration)))
    return {signature: [_litert_session.by_name(inputs, item) for item in items]}


def _notes(ops: list[WeightOp], schemes: set[Scheme], whole: bool) -> Iterator[str]:
    """Yield what a user should know of the choices made here."""
    if any(s.activations == "static" for s in schemes):
        inside = "all operations that the quantizer knows" if whole else "the layers that hold weights"
        yield f"inputs and outputs stay float32; {inside} compute in integers"
    if _way(schemes) == "moving_average":
        yield f"ranges: extremes averaged with weight {AVERAGING} for the next item (the quantizer's default is 0.05)"
    if any(s.quantized and isinstance(s.granularity, PerGroup) and s.activations == "none" for s in schemes):
        yield "the CPU kernel of blockwise codes takes activations as 8-bit integers, with a range for each row"
    if any(not s.quantized for s in schemes):
        yield "float16 weights are expanded to float32 when the artifact is opened: the file is smaller, not the memory"
    if any(s.activations == "static" or s.codes == "gptq" for s in schemes) and _looks_up(ops):
        yield "embedding tables take nearest codes: a look-up has no activations"


def _looks_up(ops: list[WeightOp]) -> bool:
    return any(op.kind == EMBEDDING_LOOKUP for op in ops)

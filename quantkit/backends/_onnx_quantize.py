"""Float32 ONNX graph -> quantized graph, by ONNX Runtime's own quantizers, one pass for each scheme of the plan.

Traps that this file steps around: importing `matmul_nbits_quantizer` installs a root logging handler; without
`quant_pre_process` the weights of an LSTM are no constants yet and stay float; `MatMulNBits` writes a weight that two
nodes share twice under one name; folded attention masks are stored once for each layer; a graph that the optimizer
saved may not load, because its next run invents the same names again.
"""

from __future__ import annotations

import importlib
import logging
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quantkit.backends import _onnx_graph
from quantkit.contracts import Plan, Split
from quantkit.errors import CalibrationError, Unsupported
from quantkit.scheme import PerChannel, PerGroup, Scheme

if TYPE_CHECKING:
    import onnx

QUANTIZATION = "onnxruntime.quantization"
BLOCKS = (128, 64, 32)  # block sizes with fast kernels, largest first
BETWEEN_CONVOLUTIONS = (
    *("Add", "AveragePool", "Clip", "Concat", "Flatten", "GlobalAveragePool", "MaxPool", "Relu", "Reshape"),
)
Quantized = tuple["onnx.ModelProto", list[str]]  # the graph and notes on the choices made


def wanted(model: onnx.ModelProto, layers: Mapping[str, str], plan: Plan) -> dict[str, Scheme | None]:
    """Return the scheme of each node that holds weights; None or a float32 scheme keeps it as it is."""
    schemes = {}
    for node, _ in _onnx_graph.weight_nodes(model):
        scheme = plan.layers.get(layers.get(node.name, node.name), plan.default)
        schemes[node.name] = None if scheme is None or scheme.format == "fp32" else scheme
    return schemes


def quantize(
    model: onnx.ModelProto, schemes: Mapping[str, Scheme | None], calibration: Split | None
) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    """Return the graph with every node in its scheme, and notes on the choices made.

    Raises:
        Unsupported: the plan mixes 16-bit floats with integers.
        CalibrationError: a static scheme without usable calibration items.
    """
    passes = sorted({s for s in schemes.values() if s}, key=lambda s: (s.activations != "none", s.name))
    if not passes:
        return model, ()
    if all(not s.quantized for s in passes):
        return _half(model, [name for name, s in schemes.items() if s is None])
    if not all(s.quantized for s in passes):
        raise Unsupported("ONNX Runtime's tools cannot mix float16 layers with integer layers in one file")
    notes: list[str] = []
    with _no_root_handler(), tempfile.TemporaryDirectory(prefix="quantkit-onnx-") as folder:
        model = _preprocess(model, Path(folder))
        for scheme in passes:
            chosen = {name for name, s in schemes.items() if s == scheme}
            _unshare(model)
            if scheme.activations == "static":
                model, said = _static(model, scheme, chosen, calibration, Path(folder))
            elif scheme.activations == "dynamic":
                model, said = _dynamic(model, scheme, chosen, Path(folder))
            else:
                model, said = _weight_only(model, scheme, chosen)
            notes += said
    return _tidy(model), tuple(notes)


def _static(
    model: onnx.ModelProto, scheme: Scheme, chosen: set[str], calibration: Split | None, folder: Path
) -> Quantized:
    """Quantize weights and activations to QDQ form with calibrated ranges.

    Products of two activations (attention) stay float, and products leave their output float: quantizing them as well
    cost a vision transformer 22 dB and brought no speed. What lies between convolutions is quantized, so that integers
    flow from one to the next; a transformer's residual stream is not (that cost 10 dB).
    """
    import onnx

    tools = importlib.import_module(QUANTIZATION)
    operations = ["Conv", "ConvTranspose", "Gemm", "MatMul", "Gather"]
    if _mostly_convolutions(model):
        operations += BETWEEN_CONVOLUTIONS
    source, result = folder / "float.onnx", folder / "static.onnx"
    onnx.save(model, source)
    tools.quantize_static(
        source,
        result,
        _reader(model, calibration),
        quant_format=tools.QuantFormat.QDQ,
        op_types_to_quantize=operations,
        nodes_to_exclude=_others(model, chosen),
        per_channel=isinstance(scheme.granularity, PerChannel),
        activation_type=tools.QuantType.QUInt8,
        weight_type=tools.QuantType.QInt8,
        calibrate_method=tools.CalibrationMethod.MinMax,
        extra_options={
            "WeightSymmetric": scheme.symmetric,
            "OpTypesToExcludeOutputQuantization": ["MatMul", "Gemm"],
        },
    )
    assert calibration is not None
    return onnx.load(result), [f"QDQ, unsigned 8-bit activations, extremes of {len(calibration)} calibration items"]


def _dynamic(model: onnx.ModelProto, scheme: Scheme, chosen: set[str], folder: Path) -> Quantized:
    """Quantize weights now and activations at every call."""
    import onnx

    tools = importlib.import_module(QUANTIZATION)
    model = _products(model)
    source, result = folder / "float.onnx", folder / "dynamic.onnx"
    onnx.save(model, source)
    tools.quantize_dynamic(
        source,
        result,
        per_channel=isinstance(scheme.granularity, PerChannel),
        weight_type=tools.QuantType.QInt8,
        nodes_to_exclude=_others(model, chosen),
        extra_options={"WeightSymmetric": scheme.symmetric},
    )
    model = onnx.load(result)
    kinds = {node.op_type for node in model.graph.node}
    coarse = "convolutions keep one scale per weight tensor (ConvInteger) and run slower than in float32"
    return model, [coarse] if "ConvInteger" in kinds else []


def _weight_only(model: onnx.ModelProto, scheme: Scheme, chosen: set[str]) -> Quantized:
    """Pack the weights of matrix products (and of embeddings, in 4 bits) in blocks that share a scale."""
    import numpy as np

    nbits = importlib.import_module(f"{QUANTIZATION}.matmul_nbits_quantizer")
    model = _products(model)
    block, notes = _block(model, scheme, chosen)
    quantizer = nbits.MatMulNBitsQuantizer(
        model,
        bits=scheme.bits,
        block_size=block,
        is_symmetric=scheme.symmetric,
        accuracy_level=4,
        nodes_to_exclude=_others(model, chosen),
        op_types_to_quantize=("MatMul", "Gather") if scheme.bits == 4 else ("MatMul",),
    )
    with np.errstate(invalid="ignore"):  # a row of zeros (padding): it divides 0 by 0, then takes 0 all the same
        quantizer.process()
    return quantizer.model.model, [*notes, "products take their activations as blockwise int8 (accuracy_level 4)"]


def _products(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the graph with MatMul and Add for Gemm, which only the static quantizer knows.

    The dynamic one does so itself, but renames the node on the way, and then no longer finds it among the excluded.
    """
    graph = importlib.import_module(f"{QUANTIZATION}.onnx_model").ONNXModel(model)
    graph.replace_gemm_with_matmul()
    return graph.model


def _block(model: onnx.ModelProto, scheme: Scheme, chosen: set[str]) -> tuple[int, list[str]]:
    """Return the block size: the scheme's, or for a scale per channel the largest that pads no chosen weight."""
    if isinstance(scheme.granularity, PerGroup):
        return scheme.granularity.group_size, []
    products = [(n, ts) for n, ts in _onnx_graph.weight_nodes(model) if n.op_type == "MatMul"]
    inputs = [t.dims[-2] for n, ts in products if _onnx_graph.original(n.name, chosen) for t in ts]
    block = next((b for b in BLOCKS if all(k % b == 0 for k in inputs)), BLOCKS[-1])
    return block, [f"MatMulNBits knows no scale per channel: blocks of {block} inputs share one"]


def _half(model: onnx.ModelProto, kept: Sequence[str]) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    """Return the graph in float16 with float32 inputs and outputs."""
    convert = importlib.import_module("onnxruntime.transformers.float16").convert_float_to_float16
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*will be truncated.*")
        model = convert(model, keep_io_types=True, node_block_list=list(kept))
    return _tidy(model), ("float16; operations without a float16 kernel on the CPU compute in float32",)


def _preprocess(model: onnx.ModelProto, folder: Path) -> onnx.ModelProto:
    """Return the graph with constants folded, batch norms fused and shapes inferred, as the quantizers want it."""
    import onnx

    tools = importlib.import_module(QUANTIZATION)
    source, result = folder / "exported.onnx", folder / "preprocessed.onnx"
    onnx.save(model, source)
    tools.quant_pre_process(source, result, skip_symbolic_shape=True)  # all shapes are fixed: nothing symbolic is left
    return _prefix_new_names(onnx.load(result), known=_names(model))


def _names(model: onnx.ModelProto) -> set[str]:
    graph = model.graph
    return {"", *(t.name for t in (*graph.input, *graph.initializer)), *(o for n in graph.node for o in n.output)}


def _prefix_new_names(model: onnx.ModelProto, known: set[str]) -> onnx.ModelProto:
    """Return the graph with the optimizer's own names (`gemm_input_shape`) prefixed: its next run clashes with them."""
    for item in (*model.graph.initializer, *model.graph.value_info):
        item.name = item.name if item.name in known else f"folded.{item.name}"
    for node in model.graph.node:
        for names in (node.input, node.output):
            names[:] = [name if name in known else f"folded.{name}" for name in names]
    return model


def _unshare(model: onnx.ModelProto) -> None:
    """Give each node its own copy of a shared weight, because the quantizers transpose and reshape in place.

    `_tidy` merges what is still equal afterwards.
    """
    constants = {t.name: t for t in model.graph.initializer}
    used: set[str] = set()
    for node, _ in list(_onnx_graph.weight_nodes(model)):
        for index in _onnx_graph.WEIGHTS[node.op_type]:
            name = node.input[index]
            if name in used:
                copy = model.graph.initializer.add()
                copy.CopyFrom(constants[name])
                copy.name = node.input[index] = f"{name}.{node.name}.{index}"
            elif name in constants:
                used.add(name)


def _tidy(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the graph sorted (the float16 tool appends its casts), equal constants stored once, no unused domains."""
    import onnx_ir
    from onnx_ir.passes import common

    steps = common.TopologicalSortPass(), common.DeduplicateHashedInitializersPass(), common.RemoveUnusedOpsetsPass()
    return onnx_ir.to_proto(onnx_ir.passes.Sequential(*steps)(onnx_ir.from_proto(model)).model)


def _mostly_convolutions(model: onnx.ModelProto) -> bool:
    sizes: dict[bool, int] = {True: 0, False: 0}
    for node, tensors in _onnx_graph.weight_nodes(model):
        sizes[node.op_type == "Conv"] += sum(map(_onnx_graph.elements, tensors))
    return sizes[True] > sizes[False]


def _others(model: onnx.ModelProto, chosen: set[str]) -> list[str]:
    """Return the nodes to leave alone: those with weights that are not chosen, and products of two activations."""
    kinds = _onnx_graph.WEIGHTS
    return [n.name for n in model.graph.node if n.op_type in kinds and not _onnx_graph.original(n.name, chosen)]


def _reader(model: onnx.ModelProto, calibration: Split | None) -> Any:
    """Return ONNX Runtime's reader over all calibration items, checked first.

    Raises:
        CalibrationError: none, not finite, or of another shape than the graph's inputs.
    """
    import numpy as np

    if calibration is None or not len(calibration):
        raise CalibrationError("a static scheme needs calibration items: got none")
    split = calibration
    names = [i.name for i in model.graph.input]
    shapes = [tuple(d.dim_value for d in i.type.tensor_type.shape.dim) for i in model.graph.input]
    got = [x.shape for x in calibration.item(0)]
    if got != shapes:
        raise CalibrationError(f"calibration items must have the shapes of the example: got {got}, expected {shapes}")
    if not all(np.isfinite(x).all() for x in calibration.inputs if x.dtype.kind == "f"):
        raise CalibrationError("calibration items hold nan or inf")
    base = importlib.import_module(QUANTIZATION).CalibrationDataReader

    class Reader(base):  # type: ignore[misc, valid-type]
        """Hands out one item at a time."""

        def __init__(self) -> None:
            self.items = (dict(zip(names, split.item(i), strict=True)) for i in range(len(split)))

        def get_next(self) -> dict[str, Any] | None:
            """Return the next item, or None at the end."""
            return next(self.items, None)

    return Reader()


@contextmanager
def _no_root_handler() -> Iterator[None]:
    """Keep the tools from installing a logging handler: `basicConfig` and `logging.warning` do so only without one."""
    handler = logging.NullHandler()
    logging.getLogger().addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(handler)

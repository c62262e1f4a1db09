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
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from quantkit.backends import _onnx_graph, _onnx_half, _onnx_refuse, _onnx_static, _onnx_weights
from quantkit.contracts import Plan, Split
from quantkit.errors import Unsupported
from quantkit.scheme import PerChannel, Scheme

if TYPE_CHECKING:
    import onnx

QUANTIZATION = "onnxruntime.quantization"
Quantized = tuple["onnx.ModelProto", list[str]]  # the graph and notes on the choices made


def wanted(model: onnx.ModelProto, layers: Mapping[str, str], plan: Plan) -> dict[str, Scheme | None]:
    """Return the scheme of each node that holds weights; None or a float32 scheme keeps it as it is.

    Raises:
        Unsupported: a layer's own scheme that no quantizer of ONNX Runtime gives, with the layer's name.
    """
    schemes = {}
    for node, _ in _onnx_graph.weight_nodes(model):
        layer = layers.get(node.name, node.name)
        scheme = plan.layers.get(layer, plan.default)
        if scheme is not None and (reason := _onnx_refuse.no_form(scheme)):
            raise Unsupported(f"layer {layer}: {reason}")
        schemes[node.name] = None if scheme is None or scheme.format == "fp32" else scheme
    return schemes


def quantize(
    model: onnx.ModelProto,
    schemes: Mapping[str, Scheme | None],
    calibration: Split | None,
    form: _onnx_static.Form = "QDQ",
) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    """Return the graph with every node in its scheme, and notes on the choices made.

    Raises:
        CalibrationError: a static scheme, or GPTQ, without usable calibration items.
    """
    passes = sorted({s for s in schemes.values() if s and s.quantized}, key=lambda s: (s.activations != "none", s.name))
    halves = {name for name, s in schemes.items() if s and not s.quantized}
    if not passes and not halves:
        return model, ()
    if not passes:
        kept = [name for name, s in schemes.items() if s is None]
        return _tidy(_onnx_half.whole(model, kept)), (_onnx_half.NOTE,)
    notes: list[str] = []
    with _no_root_handler(), tempfile.TemporaryDirectory(prefix="quantkit-onnx-") as name:
        folder = Path(name)
        model = _preprocess(model, folder)
        if halves:
            _unshare(model)
            kept = [node.name for node in model.graph.node if _onnx_graph.original(node.name, schemes) not in halves]
            model, notes = _onnx_half.single(model, kept), [_onnx_half.NOTE]
        for scheme in passes:
            _unshare(model)
            model, said = _pass(model, scheme, schemes, calibration, folder, form)
            notes += said
    return _tidy(model), tuple(notes)


def _pass(
    model: onnx.ModelProto,
    scheme: Scheme,
    schemes: Mapping[str, Scheme | None],
    calibration: Split | None,
    folder: Path,
    form: _onnx_static.Form,
) -> Quantized:
    """Return the graph with the nodes of one scheme in it."""
    model = model if scheme.activations == "static" else _products(model)
    excluded = _others(model, scheme, schemes)
    if scheme.activations == "static":
        return _onnx_static.quantize(model, scheme, excluded, calibration, folder, form)
    if scheme.activations == "dynamic":
        return _dynamic(model, scheme, excluded, folder)
    return _onnx_weights.quantize(model, scheme, excluded, calibration)


def _dynamic(model: onnx.ModelProto, scheme: Scheme, excluded: list[str], folder: Path) -> Quantized:
    """Quantize weights now and activations at every call."""
    import onnx

    tools = importlib.import_module(QUANTIZATION)
    source, result = folder / "float.onnx", folder / "dynamic.onnx"
    onnx.save(model, source)
    tools.quantize_dynamic(
        source,
        result,
        per_channel=isinstance(scheme.granularity, PerChannel),
        weight_type=tools.QuantType.QInt8,
        nodes_to_exclude=excluded,
        extra_options={"WeightSymmetric": scheme.symmetric},
    )
    model = onnx.load(result)
    kinds = {node.op_type for node in model.graph.node}
    coarse = "convolutions keep one scale per weight tensor (ConvInteger) and run slower than in float32"
    return model, [coarse] if "ConvInteger" in kinds else []


def _products(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the graph with MatMul and Add for Gemm, which only the static quantizer knows.

    The dynamic one does so itself, but renames the node on the way, and then no longer finds it among the excluded.
    """
    graph = importlib.import_module(f"{QUANTIZATION}.onnx_model").ONNXModel(model)
    graph.replace_gemm_with_matmul()
    return graph.model


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


def _others(model: onnx.ModelProto, scheme: Scheme, schemes: Mapping[str, Scheme | None]) -> list[str]:
    """Return the nodes to leave alone: those with weights in another scheme, and products of two activations.

    A node's name is sought among all that are known: among some, `10` would be taken for what became of `1`.
    """
    nodes = [n for n in model.graph.node if n.op_type in _onnx_graph.WEIGHTS]
    return [n.name for n in nodes if schemes.get(_onnx_graph.original(n.name, schemes)) != scheme]


@contextmanager
def _no_root_handler() -> Iterator[None]:
    """Keep the tools from installing a logging handler: `basicConfig` and `logging.warning` do so only without one."""
    handler = logging.NullHandler()
    logging.getLogger().addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(handler)

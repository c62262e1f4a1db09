"""LiteRT: what the artifact holds is what the report says, and it computes what the network computes."""

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from quantkit import extras

if reason := extras.missing("litert"):
    pytest.skip(f"backend 'litert' {reason}", allow_module_level=True)

import torch
from torch import nn

from quantkit.backends import _litert_graph, _litert_lower, _litert_session
from quantkit.backends.litert import plugin
from quantkit.catalog import METHODS
from quantkit.contracts import ModelInfo, Plan, Prepared, Quality, Split
from quantkit.errors import CalibrationError, CorruptFile, Unsupported
from quantkit.numerics import fidelity
from quantkit.records import Case
from quantkit.scheme import PerChannelGroup, PerGroup, PerTensor, Scheme

FP32 = Scheme(bits=32, format="fp32")
HALF = Scheme(bits=16, format="bf16")
INT8_WEIGHTS = Scheme(bits=8)
INT8_DYNAMIC = Scheme(bits=8, activations="dynamic")
INT8_STATIC = Scheme(bits=8, activations="static")
INT16X8 = Scheme(bits=8, activations="static", activation_bits=16)
INT4_CHANNELS = Scheme(bits=4)
INT4 = Scheme(bits=4, granularity=PerGroup(32))
GPTQ = replace(INT4, codes="gptq")


class Perceptron(nn.Module):
    """256 -> 128 -> 16 over a sequence of 4."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(256, 128), nn.Linear(128, 16)

    def forward(self, x):
        return self.second(torch.relu(self.first(x)))


class Tokens(nn.Module):
    """A table in a list, and a projection: the list is on no path that the converter knows."""

    def __init__(self):
        super().__init__()
        self.tables, self.head = nn.ModuleList([nn.Embedding(64, 32)]), nn.Linear(32, 8)

    def forward(self, tokens):
        return self.head(self.tables[0](tokens)[:, 0])


class Reader(nn.Module):
    """An LSTM of three steps and a classifier."""

    def __init__(self):
        super().__init__()
        self.lstm, self.head = nn.LSTM(8, 32, batch_first=True), nn.Linear(32, 4)

    def forward(self, x):
        return self.head(self.lstm(x)[0][:, -1])


def convolutions():
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(3, 2, 1),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 5),
    )  # fmt: skip


INT8_TYPE, INT4_TYPE = 9, 17  # TensorType in the schema of .tflite files
SHAPE = 3 * 4  # bytes of the shape that Perceptron's answer is given at the end: three 32-bit integers
SHAPES = {Perceptron: (4, 256), Reader: (3, 8), convolutions: (3, 8, 8)}


def items(make, count=8):
    if make is Tokens:
        return np.arange(count, dtype=np.int64).reshape(count, 1)
    return np.random.default_rng(0).standard_normal((count, *SHAPES[make]), dtype=np.float32)


class Built:
    """A network, its artifact and the artifact's session."""

    def __init__(self, make, scheme, folder, layers=None):
        torch.manual_seed(0)
        self.network = make().eval()
        self.inputs = items(make)
        calibration = Split((self.inputs,), np.zeros(8), tuple("abcdefgh"))
        prepared = Prepared(self.network, Plan(scheme, layers or {}), (self.inputs[:1],), calibration)
        self.folder = folder
        self.report = plugin.build(prepared, folder, threads=1)
        self.session = plugin.open(folder, None, threads=1)

    @property
    def bits(self):
        return {layer.name: layer.bits for layer in self.report.layers}

    @property
    def graph(self):
        return _litert_graph.read((self.folder / "model.tflite").read_bytes())

    def outputs(self):
        session = self.session
        return np.concatenate([session.fetch(session.run(session.feed((x[None],)))) for x in self.inputs])

    def reference(self):
        with torch.no_grad():
            return self.network(torch.from_numpy(self.inputs)).numpy()

    def sqnr_db(self):
        return fidelity.sqnr_db(self.reference(), self.outputs())


@pytest.fixture(scope="module")
def converted():
    """Convert each tiny network once: every method starts from the same float graph, and converting takes longest."""
    known, lower = {}, _litert_lower.lower

    def once(network, example):
        key = str([(type(m), str(p.shape)) for m in network.modules() for p in m.parameters(recurse=False)])
        if key not in known:
            known[key] = lower(network, example)
        return known[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_litert_lower, "lower", once)
        yield known


@pytest.fixture(scope="module")
def built(converted, tmp_path_factory):
    """Build each network in each scheme once."""
    known = {}

    def get(make, scheme, layers=None):
        key = make, scheme, str(layers)
        if key not in known:
            known[key] = Built(make, scheme, tmp_path_factory.mktemp("artifact"), layers)
        return known[key]

    return get


@pytest.mark.parametrize("make", [Perceptron, Tokens, Reader, convolutions], ids=lambda make: make.__name__)
def test_float_artifact_computes_what_the_network_computes(built, make):
    """Float32 has 24 bits; sums of up to 256 products lose 4 of them on the way at most: 120 dB."""
    assert built(make, FP32).sqnr_db() > 6.02 * 20


@pytest.mark.parametrize(
    ("scheme", "bits"),
    [(HALF, 16), (INT8_WEIGHTS, 8), (INT8_DYNAMIC, 8), (INT8_STATIC, 8), (INT16X8, 8), (INT4, 4), (GPTQ, 4),
     (INT4_CHANNELS, 4)],
    ids=lambda x: getattr(x, "name", x),
)  # fmt: skip
def test_layers_are_stored_in_the_bits_of_the_scheme(built, scheme, bits):
    assert built(Perceptron, scheme).bits == {"first": bits, "second": bits}


def test_report_counts_every_stored_byte(built):
    """By hand: 256*128 + 128*16 codes; 128 + 16 scales (float32), zero points (int64) and biases (float32); a shape."""
    report = built(Perceptron, INT8_DYNAMIC).report

    assert sum(layer.weights for layer in report.layers) == 256 * 128 + 128 * 16
    assert report.weight_bytes == 256 * 128 + 128 * 16 + (128 + 16) * (4 + 8 + 4) + SHAPE


def test_four_bit_codes_and_block_scales_are_counted_as_packed(built):
    """By hand: half a byte for each of 34,816 codes; a float16 scale for each 32 of them; 144 biases; a shape."""
    assert built(Perceptron, INT4).report.weight_bytes == 34_816 // 2 + 34_816 // 32 * 2 + 144 * 4 + SHAPE


def test_weight_only_int8_is_rounding_to_nearest(built):
    """Independent implementation: symmetric, one scale for each output, activations in float32."""
    case = built(Perceptron, INT8_WEIGHTS)
    network = Perceptron().eval()
    network.load_state_dict(case.network.state_dict())
    for layer in (network.first, network.second):
        scale = layer.weight.detach().abs().amax(1, keepdim=True) / 127
        layer.weight.data = (layer.weight.detach() / scale).round() * scale
    with torch.no_grad():
        expected = network(torch.from_numpy(case.inputs)).numpy()

    np.testing.assert_allclose(case.outputs(), expected, atol=1e-5)


def unpacked(graph, name):
    """Return a blockwise 4-bit tensor in float32: low half byte first, a float16 scale for each block."""
    (subgraph,) = graph.subgraphs
    tensor = next(t for t in subgraph.tensors if t.type == INT4_TYPE and f"_{name};" in t.name.decode())
    details = tensor.quantization.details
    packed = np.frombuffer(bytes(graph.buffers[tensor.buffer].data), np.uint8)
    codes = np.stack([packed & 15, packed >> 4], -1).astype(np.int16).reshape(-1, details.blockSize)
    scales = np.frombuffer(bytes(graph.buffers[subgraph.tensors[details.scales].buffer].data), np.float16)
    return ((codes - 16 * (codes > 7)) * scales[:, None]).astype(np.float32).reshape(tensor.shape)


@pytest.mark.parametrize("scheme", [INT4, GPTQ], ids=lambda scheme: scheme.name)
def test_kernel_multiplies_by_the_codes_and_scales_that_are_stored(built, scheme):
    """Independent reading of the file. What remains is the kernel's 8-bit activations: a row of normal values spans
    about 6 sigma, so a step is 6/255 sigma and its error 10·log10(12·255²/36) = 43 dB down; two layers: 40 dB.
    """
    case = built(Perceptron, scheme)
    network = Perceptron().eval()
    network.load_state_dict(case.network.state_dict())
    for name, layer in network.named_children():
        layer.weight.data = torch.from_numpy(unpacked(case.graph, name))
    with torch.no_grad():
        expected = network(torch.from_numpy(case.inputs)).numpy()

    assert fidelity.sqnr_db(expected, case.outputs()) > 37


def test_float16_weights_are_the_nearest_ones(built):
    """Independent implementation: PyTorch's own rounding; computed in float32."""
    case = built(Perceptron, HALF)
    network = Perceptron().eval()
    network.load_state_dict({k: v.half().float() if v.ndim > 1 else v for k, v in case.network.state_dict().items()})
    with torch.no_grad():
        expected = network(torch.from_numpy(case.inputs)).numpy()

    np.testing.assert_allclose(case.outputs(), expected, atol=1e-5)
    assert case.report.format == "fp16"


def test_more_bits_and_second_order_codes_come_closer(built):
    """Eight bits beat four by 20·log10(127/7) = 25 dB at equal granularity, where activations add nothing."""
    eight, four = built(Perceptron, INT8_WEIGHTS).sqnr_db(), built(Perceptron, INT4_CHANNELS).sqnr_db()

    assert eight - four == pytest.approx(20 * np.log10(127 / 7), abs=3)
    assert built(Perceptron, GPTQ).sqnr_db() > built(Perceptron, INT4).sqnr_db() > four


def test_static_range_is_the_extremes_of_all_calibration_items(built):
    """An affine code spans [min, max] in 255 steps; averaging over items (the quantizer's default) would be shorter."""
    case = built(Perceptron, INT8_STATIC)
    (graph,) = case.graph.subgraphs
    scales = {t.name.decode(): t.quantization.scale for t in graph.tensors if t.quantization and t.type == INT8_TYPE}
    entry = next(scale for name, scale in scales.items() if "args_0" in name)

    assert float(entry[0]) == pytest.approx(np.ptp(case.inputs) / 255, rel=1e-4)


def test_moving_average_gives_each_next_item_a_hundredth(built):
    """The first item's extremes, moved by 0.01 of the way to each next item's; not the quantizer's own 0.05."""
    case = built(Perceptron, replace(INT8_STATIC, ranges="moving_average"))
    low, high = case.inputs[0].min(), case.inputs[0].max()
    for item in case.inputs[1:]:
        low, high = low + 0.01 * (item.min() - low), high + 0.01 * (item.max() - high)
    (graph,) = case.graph.subgraphs
    scales = {t.name.decode(): t.quantization.scale for t in graph.tensors if t.quantization and t.type == INT8_TYPE}
    entry = next(scale for name, scale in scales.items() if "args_0" in name)

    assert float(entry[0]) == pytest.approx((high - low) / 255, rel=1e-4)
    assert any("averaged with weight 0.01" in note for note in case.report.notes)


@pytest.mark.parametrize("scheme", [INT8_STATIC, INT16X8], ids=lambda scheme: scheme.name)
def test_static_artifact_takes_and_gives_floats(built, scheme):
    report = built(convolutions, scheme).report

    assert [(t.name, t.shape, t.dtype) for t in report.inputs] == [("args_0", (1, 3, 8, 8), "float32")]
    assert [(t.name, t.shape, t.dtype) for t in report.outputs] == [("output_0", (1, 5), "float32")]
    assert any("inputs and outputs stay float32" in note for note in report.notes)


@pytest.mark.parametrize("scheme", [INT8_STATIC, INT16X8], ids=lambda scheme: scheme.name)
def test_padding_with_minus_infinity_is_left_in_float(built, scheme):
    """A padded max-pool: an endless range has no scale, and the answers must not suffer from one."""
    case = built(convolutions, scheme)

    assert "MAX_POOL_2D, PADV2 stay float32 where calibration saw infinite values" in case.report.notes
    assert case.sqnr_db() > 25


def test_sixteen_bit_activations_leave_the_error_of_the_weights(built):
    """Activation codes of 16 bits are 48 dB finer than of 8: what is left is weight-only's error."""
    assert built(Perceptron, INT16X8).sqnr_db() == pytest.approx(built(Perceptron, INT8_WEIGHTS).sqnr_db(), abs=0.5)
    assert built(Perceptron, INT8_STATIC).sqnr_db() < built(Perceptron, INT16X8).sqnr_db()


@pytest.mark.parametrize(
    ("scheme", "layers", "bits"),
    [
        (INT8_DYNAMIC, {"first": None}, {"first": 32, "second": 8}),
        (INT8_DYNAMIC, {"second": INT4}, {"first": 8, "second": 4}),
        (FP32, {"second": INT8_STATIC}, {"first": 32, "second": 8}),
        (INT8_STATIC, {"first": HALF}, {"first": 16, "second": 8}),
    ],
    ids=["float", "four bits", "one layer only", "half"],
)
def test_plan_may_treat_single_layers_differently(built, scheme, layers, bits):
    case = built(Perceptron, scheme, layers)

    assert case.bits == bits
    assert not any(layer.reason for layer in case.report.layers)
    assert case.sqnr_db() > 15


def test_layer_can_be_kept_in_float_where_every_operation_is_quantized(built):
    assert built(convolutions, INT8_STATIC, {"3": None}).bits == {"0": 8, "3": 32, "8": 8}


def test_layer_whose_rows_no_block_divides_stays_float_with_the_reason(built):
    report = built(Perceptron, Scheme(bits=4, granularity=PerGroup(256))).report

    assert {layer.name: (layer.bits, layer.reason) for layer in report.layers} == {
        "first": (4, ""),
        "second": (32, "its 128 inputs are no multiple of 256"),
    }


def test_plan_with_an_unknown_layer_is_refused(built, tmp_path):
    with pytest.raises(Unsupported, match="no layer 'third': it has first, second"):
        Built(Perceptron, INT8_DYNAMIC, tmp_path, {"third": None})


def test_unrolled_lstm_is_one_layer_whose_weights_count_once(built):
    """4 gates of 32 rows, over 8 inputs and 32 states; three steps share them."""
    layers = {layer.name: layer for layer in built(Reader, INT8_DYNAMIC).report.layers}

    assert (layers["lstm"].weights, layers["lstm"].bits) == (4 * 32 * (8 + 32), 8)


def test_lstm_of_which_one_matrix_fits_no_block_has_a_row_for_each_width(built):
    """8 inputs are no multiple of 32, the 32 states are one; 4 gates of 32 rows have both."""
    rows = [layer for layer in built(Reader, INT4).report.layers if layer.name == "lstm"]

    assert sorted((r.weights, r.bits, r.reason) for r in rows) == [
        (4 * 32 * 8, 32, "its 8 inputs are no multiple of 32"),
        (4 * 32 * 32, 4, ""),
    ]


def test_embedding_table_is_quantized_and_named_through_a_list(built):
    for scheme in (INT8_WEIGHTS, INT8_STATIC):
        case = built(Tokens, scheme)
        assert case.bits == {"tables.0": 8, "head": 8}
        assert case.sqnr_db() > 25


def test_wide_integers_become_narrow_exactly_or_not_at_all(built):
    case = built(Tokens, FP32)

    assert case.report.inputs[0].dtype == "int32"
    assert "64-bit integer inputs became 32-bit" in case.report.notes
    with pytest.raises(ValueError, match=r"'args_0': got 2147483648, expected -2147483648 to 2147483647"):
        case.session.feed((np.array([[2**31]]),))


def test_notes_say_what_xnnpack_runs(built):
    assert "XNNPACK runs 3 of 3 operations" in built(Perceptron, FP32).report.notes
    assert "FULLY_CONNECTED" in built(Perceptron, INT16X8).report.notes[-1]


def test_without_a_delegate_nothing_is_counted_as_taken(built):
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    plain = Interpreter(
        str(built(Perceptron, FP32).folder / "model.tflite"),
        experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
    )
    plain.allocate_tensors()

    assert _litert_session.who_runs(plain) == (
        "XNNPACK runs 0 of 3 operations; LiteRT's own CPU kernels run 2 FULLY_CONNECTED, RESHAPE"
    )


def test_threads_sleep_while_idle(built):
    import time

    session = plugin.open(built(Perceptron, FP32).folder, None, threads=2)
    fed = session.feed((items(Perceptron)[:1],))
    for _ in range(10):
        session.run(fed)
    start = time.process_time()
    time.sleep(0.5)

    assert time.process_time() - start < 0.05


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (
            (np.zeros((1, 4, 8), np.float32),),
            r"input 'args_0': got float32 \[1, 4, 8\], expected float32 \[1, 4, 256\]",
        ),
        ((np.zeros((1, 4, 256)),), r"input 'args_0': got float64 \[1, 4, 256\], expected float32 \[1, 4, 256\]"),
        ((), r"the artifact takes 1 inputs \(args_0\): got 0"),
    ],
    ids=["shape", "dtype", "count"],
)
def test_wrong_input_is_named_in_one_line(built, inputs, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        built(Perceptron, FP32).session.feed(inputs)


def test_results_of_two_feeds_do_not_share_memory(built):
    case = built(Perceptron, FP32)
    fed = [case.session.feed((x[None],)) for x in case.inputs[:2]]
    first = case.session.run(fed[0])
    case.session.run(fed[1])

    np.testing.assert_allclose(case.session.fetch(first)[0], case.reference()[0], atol=1e-5)


def test_missing_damaged_and_cut_artifacts_are_named(built, tmp_path):
    with pytest.raises(CorruptFile, match="missing: build the case again"):
        plugin.open(tmp_path, None, 1)
    whole = (built(Perceptron, INT8_DYNAMIC).folder / "model.tflite").read_bytes()
    for data in (b"", b"no flatbuffer", whole[:100], whole[: len(whole) // 2], whole[:-64], whole[:8] + b"\xff" * 64):
        (tmp_path / "model.tflite").write_bytes(data)
        with pytest.raises(CorruptFile, match="build the case again"):
            plugin.open(tmp_path, None, 1)


@pytest.mark.parametrize("scheme", [INT8_STATIC, GPTQ], ids=lambda scheme: scheme.name)
@pytest.mark.parametrize(
    ("calibration", "message"),
    [
        (None, "got none"),
        (np.zeros((0, 4, 256), np.float32), "got none"),
        (np.zeros((2, 4, 8), np.float32), "shapes of the example"),
        (np.full((2, 4, 256), np.nan, np.float32), "nan or inf"),
    ],
    ids=["none", "empty", "shape", "nan"],
)
def test_calibration_that_cannot_be_used_is_refused(tmp_path, converted, scheme, calibration, message):
    split = calibration if calibration is None else Split((calibration,), calibration, ("a",) * len(calibration))
    example = (np.zeros((1, 4, 256), np.float32),)

    with pytest.raises(CalibrationError, match=message):
        plugin.build(Prepared(Perceptron().eval(), Plan(scheme), example, split), tmp_path, 1)
    assert not list(tmp_path.iterdir())


def test_operation_without_litert_form_is_named(tmp_path):
    class Odd(nn.Module):
        def forward(self, x):
            return torch.special.airy_ai(x)

    with pytest.raises(Unsupported, match=r"aten.special_airy_ai.default has no LiteRT form$"):
        plugin.build(Prepared(Odd().eval(), Plan(FP32), (np.zeros((1, 3), np.float32),)), tmp_path, 1)


def test_artifact_that_would_stay_float_is_refused_while_building(tmp_path, converted):
    """The plan cannot know it of a network that describes itself wrongly; the finished file does."""
    with pytest.raises(Unsupported, match=r"of 2816 weights would be w4a16g32: .*no w4a16g32 form of CONV_2D"):
        Built(convolutions, INT4, tmp_path)
    assert not list(tmp_path.iterdir())


def test_building_leaves_the_process_as_it_was(tmp_path, capfd):
    """A conversion of its own: loggers, warnings, PyTorch's global state and the network stay untouched."""
    network = nn.Linear(32, 4).eval()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    state = torch.get_default_dtype(), torch.is_grad_enabled(), torch.get_num_threads(), Path.cwd()
    handlers, level = list(logging.getLogger().handlers), logging.getLogger().level

    plugin.build(Prepared(network, Plan(INT8_DYNAMIC), (np.zeros((1, 32), np.float32),)), tmp_path, 1)

    assert (torch.get_default_dtype(), torch.is_grad_enabled(), torch.get_num_threads(), Path.cwd()) == state
    assert (logging.getLogger().handlers, logging.getLogger().level) == (handlers, level)
    assert not network.training and all(torch.equal(before[k], v) for k, v in network.state_dict().items())
    said = capfd.readouterr()
    assert said.out == ""
    assert "it/s" not in said.err  # what is left there comes from compiled code: one line of each library


def info(family, layers):
    return ModelInfo("m", "m", family, "vision", "d", Quality("q", "none"), (), "", "", layers)


@pytest.mark.parametrize(
    ("model", "method", "reason"),
    [
        (info("cnn", ("conv2d", "linear")), "int4_weight_only", "the convolutions would stay float"),
        (info("cnn", ("conv2d", "linear")), "int8_static", None),
        (info("cnn", ("conv2d", "linear")), "half", None),
        (info("rnn", ("lstm", "linear")), "int8_static", None),
        (info("rnn", ("lstm", "linear")), "int4_gptq", None),
        (info("transformer", ("conv2d", "linear")), "int16x8_static", None),
    ],
    ids=lambda x: getattr(x, "family", None) or str(x),
)
def test_model_of_which_hardly_anything_would_be_quantized_is_refused(model, method, reason):
    got = plugin.unsupported(Case("m", method, "litert", "cpu"), model, METHODS.get(method).scheme)

    assert (got is None) if reason is None else reason in got


@pytest.mark.parametrize(
    ("scheme", "reason"),
    [
        (Scheme(bits=3), "4 or 8 bits, not 3"),
        (Scheme(bits=4, format="nf4"), "uniform grid, not nf4"),
        (Scheme(bits=8, sparsity=0.5), "uniform grid, not s50-w8a16"),
        (Scheme(bits=8, symmetric=False), "around zero only"),
        (Scheme(bits=4, granularity=PerGroup(48)), "not 48"),
        (Scheme(bits=8, granularity=PerGroup(32)), "4-bit weights with float activations only"),
        (Scheme(bits=8, granularity=PerChannelGroup(16)), "per tensor, output channel or block"),
        (Scheme(bits=8, granularity=PerTensor(), activations="dynamic"), "answer wrongly"),
        (replace(INT8_STATIC, ranges="entropy"), "extremes of each item, so it has no entropy ranges"),
        (replace(INT8_STATIC, ranges="mse"), "extremes of each item, so it has no mse ranges"),
        (replace(INT4, codes="hqq"), "no HQQ"),
        (replace(INT8_DYNAMIC, codes="gptq"), "float activations only"),
    ],
    ids=lambda x: getattr(x, "name", ""),
)
def test_scheme_without_a_form_is_refused_before_anything_runs(scheme, reason):
    got = plugin.unsupported(Case("m", "x", "litert", "cpu"), info("transformer", ("linear",)), scheme)

    assert reason in got
    with pytest.raises(Unsupported, match="layer 'a': "):
        plugin.build(Prepared(nn.Linear(2, 2), Plan(FP32, {"a": scheme}), ()), None, 1)

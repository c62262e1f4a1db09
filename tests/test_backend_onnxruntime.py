"""ONNX Runtime: what the artifact holds is what the report says, and it computes what the network computes."""

import copy
import logging
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from quantkit import extras

if reason := extras.missing("onnx"):
    pytest.skip(f"backend 'onnxruntime' {reason}", allow_module_level=True)

import onnx
import torch
from torch import nn

from quantkit.backends import _onnx_lower
from quantkit.backends.onnxruntime import plugin
from quantkit.catalog import METHODS, TARGETS
from quantkit.contracts import ModelInfo, Plan, Prepared, Quality, Split, TensorInfo
from quantkit.errors import CalibrationError, CorruptFile, Unsupported
from quantkit.numerics import fidelity
from quantkit.records import Case
from quantkit.scheme import PerGroup, PerTensor, Scheme

FP32 = Scheme(bits=32, format="fp32")
INT4 = Scheme(bits=4, granularity=PerGroup(32))
INT8_STATIC = Scheme(bits=8, activations="static")
INT8_DYNAMIC = Scheme(bits=8, activations="dynamic")
INT8_WEIGHTS = Scheme(bits=8)


class Perceptron(nn.Module):
    """256 -> 128 -> 16 over a sequence of 4."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(256, 128), nn.Linear(128, 16)

    def forward(self, x):
        return self.second(torch.relu(self.first(x)))


class Tied(nn.Module):
    """One table is embedding and output projection, and one square layer is used twice."""

    def __init__(self):
        super().__init__()
        self.embed, self.twice = nn.Embedding(64, 32), nn.Linear(32, 32)
        self.head = nn.Linear(32, 64, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens):
        return self.head(self.twice(torch.tanh(self.twice(self.embed(tokens)[:, 0]))))


class Reader(nn.Module):
    """An LSTM and a classifier."""

    def __init__(self):
        super().__init__()
        self.lstm, self.head = nn.LSTM(8, 32, batch_first=True), nn.Linear(32, 4)

    def forward(self, x):
        return self.head(self.lstm(x)[0][:, -1])


class Attention(nn.Module):
    """Scores with an additive mask: products of two activations, which hold no weights."""

    def __init__(self):
        super().__init__()
        self.qkv, self.out = nn.Linear(32, 96), nn.Linear(32, 32)
        self.register_buffer("mask", torch.triu(torch.full((6, 6), -1e4), 1))

    def forward(self, x):
        q, k, v = self.qkv(x).chunk(3, -1)
        return self.out((q @ k.transpose(1, 2) + self.mask).softmax(-1) @ v)


def convolutions():
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 5),
    )  # fmt: skip


SHAPES = {Perceptron: (4, 256), Attention: (6, 32), Reader: (6, 8), convolutions: (3, 8, 8)}


def items(make, count=8):
    if make is Tied:
        return np.arange(count, dtype=np.int64).reshape(count, 1)
    return np.random.default_rng(0).standard_normal((count, *SHAPES[make]), dtype=np.float32)


class Built:
    """A network, its artifact and the artifact's session."""

    def __init__(self, make, scheme, folder, layers=None, backend=plugin):
        torch.manual_seed(0)
        self.network = make().eval()
        self.inputs = items(make)
        calibration = Split((self.inputs,), np.zeros(8), tuple("abcdefgh"))
        prepared = Prepared(self.network, Plan(scheme, layers or {}), (self.inputs[:1],), calibration)
        self.folder = folder
        self.report = backend.build(prepared, folder, threads=1)
        self.session = backend.open(folder, TARGETS.get("cpu"), threads=1)

    @property
    def bits(self):
        return {layer.name: layer.bits for layer in self.report.layers}

    def outputs(self):
        session = self.session
        return np.concatenate([session.fetch(session.run(session.feed((x[None],)))) for x in self.inputs])

    def reference(self):
        with torch.no_grad():
            return self.network(torch.from_numpy(self.inputs)).numpy()

    def sqnr_db(self):
        return fidelity.sqnr_db(self.reference(), self.outputs())


@pytest.fixture(scope="module")
def exported():
    """Export each tiny network once: every method starts from the same float graph, and exporting takes longest."""
    known, lower = {}, _onnx_lower.lower

    def once(network, example):
        key = [(type(m), str(p.shape)) for m in network.modules() for p in m.parameters(recurse=False)], len(example)
        if str(key) not in known:
            known[str(key)] = lower(network, example)
        return copy.deepcopy(known[str(key)])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_onnx_lower, "lower", once)
        yield


@pytest.fixture
def built(tmp_path, exported):
    def make(network, scheme, layers=None):
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        return Built(network, scheme, folder, layers)

    return make


@pytest.mark.parametrize("network", [Perceptron, Tied, Reader, convolutions], ids=lambda f: f.__name__.lower())
def test_float32_artifact_computes_what_pytorch_computes(built, network):
    """Only the order of sums may differ."""
    case = built(network, FP32)

    np.testing.assert_allclose(case.outputs(), case.reference(), atol=1e-5)
    assert set(case.bits.values()) == {32}


@pytest.mark.parametrize(
    ("network", "scheme", "bits"),
    [
        (Perceptron, Scheme(bits=16, format="bf16"), {"first": 16, "second": 16}),
        (Perceptron, INT8_STATIC, {"first": 8, "second": 8}),
        (Perceptron, INT8_WEIGHTS, {"first": 8, "second": 8}),
        (Perceptron, INT4, {"first": 4, "second": 4}),
        (Attention, INT8_STATIC, {"qkv": 8, "out": 8}),
        (Attention, INT8_DYNAMIC, {"qkv": 8, "out": 8}),
        (Attention, INT4, {"qkv": 4, "out": 4}),
        (Reader, Scheme(bits=16, format="fp16"), {"lstm": 16, "head": 16}),
        (Reader, INT8_DYNAMIC, {"lstm": 8, "head": 8}),
        (convolutions, INT8_STATIC, {"0": 8, "3": 8, "7": 8}),
        (convolutions, replace(INT8_STATIC, granularity=PerTensor()), {"0": 8, "3": 8, "7": 8}),
        (convolutions, INT8_DYNAMIC, {"0": 8, "3": 8, "7": 8}),
        (Tied, INT8_DYNAMIC, {"embed": 8, "twice": 8, "twice#2": 8, "head": 8}),
        (Tied, INT4, {"embed": 4, "twice": 4, "twice#2": 4, "head": 4}),
        (Tied, INT8_WEIGHTS, {"embed": 32, "twice": 8, "twice#2": 8, "head": 8}),
    ],
    ids=lambda x: x.name if isinstance(x, Scheme) else getattr(x, "__name__", "").lower(),
)
def test_report_names_every_layer_with_the_bits_that_the_file_holds(built, network, scheme, bits):
    """Shared weights are the hard part: ONNX Runtime's quantizers transpose in place, and twice is once too often."""
    case = built(network, scheme)

    assert case.bits == bits
    assert all(bool(layer.reason) == (layer.bits > scheme.bits) for layer in case.report.layers)
    assert case.sqnr_db() > (15 if scheme.bits == 4 else 25)


def test_eight_bits_beat_four_by_the_ratio_of_their_steps(built):
    """Codes reach 8 and 128 from zero: 20 log10(128 / 8) = 24.1 dB less noise, as long as weights make most of it.

    Activations in blockwise int8 add a noise of their own that only the 8-bit artifact feels, hence at least half.
    """
    gain_db = built(Perceptron, INT8_WEIGHTS).sqnr_db() - built(Perceptron, INT4).sqnr_db()

    assert 12 < gain_db < 24.1 + 3


def test_four_bit_artifact_is_the_network_with_weights_rounded_to_blocks(built):
    """An independent rounding: each 32 inputs of an output share scale = extreme / -8 and codes -8..7."""
    case = built(Perceptron, INT4)

    for layer in (case.network.first, case.network.second):
        weight = layer.weight.detach().numpy()
        blocks = weight.reshape(weight.shape[0], -1, 32)
        extreme = np.take_along_axis(blocks, np.abs(blocks).argmax(-1, keepdims=True), -1)
        rounded = np.clip(np.round(blocks / (extreme / -8)), -8, 7) * (extreme / -8)
        layer.weight.data = torch.from_numpy(rounded.reshape(weight.shape))

    assert case.sqnr_db() > 35  # what is left is the noise of 8-bit activations


def test_int8_file_holds_a_byte_per_weight_and_no_float_copy(built):
    """256 x 128 + 128 x 16 = 34,816 codes and 144 channels of 17 bytes.

    A channel has a scale (4) and zero point (1), and an int32 bias (4) with a scale (4) and zero point (4) of its own.
    The rest (ranges of activations, shapes) stays below 128 bytes.
    """
    report = built(Perceptron, INT8_STATIC).report
    baseline = built(Perceptron, FP32).report

    assert baseline.weight_bytes - 4 * (34_816 + 144) < 128
    assert 0 <= report.weight_bytes - (34_816 + 144 * 17) < 128


def test_four_bit_file_holds_half_a_byte_per_weight(built):
    """34,816 / 2 codes, one float32 scale per 32 weights, 144 float32 biases."""
    report = built(Perceptron, INT4).report

    assert 0 <= report.weight_bytes - (34_816 // 2 + 4 * 34_816 // 32 + 4 * 144) < 128


def test_report_names_the_ends_of_the_graph(built):
    """Inputs are called as the parameters of forward, and the one output is `output`."""
    report = built(Tied, INT4).report

    assert report.inputs == (TensorInfo("tokens", (1, 1), "int64"),)
    assert report.outputs == (TensorInfo("output", (1, 64), "float32"),)


def test_tied_weights_are_stored_once_in_float(built):
    """64 x 32 for table and head, 32 x 32 + 32 for the layer used twice."""
    assert built(Tied, FP32).report.weight_bytes - 4 * (64 * 32 + 32 * 32 + 32) < 128


@pytest.mark.parametrize("scheme", [INT8_STATIC, INT8_DYNAMIC, INT4], ids=lambda s: s.name)
def test_layer_that_the_plan_leaves_out_stays_float(built, scheme):
    case = built(Perceptron, scheme, {"second": None})

    assert case.bits == {"first": scheme.bits, "second": 32}
    assert not any(layer.reason for layer in case.report.layers)


def test_plan_mixes_schemes_in_one_file(built):
    case = built(Perceptron, INT8_STATIC, {"first": INT4})

    assert case.bits == {"first": 4, "second": 8}
    assert case.sqnr_db() > 15


@pytest.mark.parametrize("scheme", [INT8_STATIC, INT8_DYNAMIC, INT4], ids=lambda s: s.name)
def test_same_network_gives_the_same_file(built, scheme):
    """An artifact is named by the hash of what went in: the same input may not give two contents."""
    first, second = (built(Perceptron, scheme).folder / "model.onnx" for _ in range(2))

    assert first.read_bytes() == second.read_bytes()


def test_names_that_the_optimizer_invents_are_free_for_its_next_run(built):
    """It calls what it adds `gemm_input_shape` and so on at every load, and fails where a graph has such a name."""
    graph = onnx.load(built(Perceptron, INT8_STATIC).folder / "model.onnx").graph

    invented = [name for node in graph.node for name in node.input if "gemm_" in name]
    assert invented
    assert all(name.startswith("folded.") for name in invented)


def test_nothing_but_the_model_is_left_in_the_folder(built):
    assert [file.name for file in built(Perceptron, INT8_STATIC).folder.iterdir()] == ["model.onnx"]


def test_opening_imports_neither_torch_nor_onnx(built):
    folder = built(Perceptron, INT8_STATIC).folder
    code = (
        "import sys, pathlib, numpy as np\n"
        "from quantkit.backends.onnxruntime import plugin\n"
        "from quantkit.targets.cpu import plugin as cpu\n"
        "assert 'onnxruntime' not in sys.modules, 'the top of a plug-in imports nothing heavy'\n"
        f"s = plugin.open(pathlib.Path({str(folder)!r}), cpu, 1)\n"
        "print(s.fetch(s.run(s.feed((np.zeros((1, 4, 256), np.float32),)))).shape)\n"
        "print(sorted({'torch', 'onnx', 'transformers'} & set(sys.modules)))"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.splitlines() == ["(1, 4, 16)", "[]"]


def test_sessions_say_how_long_they_took(built):
    session = built(Perceptron, FP32).session

    assert session.load_s > 0
    assert session.compile_s > 0


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ((np.zeros((1, 4, 8), np.float32),), r"input 'x': got float32 \[1, 4, 8\], expected float32 \[1, 4, 256\]"),
        ((np.zeros((1, 4, 256)),), r"input 'x': got float64 \[1, 4, 256\], expected float32 \[1, 4, 256\]"),
        ((), r"the artifact takes 1 inputs \(x\): got 0"),
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


def test_missing_and_damaged_artifacts_are_named(tmp_path, built):
    whole = (built(Perceptron, INT8_STATIC).folder / "model.onnx").read_bytes()
    cpu = TARGETS.get("cpu")
    with pytest.raises(CorruptFile, match="missing: build the case again"):
        plugin.open(tmp_path, cpu, 1)
    for content in (b"no protobuf", whole[: len(whole) // 2], b""):
        (tmp_path / "model.onnx").write_bytes(content)
        with pytest.raises(
            CorruptFile, match=r"^ONNX Runtime cannot read .*model\.onnx, build the case again"
        ) as caught:
            plugin.open(tmp_path, cpu, 1)
        assert "\n" not in str(caught.value)


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
def test_calibration_that_cannot_be_used_is_refused(tmp_path, exported, calibration, message):
    split = calibration if calibration is None else Split((calibration,), calibration, ("a",) * len(calibration))
    example = (np.zeros((1, 4, 256), np.float32),)

    with pytest.raises(CalibrationError, match=message):
        plugin.build(Prepared(Perceptron().eval(), Plan(INT8_STATIC), example, split), tmp_path, 1)
    assert not list(tmp_path.iterdir())


def test_operation_without_onnx_form_is_named(tmp_path):
    class Odd(nn.Module):
        def forward(self, x):
            return torch.special.airy_ai(x)

    with pytest.raises(Unsupported, match="special_airy_ai has no ONNX form") as caught:
        plugin.build(Prepared(Odd().eval(), Plan(FP32), (np.zeros((1, 3), np.float32),)), tmp_path, 1)
    assert "\n" not in str(caught.value)


def test_artifact_that_would_stay_float_is_refused_while_building(tmp_path):
    """The plan cannot know it of a network that describes itself wrongly; the finished file does."""
    network = nn.Sequential(nn.Conv2d(3, 64, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 2)).eval()

    with pytest.raises(
        Unsupported,
        match="only 128 of 1856 weights would be w4a16g32: Conv '0' stays float \\(no w4a16g32 form of Conv",
    ):
        plugin.build(Prepared(network, Plan(INT4), (np.zeros((1, 3, 8, 8), np.float32),)), tmp_path, 1)


def test_building_leaves_the_root_logger_alone(built, monkeypatch):
    """Importing ONNX Runtime's 4-bit quantizer calls `logging.basicConfig`, which spares a root that has a handler."""
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    monkeypatch.delitem(sys.modules, "onnxruntime.quantization.matmul_nbits_quantizer", raising=False)

    built(Perceptron, INT4)
    built(Perceptron, INT8_STATIC)

    assert logging.getLogger().handlers == []


def info(family, layers):
    return ModelInfo("m", "m", family, "vision", "d", Quality("q", "none"), (), "", "", layers)


@pytest.mark.parametrize(
    ("model", "method", "reason"),
    [
        (info("cnn", ("conv2d", "linear")), "int4_weight_only", "convolutions would stay float"),
        (info("cnn", ("conv2d", "linear")), "int8_static", None),
        (info("rnn", ("lstm", "linear")), "int8_static", "static quantizer has no LSTM"),
        (info("rnn", ("lstm", "linear")), "int8_weight_only", "weight-only quantizer has no LSTM"),
        (info("rnn", ("lstm", "linear")), "int8_dynamic", None),
        (info("rnn", ("lstm", "linear")), "half", None),
        (info("transformer", ("conv2d", "linear")), "int4_weight_only", None),
        (info("mixed", ("conv2d",)), "int4_weight_only", "this model has none"),
    ],
    ids=lambda x: getattr(x, "family", None) or str(x),
)
def test_model_of_which_hardly_anything_would_be_quantized_is_refused(model, method, reason):
    got = plugin.unsupported(Case("m", method, "onnxruntime", "cpu"), model, METHODS.get(method).scheme)

    assert (got is None) if reason is None else reason in got


@pytest.mark.parametrize(
    ("scheme", "reason"),
    [
        (Scheme(bits=3), "2, 4 or 8 bits, not 3"),
        (Scheme(bits=4, granularity=PerGroup(48)), "not 48"),
        (Scheme(bits=8, granularity=PerTensor()), "no form with one scale per tensor"),
        (Scheme(bits=4, activations="static"), "8-bit weights only, not 4-bit"),
        (Scheme(bits=8, granularity=PerGroup(32), activations="dynamic"), "weight scale per group"),
    ],
    ids=lambda x: getattr(x, "name", ""),
)
def test_scheme_without_a_kernel_is_refused_before_anything_runs(scheme, reason):
    got = plugin.unsupported(Case("m", "x", "onnxruntime", "cpu"), info("transformer", ("linear",)), scheme)

    assert reason in got

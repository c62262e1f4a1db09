"""The Core ML backend: what its saved packages hold and answer, what is refused, and what a broken file leads to.

Answers come from the reference executor (tests/test_mil_*.py prove it); the calls of a Mac are held against a fake.
"""

import math
import os
import shutil
import struct
import types
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import norm
from torch import nn

pytest.importorskip("coremltools")

from quantkit.backends import _coreml_compress as compress
from quantkit.backends import _coreml_lower as lower
from quantkit.backends import _coreml_mac as mac
from quantkit.backends import _coreml_report as report
from quantkit.backends import coreml
from quantkit.catalog import DATASETS, MODELS
from quantkit.contracts import Plan, Prepared, Split
from quantkit.errors import CalibrationError, CorruptFile, HardwareCompatibilityError, Unsupported
from quantkit.mil import package as packages
from quantkit.numerics.fidelity import sqnr_db
from quantkit.numerics.ranges import Observer
from quantkit.pipeline import inside
from quantkit.scheme import PerChannel, PerChannelGroup, PerGroup, PerTensor, Scheme

BACKEND = coreml.plugin
FP32, HALF = Scheme(32, "fp32"), Scheme(16, "bf16")
INT8, INT4 = Scheme(8), Scheme(4, granularity=PerGroup(32))
PALETTE = Scheme(4, "lut", PerTensor())
STATIC = Scheme(8, activations="static")
CPU = types.SimpleNamespace(name="cpu")


def linear(inputs=64, outputs=32):
    """Return a network of one linear layer with a bias."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(inputs, outputs)).eval()


def rows(width, count=8, seed=1):
    """Return items [count, width] as a split."""
    values = np.random.default_rng(seed).standard_normal((count, width)).astype(np.float32)
    return Split((values,), np.zeros(count), tuple(f"row/{i}" for i in range(count)))


def build(network, scheme, example, folder, *, layers=None, calibration=None):
    """Return the report of an artifact in `folder`."""
    folder.mkdir(exist_ok=True)
    return BACKEND.build(Prepared(network, Plan(scheme, layers or {}), example, calibration), folder, 1)


def answers(folder, split):
    """Return the artifact's answers to all items."""
    session = BACKEND.open(folder, CPU, 1)
    return np.concatenate([session.fetch(session.run(session.feed(split.item(i)))) for i in range(len(split))])


def reference(network, split):
    with torch.inference_mode():
        return network(*map(torch.from_numpy, split.inputs)).numpy()


def program(folder):
    """Return the operations of a saved package by type."""
    found = {}
    for op in packages.operations(packages.read(folder / coreml.PACKAGE)[0]):
        found.setdefault(op.type, []).append(op)
    return found


@pytest.fixture(scope="module")
def cnn(tmp_path_factory):
    """Return the small CNN, 20 items, and a function that builds it once for a scheme: folder and report."""
    model, folder = MODELS.get("fmnist_cnn"), tmp_path_factory.mktemp("cnn")
    network, dataset = model.load(), DATASETS.get("fashion_mnist")
    split, built = dataset.evaluation(20), {}

    def get(scheme):
        if scheme not in built:
            place = folder / str(len(built))
            calibration = dataset.calibration(16) if scheme.activations == "static" else None
            built[scheme] = place, build(network, scheme, split.item(0), place, calibration=calibration)
        return built[scheme]

    return types.SimpleNamespace(network=network, split=split, get=get)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """Return the folder of one linear layer in float16."""
    folder = tmp_path_factory.mktemp("plain")
    build(linear(), HALF, rows(64).item(0), folder)
    return folder


@pytest.mark.parametrize(
    ("scheme", "word"),
    [
        (Scheme(8, activations="dynamic"), "run time"),
        (Scheme(8, activations="static", activation_bits=16), "8 bits"),
        (Scheme(4, "nf4", PerGroup(64)), "not nf4"),
        (Scheme(8, "mxfp8", PerGroup(32)), "not mxfp8"),
        (Scheme(3, granularity=PerGroup(32)), "4 or 8 bits: got 3"),
        (Scheme(4, granularity=PerGroup(32), codes="hqq"), "no hqq"),
        (Scheme(4, granularity=PerGroup(32), codes="gptq"), "no gptq"),
        (Scheme(5, "lut", PerTensor()), "got 5"),
        (Scheme(2, "lut", PerTensor(), double=True), "at least 4 bits"),
        (Scheme(4, "lut", PerGroup(32)), "group of output channels"),
        (Scheme(8, granularity=PerChannel(1)), "axis 1"),
        (Scheme(4, granularity=PerGroup(32), activations="static"), "int8 per channel"),
        (Scheme(8, double=True), "float16"),
    ],
    ids=lambda value: value.name if isinstance(value, Scheme) else "",
)
def test_what_core_ml_has_no_form_for_is_refused_with_a_reason(scheme, word):
    assert word in BACKEND.unsupported(None, MODELS.get("fmnist_cnn").info, scheme)


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 6, 8])
def test_all_palettes_are_taken(bits):
    assert BACKEND.unsupported(None, MODELS.get("fmnist_cnn").info, Scheme(bits, "lut", PerTensor())) is None


def test_int8_activations_of_an_lstm_are_refused():
    assert "LSTM" in BACKEND.unsupported(None, MODELS.get("fmnist_lstm").info, STATIC)


@pytest.mark.parametrize(
    ("scheme", "target"),
    [
        *((s, "iOS16 / macOS13") for s in (FP32, HALF, INT8, PALETTE)),
        (STATIC, "iOS17 / macOS14: needed by w8a8"),
        (INT4, "iOS18 / macOS15: needed by w4a16g32"),
        (Scheme(3, "lut", PerTensor()), "iOS18 / macOS15: needed by lut3"),
        (Scheme(4, "lut", PerChannelGroup(16)), "iOS18"),
        (Scheme(8, sparsity=0.5), "iOS18"),
    ],
    ids=lambda value: value.name if isinstance(value, Scheme) else "",
)
def test_the_deployment_target_is_the_oldest_that_has_the_scheme_and_is_said(scheme, target):
    half, name, notes = coreml._form(Prepared(linear(), Plan(scheme), ()))

    assert f"deployment target {target}" in notes[0] and notes[0].split()[2] == name
    assert half == (scheme is not FP32)


def test_float32_equals_pytorch(cnn):
    """Only the order of sums differs: float32 has 24 bits, 144 dB."""
    folder, _ = cnn.get(FP32)

    assert sqnr_db(reference(cnn.network, cnn.split), answers(folder, cnn.split)) > 110


def test_float16_is_within_its_rounding(cnn):
    """11 bits are 66 dB for one rounding; the errors of nine layers add to that."""
    folder, built = cnn.get(HALF)

    assert sqnr_db(reference(cnn.network, cnn.split), answers(folder, cnn.split)) > 50
    assert built.format == "fp16" and {layer.bits for layer in built.layers} == {16}


def test_layers_have_the_networks_own_names_though_batch_norm_was_folded(cnn):
    expected = {n: m.weight.numel() for n, m in cnn.network.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)}

    for scheme in (FP32, INT8, STATIC):
        assert {layer.name: layer.weights for layer in cnn.get(scheme)[1].layers} == expected


def test_small_layers_are_compressed_too(cnn):
    """coremltools' own threshold would leave 288 of the first convolution's weights in float."""
    first = cnn.get(INT8)[1].layers[0]

    assert (first.name, first.weights, first.bits) == ("0", 288, 8)


def test_what_the_toolchain_skips_without_a_word_is_told(cnn):
    layers = {layer.name: layer for layer in cnn.get(INT4)[1].layers}

    assert layers["0"].bits == 16 and "1 inputs do not divide into groups of 32" in layers["0"].reason
    assert all(layer.bits == 4 and not layer.reason for name, layer in layers.items() if name != "0")


@pytest.mark.parametrize(
    ("scheme", "expected"),
    [
        (FP32, 4 * 64 * 32 + 4 * 32),
        (HALF, 2 * 64 * 32 + 2 * 32),
        (INT4, 64 * 32 // 2 + 2 * 64 * 32 // 32 + 2 * 32),  # codes, a float16 scale for each 32 of them, biases
        (Scheme(4, granularity=PerGroup(32), symmetric=False), 64 * 32 // 2 + 128 + 64 // 2 + 2 * 32),  # zero points
        (PALETTE, 64 * 32 // 2 + 2 * 16 + 2 * 32),  # 16 float16 entries
        (Scheme(3, "lut", PerTensor()), 64 * 32 * 3 // 8 + 2 * 8 + 2 * 32),
        (Scheme(4, "lut", PerChannelGroup(16)), 64 * 32 // 2 + 2 * 2 * 16 + 2 * 32),  # two palettes
        (Scheme(4, "lut", PerTensor(), double=True), 64 * 32 // 2 + 16 + 2 + 2 * 32),  # 16 int8 entries and their scale
        (Scheme(8, sparsity=0.5), 64 * 32 // 2 + 64 * 32 // 8 + 2 * 32 + 2 * 32),  # half the codes, a bit each, scales
    ],
    ids=lambda value: value.name if isinstance(value, Scheme) else "",
)
def test_bytes_are_those_worked_out_by_hand(scheme, expected, tmp_path):
    """Linear(64, 32) with biases; the weight file holds the same but for 64 bytes a blob and its alignment to 64."""
    built = build(linear(), scheme, rows(64).item(0), tmp_path)

    assert built.weight_bytes == expected
    file = (tmp_path / coreml.PACKAGE / "Data/com.apple.CoreML/weights/weight.bin").stat().st_size
    assert expected - 2 * 16 <= file <= expected + 64 + 5 * 127  # fewer than 10 values stand in the text
    assert built.layers[0].weights == 64 * 32 and math.isclose(built.layers[0].bits, bits_of(scheme), abs_tol=0.01)


def bits_of(scheme):
    return 8 * 0.5 + 1 if scheme.sparsity else scheme.bits  # half of the codes, and one bit that tells which


def test_int8_is_what_rounding_by_hand_gives(tmp_path):
    """Symmetric per channel, all in float16: scale = (max|w| - -max|w|) / 254, codes to the nearest; by NumPy alone."""
    network, split = linear(), rows(64)
    build(network, INT8, split.item(0), tmp_path)
    weight = network[0].weight.detach().numpy().astype(np.float16)
    scale = (np.abs(weight).max(1, keepdims=True) * np.float16(2)) / np.float16(254)
    codes = np.round(weight / scale)
    with torch.no_grad():
        network[0].weight.copy_(torch.from_numpy((codes * scale).astype(np.float32)))

    got = answers(tmp_path, split)

    assert sqnr_db(reference(network, split), got) > 60  # inputs and sums in float16; int8 itself leaves about 40


def test_more_entries_are_closer(tmp_path):
    network, split = linear(), rows(64)
    quality = []
    for bits in (1, 2, 4, 6):
        build(network, Scheme(bits, "lut", PerTensor()), split.item(0), tmp_path / str(bits))
        quality.append(sqnr_db(reference(network, split), answers(tmp_path / str(bits), split)))

    assert quality == sorted(quality)


def test_a_plan_may_name_single_layers(tmp_path):
    """One stays in float, one takes its own scheme, the others the default."""
    network = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64)).eval()

    built = build(network, INT8, rows(64).item(0), tmp_path, layers={"0": None, "2": INT4})

    assert {layer.name: layer.bits for layer in built.layers} == {"0": 16, "2": 4, "4": 8}
    assert "needed by w4a16g32" in built.notes[0]
    assert not any(layer.reason for layer in built.layers)


def test_a_layers_own_impossible_scheme_is_refused_by_name(tmp_path):
    with pytest.raises(Unsupported, match=r"layer '0': .*4 or 8 bits"):
        build(linear(), INT8, rows(64).item(0), tmp_path, layers={"0": Scheme(6)})


def test_tables_are_no_weights_and_tied_weights_are_told_once(tmp_path):
    """Angles of positions are gathered like an embedding, but no parameter; they stay in float and unnamed."""

    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Embedding(50, 32)
            self.head = nn.Linear(32, 50, bias=False)
            self.head.weight = self.embed.weight
            self.register_buffer("angles", torch.randn(50, 32))

        def forward(self, tokens):
            return self.head(self.embed(tokens) + self.angles[tokens])

    built = build(Tied().eval(), INT8, (np.arange(7)[None],), tmp_path)

    assert [(layer.name, layer.weights, layer.bits) for layer in built.layers] == [("embed", 1600, 8)]
    assert built.inputs[0].dtype == "int32" and built.inputs[0].name == "tokens"


def test_layers_of_a_list_keep_its_name_and_tables_that_are_added_are_told(tmp_path):
    """A trace's scopes leave out the ModuleList; a table of positions is a matrix of the network, but no layer."""

    class Listed(nn.Module):
        def __init__(self):
            super().__init__()
            self.places = nn.Parameter(torch.randn(8, 64))
            self.blocks = nn.ModuleList(nn.ModuleList([nn.Linear(64, 64), nn.Linear(64, 64)]) for _ in range(2))

        def forward(self, x):
            x = x + self.places
            for first, second in self.blocks:
                x = x + second(first(x))
            return x

    torch.manual_seed(0)
    built = build(Listed().eval(), INT8, (np.ones((8, 64), np.float32),), tmp_path)

    layers = {layer.name: (layer.kind, layer.bits) for layer in built.layers}
    assert layers.pop("places") == ("table", 16)
    assert layers == {f"blocks.{i}.{j}": ("linear", 8) for i in range(2) for j in range(2)}


def test_the_mask_of_attention_does_not_take_the_range_of_its_scores(tmp_path):
    """-10,000 in 8 bits leaves steps of 79: scores of about 1 would all be equal, and attention a plain mean."""

    class Masked(nn.Module):
        def __init__(self):
            super().__init__()
            self.query = nn.Linear(64, 64)

        def forward(self, x, mask):
            scores = self.query(x) @ x.transpose(-1, -2) + (1 - mask) * -1e4
            return torch.softmax(scores, -1) @ x

    torch.manual_seed(0)
    network = Masked().eval()
    x = np.random.default_rng(0).standard_normal((4, 1, 6, 64), dtype=np.float32)
    mask = np.ones((4, 1, 1, 6), np.float32)
    mask[..., 4:] = 0
    split = Split((x, mask), np.zeros(4), tuple("abcd"))

    build(network, STATIC, split.item(0), tmp_path, calibration=split)

    assert sqnr_db(reference(network, split), answers(tmp_path, split)) > 25


def test_rms_norm_is_exact_in_float32_where_epsilon_counts(tmp_path):
    """Inputs of 1e-3 have a mean square of 1e-6, a tenth of epsilon; float32 leaves an error of some 2^-24: 140 dB.

    By coremltools' own form epsilon would be a millionth of what it is beside them, and the answer 3.3 times as large.
    """
    torch.manual_seed(0)
    network = nn.Sequential(nn.RMSNorm(64, eps=1e-5), nn.Linear(64, 32)).eval()
    split = rows(64)
    split.inputs[0][:] *= 1e-3
    expected = reference(network, split)

    build(network, FP32, split.item(0), tmp_path)

    assert sqnr_db(expected, answers(tmp_path, split)) > 120


@pytest.mark.parametrize(("layer", "example", "left_out"), [
    (lambda: nn.Linear(8, 8), np.zeros((1, 8), np.float32), True),
    (lambda: nn.Conv2d(2, 2, 3, padding=1), np.zeros((1, 2, 8, 8), np.float32), False),
], ids=["linear", "convolution"])  # fmt: skip
def test_additions_take_int8_between_convolutions_only(layer, example, left_out):
    """A transformer's residual stream stays in float; between convolutions integers flow on."""

    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = layer()

        def forward(self, x):
            return x + self.layer(x)

    lowered = lower.lower(Residual().eval(), (example,), half=True, target="iOS17")
    schemes = {weight.layer: STATIC for weight in lowered.weights}
    (addition,) = [op for op in lower.program_of(lowered.model).functions["main"].operations if op.op_type == "add"]

    config = compress.activation_config(lowered.model, lowered.layers, schemes, STATIC)

    assert (addition.name in config.op_name_configs) is left_out
    assert config.op_name_configs.get(addition.name) is None


def test_an_lstms_matrices_are_one_layer(tmp_path):
    class Rnn(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm = nn.LSTM(32, 32, num_layers=2, batch_first=True)

        def forward(self, x):
            return self.lstm(x)[0]

    torch.manual_seed(0)
    network, x = Rnn().eval(), np.random.default_rng(0).standard_normal((1, 5, 32), dtype=np.float32)
    split = Split((x,), np.zeros(1), ("x",))

    built = build(network, INT8, (x,), tmp_path)

    assert [(r.name, r.kind, r.weights, r.bits) for r in built.layers] == [("lstm", "lstm", 4 * 4 * 32 * 32, 8)]
    assert sqnr_db(reference(network, split), answers(tmp_path, split)) > 30


def test_half_of_a_large_layer_is_zero(tmp_path):
    """coremltools takes the percentile in float16, where the position among 131,072 weights overflows."""
    network = linear(512, 256)
    built = build(network, Scheme(8, sparsity=0.5), rows(512).item(0), tmp_path)

    assert math.isclose(built.layers[0].bits, 5, abs_tol=0.05)
    kept = network[0].weight.detach().abs().numpy()
    pruned = np.where(kept > np.quantile(kept, 0.5), network[0].weight.detach().numpy(), 0)
    with torch.no_grad():
        network[0].weight.copy_(torch.from_numpy(pruned))
    assert sqnr_db(reference(network, rows(512)), answers(tmp_path, rows(512))) > 35


def first_scale(folder):
    """Return the float16 scale that the program's input is quantized with."""
    (first, *_) = program(folder)["quantize"]
    binding = first.inputs["scale"].arguments[0]
    maker = {op.outputs[0].name: op for op in program(folder)["const"]}[binding.name]
    return np.frombuffer(maker.attributes["val"].immediateValue.tensor.bytes.values, np.float16)[0]


def test_activation_ranges_are_those_of_all_items_not_of_the_last(tmp_path):
    """The largest input stands in the first item: its int8 scale is that / 127, in float16."""
    split = rows(64)
    split.inputs[0][0, 3] = -20.0
    built = build(linear(), STATIC, split.item(1), tmp_path, calibration=split)

    assert first_scale(tmp_path) == np.float16(np.float16(20) / np.float16(127))
    assert any("feed 1 of 1 operations" in note for note in built.notes)


@pytest.mark.parametrize("ranges", ["moving_average", "percentile", "entropy", "mse"])
def test_other_ranges_are_those_of_the_observer(ranges, tmp_path):
    """The same items, in float16 as the program takes them, through `numerics.ranges`: symmetric codes of 8 bits."""
    split = rows(64, count=100)
    split.inputs[0][7, 7] = 40.0
    observer = Observer(ranges, 8, symmetric=True)
    for item in split.inputs[0]:
        observer.observe(item.astype(np.float16))

    build(linear(), replace(STATIC, ranges=ranges), split.item(0), tmp_path, calibration=split)

    assert first_scale(tmp_path) == pytest.approx(observer.range()[1] / 127, rel=2e-3)  # float16 has 11 bits


@pytest.mark.parametrize(
    ("bits", "mse"), [(1, 0.36338), (2, 0.117482), (3, 0.0345478), (4, 0.00950101), (6, 0.00064424)]
)
def test_stored_palettes_of_a_gaussian_lie_at_the_lloyd_max_optimum(bits, mse, tmp_path):
    """65,536 weights at the quantiles of N(0,1), read back by one-hot inputs: each answer is a column as stored.

    No code book of 2^bits levels has a smaller mean squared error than Lloyd-Max's, but for 1 %: the quantiles end at
    4.17. k-means stops at a local optimum: 5 % above at most.
    """
    values = norm.ppf((np.arange(65_536) + 0.5) / 65_536)
    weight = np.random.default_rng(0).permutation(values).reshape(256, 256).astype(np.float32)
    network = nn.Sequential(nn.Linear(256, 256, bias=False)).eval()
    network[0].weight.data = torch.from_numpy(weight)
    columns = Split((np.eye(256, dtype=np.float32),), np.zeros(256), tuple(map(str, range(256))))
    build(network, Scheme(bits, "lut", PerTensor()), columns.item(0), tmp_path)

    stored = answers(tmp_path, columns).T

    assert len(np.unique(stored)) == 2**bits
    assert mse * 0.99 < np.mean((stored - weight) ** 2) < mse * 1.05


def test_layers_with_different_ranges_are_refused(tmp_path):
    network = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64)).eval()

    with pytest.raises(Unsupported, match="one way: the plan has minmax, mse"):
        build(
            network, STATIC, rows(64).item(0), tmp_path,
            layers={"0": replace(STATIC, ranges="mse")}, calibration=rows(64),
        )  # fmt: skip


def test_static_int8_stays_close(cnn):
    """About 30 dB measured on the whole test set; 8 bits of input and weight cannot be far below that."""
    folder, built = cnn.get(STATIC)

    assert sqnr_db(reference(cnn.network, cnn.split), answers(folder, cnn.split)) > 20
    assert any("feed 8 of 8 operations" in note for note in built.notes)
    assert {layer.bits for layer in built.layers} == {8}


def test_a_layer_kept_in_float_takes_float_activations(tmp_path):
    network = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64)).eval()

    built = build(network, STATIC, rows(64).item(0), tmp_path, layers={"0": None}, calibration=rows(64))

    assert any("feed 1 of 2 operations" in note for note in built.notes)
    assert {layer.name: layer.bits for layer in built.layers} == {"0": 16, "2": 8}


@pytest.mark.parametrize("split", [None, Split((), np.zeros(0), ())], ids=["none", "empty"])
def test_static_without_calibration_items_is_an_error(split, tmp_path):
    with pytest.raises(CalibrationError, match="got none"):
        build(linear(), STATIC, rows(64).item(0), tmp_path, calibration=split)
    assert not list(tmp_path.iterdir())


def test_nan_in_calibration_is_an_error_that_names_the_item(tmp_path):
    split = rows(64)
    split.inputs[0][5, 0] = np.nan

    with pytest.raises(CalibrationError, match="row/5 has nan"):
        build(linear(), STATIC, rows(64).item(0), tmp_path, calibration=split)


class Sum(nn.Module):
    """Adds each input to what came before, written by a slice or (which Core ML loses) by an index."""

    states = ("kept",)

    def __init__(self, by_index=False):
        super().__init__()
        self.by_index = by_index
        self.linear = nn.Linear(32, 32)
        self.register_buffer("kept", torch.zeros(1, 4, 32))

    def forward(self, x, position):
        if self.by_index:
            self.kept[0, position] = self.linear(x)
        else:
            self.kept[:, position : position + 1] = self.linear(x)
        return self.kept.sum(1)


def step(i):
    return np.full((1, 32), i + 1, np.float32), np.array([i], np.int64)


def test_a_state_lasts_from_call_to_call_until_it_is_reset(tmp_path):
    network = Sum().eval()
    built = build(network, HALF, step(0), tmp_path)
    network.kept.zero_()
    session = BACKEND.open(tmp_path, CPU, 1)

    def three():
        return [session.fetch(session.run(session.feed(step(i)))) for i in range(3)]

    first = three()
    session.reset()
    again = three()

    with torch.no_grad():
        expected = [network(*map(torch.from_numpy, step(i))).numpy() for i in range(3)]
    np.testing.assert_array_equal(first, again)
    assert sqnr_db(expected, first) > 50
    assert "iOS18 / macOS15: needed by states" in built.notes[0] and "states are float16" in " ".join(built.notes)


def test_a_state_whose_write_the_converter_loses_is_refused(tmp_path):
    with pytest.raises(Unsupported, match="no write to the state kept"):
        build(Sum(by_index=True).eval(), HALF, step(0), tmp_path)


@pytest.mark.slow
def test_the_cached_decoder_answers_as_the_parallel_one(tmp_path):
    """In PyTorch to float32's rounding, as an artifact to float16's; the second item starts from an empty cache."""
    cached, info = MODELS.get("pydoc_gpt_cached").load(), MODELS.get("pydoc_gpt_cached")
    split = DATASETS.get("pydoc_short").evaluation(2)
    short = Split((split.inputs[0][:, :12],), split.targets[:, :12], split.ids)
    expected = reference(MODELS.get("pydoc_gpt").load(), short)

    with torch.inference_mode():
        ours = np.concatenate([inside._by_network(cached, info, short, slice(i, i + 1)) for i in range(2)])
    build(cached, HALF, next(inside.steps(short.item(0))), tmp_path)
    session = BACKEND.open(tmp_path, CPU, 1)
    artifact = np.concatenate([inside._stepwise(session, short.item(i)) for i in range(2)])

    assert sqnr_db(expected, ours) > 100
    assert sqnr_db(expected, artifact) > 40


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ((), "takes 1 inputs"),
        ((np.zeros((1, 64), np.float64),), "got float64"),
        ((np.zeros((2, 64), np.float32),), r"expected float32 \[1, 64\]"),
        ((np.zeros((1, 64), np.float32),) * 2, "got 2"),
    ],
    ids=["none", "dtype", "shape", "two"],
)
def test_inputs_that_do_not_fit_are_refused(plain, inputs, message):
    with pytest.raises(ValueError, match=message):
        BACKEND.open(plain, CPU, 1).feed(inputs)


def test_integers_beyond_32_bits_are_refused():
    from quantkit.backends._coreml_session import fitted

    tensor = types.SimpleNamespace(name="tokens", shape=(1,), dtype="int32")

    assert fitted((np.array([7], np.int64),), [tensor])["tokens"].dtype == np.int32
    with pytest.raises(ValueError, match="beyond 32 bits"):
        fitted((np.array([2**31], np.int64),), [tensor])


def test_an_operation_without_a_core_ml_form_is_named(tmp_path):
    class Odd(nn.Module):
        def forward(self, x):
            return torch.linalg.eigvalsh(x @ x.T)

    with pytest.raises(Unsupported, match=r"operation \w+ has no Core ML form"):
        build(Odd(), FP32, (np.ones((4, 4), np.float32),), tmp_path)
    assert not list(tmp_path.iterdir())


def test_an_output_whose_size_depends_on_the_data_is_refused(tmp_path):
    class Picks(nn.Module):
        def forward(self, x):
            return x[x > 0]

    with pytest.raises(Unsupported, match="fixed"):
        build(Picks(), FP32, (np.ones((1, 4), np.float32),), tmp_path)


def test_an_input_type_that_core_ml_lacks_is_refused(tmp_path):
    with pytest.raises(Unsupported, match="input 'input' is uint8"):
        build(linear(), FP32, (np.zeros((1, 64), np.uint8),), tmp_path)


def test_a_scheme_that_takes_next_to_nothing_is_refused(tmp_path):
    with pytest.raises(Unsupported, match="48 inputs do not divide"):
        build(linear(48, 32), INT4, rows(48).item(0), tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_failure_leaves_nothing_behind(tmp_path, monkeypatch):
    before = coreml.tempfile.tempdir

    def full(*_):
        raise OSError("no space left")

    monkeypatch.setattr(report, "layer_reports", full)
    with pytest.raises(OSError, match="no space"):
        build(linear(), HALF, rows(64).item(0), tmp_path)
    assert not list(tmp_path.iterdir()) and coreml.tempfile.tempdir == before


def test_a_build_prints_nothing(tmp_path, capfd):
    """No progress bars, no log lines of coremltools; what it skipped is in the report."""
    network = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 48), nn.Linear(48, 8)).eval()
    build(network, INT4, rows(64).item(0), tmp_path)

    assert capfd.readouterr() == ("", "")


@pytest.fixture
def broken(plain, tmp_path):
    """Return a copy of a package to break, and its weight file."""
    shutil.copytree(plain, tmp_path / "copy")
    return tmp_path / "copy", tmp_path / "copy" / coreml.PACKAGE / "Data/com.apple.CoreML/weights/weight.bin"


def test_a_missing_package_is_named(tmp_path):
    with pytest.raises(CorruptFile, match="missing"):
        BACKEND.open(tmp_path, CPU, 1)


def test_a_truncated_weight_file_is_refused(broken):
    folder, weights = broken
    os.truncate(weights, weights.stat().st_size // 2)

    with pytest.raises(CorruptFile, match=r"weight\.bin"):
        BACKEND.open(folder, CPU, 1)


def test_a_tampered_weight_header_is_refused(broken):
    folder, weights = broken
    data = bytearray(weights.read_bytes())
    data[64:68] = struct.pack("<I", 0)  # the mark of the first blob
    weights.write_bytes(data)

    with pytest.raises(CorruptFile, match="build it again"):
        BACKEND.open(folder, CPU, 1)


def test_a_tampered_specification_is_refused(broken):
    folder, _ = broken
    model = next((folder / coreml.PACKAGE).rglob("*.mlmodel"))
    model.write_bytes(model.read_bytes()[: model.stat().st_size // 2])

    with pytest.raises(CorruptFile, match="build it again"):
        BACKEND.open(folder, CPU, 1)


def test_off_a_mac_the_reference_executor_answers_and_no_time_counts(monkeypatch):
    monkeypatch.setattr(coreml, "apple_silicon", lambda: False)
    assert {BACKEND.executor(target) for target in BACKEND.targets} == {"mil-reference"}
    assert BACKEND.untimed("ane") == "needs macOS"

    monkeypatch.setattr(coreml, "apple_silicon", lambda: True)
    assert [BACKEND.executor(t) for t in ("cpu", "mps", "ane")] == [
        "Core ML CPU_ONLY",
        "Core ML CPU_AND_GPU",
        "Core ML CPU_AND_NE",
    ]
    assert BACKEND.untimed("ane") is None


# --- the calls of a Mac, against a fake: CONTRACT TESTS, nothing here is Core ML --------------------------------------


class FakeModel:
    """Stands in for coremltools' CompiledMLModel: counts its calls."""

    def __init__(self, path, compute_units):
        if "refuse" in Path(path).read_text():
            raise RuntimeError("Error compiling\nmore lines")
        self.path, self.units = path, compute_units

    def make_state(self):
        return [0]

    def predict(self, data, state=None):
        if state is not None:
            state[0] += 1
        return {"output": np.array([len(data), 0 if state is None else state[0]], np.float16)}


@pytest.fixture
def fake(monkeypatch):
    """Replace coremltools by the few calls that `_coreml_mac` makes."""

    def compile_model(package, destination):
        Path(destination).write_text(Path(package).read_text())
        return destination

    def operation(kind):
        return types.SimpleNamespace(device=None if kind is None else type(kind, (), {})())

    kinds = [None, "MLCPUComputeDevice", "MLNeuralEngineComputeDevice", "MLNeuralEngineComputeDevice"]
    block = types.SimpleNamespace(operations=[operation(kind) for kind in kinds])

    class Plan:
        model_structure = types.SimpleNamespace(
            program=types.SimpleNamespace(functions={"main": types.SimpleNamespace(block=block)})
        )

        @staticmethod
        def load_from_path(path, compute_units):
            assert compute_units == "CPU_AND_NE" and path.endswith(".mlmodelc")
            return Plan()

        def get_compute_device_usage_for_mlprogram_operation(self, op):
            return op.device and types.SimpleNamespace(preferred_compute_device=op.device)

    def load_spec(package):
        return types.SimpleNamespace(description=types.SimpleNamespace(state=["k"] * ("state" in Path(package).name)))

    tools = types.SimpleNamespace(
        models=types.SimpleNamespace(
            utils=types.SimpleNamespace(compile_model=compile_model, load_spec=load_spec),
            CompiledMLModel=FakeModel,
        ),
        ComputeUnit=types.SimpleNamespace(CPU_ONLY="CPU_ONLY", CPU_AND_GPU="CPU_AND_GPU", CPU_AND_NE="CPU_AND_NE"),
    )
    monkeypatch.setattr(mac.extras, "require", lambda name: tools)
    monkeypatch.setattr("coremltools.models.compute_plan.MLComputePlan", Plan)


def test_contract_a_mac_predicts_on_the_targets_unit_and_keeps_states(fake, tmp_path):
    """CONTRACT (fake coremltools)."""
    package = tmp_path / "state.mlpackage"
    package.write_text("fine")

    predictor = mac.Predictor(package, "ane", ())
    counts = [predictor.run({"x": np.zeros(1)})["output"][1] for _ in range(2)]
    predictor.reset()

    assert predictor._model.units == "CPU_AND_NE" and counts == [1, 2]
    assert predictor.run({"x": np.zeros(1)})["output"][1] == 1
    assert predictor.compile_s >= 0 and predictor.load_s >= 0


def test_contract_a_program_without_states_gets_none(fake, tmp_path):
    """CONTRACT (fake coremltools)."""
    package = tmp_path / "plain.mlpackage"
    package.write_text("fine")

    assert mac.Predictor(package, "cpu", ()).run({})["output"][1] == 0


def test_contract_residency_counts_operations_by_device(fake, tmp_path):
    """CONTRACT (fake coremltools): a constant has no device."""
    package = tmp_path / "plain.mlpackage"
    package.write_text("fine")

    assert mac.residency(package, "ane") == {"cpu": 1, "ane": 2}


def test_contract_core_mls_refusal_is_one_line(fake, tmp_path):
    """CONTRACT (fake coremltools)."""
    package = tmp_path / "plain.mlpackage"
    package.write_text("refuse")

    with pytest.raises(HardwareCompatibilityError, match=r"cannot load on CPU_AND_GPU .*: Error compiling;"):
        mac.Predictor(package, "mps", ())


def test_the_converters_private_parts_that_we_use_are_still_there():
    """What a newer coremltools may rename; the backend then says so in one line."""
    from coremltools.optimize import _utils
    from coremltools.optimize.coreml import _post_training_quantization as passes

    assert callable(passes._get_activation_calibration_stats)
    assert callable(_utils._adjust_concat_surrounding_activation_stats)
    with pytest.raises(Unsupported, match=r"use 9\.0"):
        lower.program_of(object())

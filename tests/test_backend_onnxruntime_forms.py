"""ONNX Runtime's other forms: ranges by histogram, 16-bit activations, QOperator, HQQ, GPTQ, mixed files, providers."""

import copy
import sys
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from quantkit import extras

if reason := extras.missing("onnx"):
    pytest.skip(f"backend 'onnxruntime' {reason}", allow_module_level=True)

import onnx
import torch
from onnx import numpy_helper
from torch import nn

from quantkit.backends import _onnx_gptq, _onnx_lower, _onnx_providers
from quantkit.backends.onnxruntime import plugin
from quantkit.backends.onnxruntime_qoperator import plugin as qoperator
from quantkit.catalog import METHODS, TARGETS
from quantkit.contracts import ModelInfo, Plan, Prepared, Quality, Split
from quantkit.errors import CalibrationError, HardwareCompatibilityError, Unsupported
from quantkit.numerics import fidelity
from quantkit.numerics.ranges import Observer
from quantkit.records import Case
from quantkit.scheme import PerGroup, Scheme

HALF = Scheme(bits=16, format="fp16")
INT4 = Scheme(bits=4, granularity=PerGroup(32))
HQQ = replace(INT4, symmetric=False, codes="hqq")
GPTQ = replace(INT4, codes="gptq")
STATIC = Scheme(bits=8, activations="static")
DYNAMIC = Scheme(bits=8, activations="dynamic")
STATIC16 = replace(STATIC, activation_bits=16)


class Perceptron(nn.Module):
    """64 -> 96 -> 16."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(64, 96), nn.Linear(96, 16)

    def forward(self, x):
        return self.second(torch.relu(self.first(x)))


class Words(nn.Module):
    """An embedding and a projection."""

    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Embedding(64, 32), nn.Linear(32, 64)

    def forward(self, tokens):
        return self.head(torch.tanh(self.embed(tokens)))


def convolutions():
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 5),
    )  # fmt: skip


def items(network, count=16):
    generator = np.random.default_rng(0)
    if isinstance(network, Words):
        return generator.integers(0, 64, (count, 4))
    return generator.standard_normal((count, *((64,) if isinstance(network, Perceptron) else (3, 8, 8)))).astype("f4")


class Built:
    """A network, its artifact, and both their answers to the items it was calibrated with."""

    def __init__(self, network, scheme, folder, *, layers=None, inputs=None, backend=plugin):
        self.network = network.eval()
        self.inputs = items(network) if inputs is None else inputs
        calibration = Split((self.inputs,), self.inputs, tuple(map(str, range(len(self.inputs)))))
        prepared = Prepared(self.network, Plan(scheme, layers or {}), (self.inputs[:1],), calibration)
        self.report = backend.build(prepared, folder, threads=1)
        self.session = backend.open(folder, TARGETS.get("cpu"), threads=1)
        self.graph = onnx.load(folder / "model.onnx").graph
        self.kinds = Counter(node.op_type for node in self.graph.node)
        self.bits = {layer.name: layer.bits for layer in self.report.layers}

    def outputs(self):
        session = self.session
        return np.concatenate([session.fetch(session.run(session.feed((x[None],)))) for x in self.inputs])

    def reference(self):
        with torch.no_grad():
            return self.network(torch.from_numpy(self.inputs)).numpy()

    def sqnr_db(self):
        return fidelity.sqnr_db(self.reference(), self.outputs())

    def scales(self):
        """Return the scale of each value that is quantized."""
        known = {t.name: numpy_helper.to_array(t) for t in self.graph.initializer}
        return {n.input[0]: known[n.input[1]] for n in self.graph.node if n.op_type == "QuantizeLinear"}


@pytest.fixture(scope="module")
def exported():
    """Export each tiny network once: exporting takes longest."""
    known, lower = {}, _onnx_lower.lower

    def once(network, example):
        key = repr([(name, p.shape, p.sum().item()) for name, p in network.named_parameters()])
        if key not in known:
            known[key] = lower(network, example)
        return copy.deepcopy(known[key])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_onnx_lower, "lower", once)
        yield


@pytest.fixture
def built(tmp_path, exported):
    def make(network, scheme, **options):
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        if not isinstance(network, nn.Module):
            torch.manual_seed(0)
            network = network()
        return Built(network, scheme, folder, **options)

    return make


@pytest.mark.parametrize("ranges", ["percentile", "entropy", "mse"])
@pytest.mark.parametrize("network", [Perceptron, convolutions], ids=lambda f: f.__name__.lower())
def test_ranges_from_histograms_cover_what_extremes_cover(built, network, ranges):
    """None clips more than it gains on values without outliers: as many layers, and no fewer than 20 dB."""
    case = built(network, replace(STATIC, ranges=ranges))

    assert set(case.bits.values()) == {8}
    assert case.sqnr_db() > 20


def test_percentile_leaves_out_one_value_in_a_hundred_thousand(built):
    """2,048 items of 64 values are 131,072; without the single 1,000 the range is about ±5, with it 0.2 times as fine.

    The range of unsigned codes is (max - min) / 255 wide, and extremes take it from the values themselves.
    """
    inputs = np.random.default_rng(0).standard_normal((2_048, 64)).astype("f4")
    inputs[7, 7] = 1_000
    extremes = built(Perceptron, STATIC, inputs=inputs).scales()["x"]
    percentile = built(Perceptron, replace(STATIC, ranges="percentile"), inputs=inputs).scales()["x"]

    assert extremes == pytest.approx((inputs.max() - inputs.min()) / 255, rel=1e-5)
    assert percentile < extremes / 50


def test_moving_average_goes_item_by_item(built):
    """Items of constant 1 to 16 and -1: the largest is 1, then moves by 0.01 of the way to each next item's."""
    inputs = np.repeat(np.arange(1, 17, dtype="f4")[:, None], 64, 1)
    inputs[:, 0] = -1
    largest = 1.0
    for value in range(2, 17):
        largest += 0.01 * (value - largest)

    case = built(Perceptron, replace(STATIC, ranges="moving_average"), inputs=inputs)

    assert case.scales()["x"] == pytest.approx((largest + 1) / 255, rel=1e-5)
    assert any("extremes averaged with weight 0.01 for the next item of 16" in note for note in case.report.notes)


def test_least_squared_error_is_the_observers_own_range(built):
    """The scale in the artifact is that of `numerics.ranges` on the same inputs, which the extremes' is not."""
    inputs = np.random.default_rng(0).laplace(size=(256, 64)).astype("f4")
    observer = Observer("mse", 8)
    observer.observe(inputs)
    low, high = observer.range()

    scale = built(Perceptron, replace(STATIC, ranges="mse"), inputs=inputs).scales()["x"]

    assert scale == pytest.approx((high - low) / 255, rel=1e-5)
    assert scale < (inputs.max() - inputs.min()) / 255


@pytest.mark.parametrize("ranges", ["minmax", "percentile", "entropy", "mse", "moving_average"])
def test_values_that_are_always_zero_have_a_range_too(built, ranges):
    """A dead ReLU: histograms of nothing but zeros."""
    torch.manual_seed(0)
    network = Perceptron()
    network.first.bias.data[:] = -1e3

    case = built(network, replace(STATIC, ranges=ranges))

    np.testing.assert_allclose(case.outputs(), case.reference(), atol=0.01)


def rounded_per_channel(network):
    """Return the network with each output's weights on ±127 steps of their largest magnitude / 127."""
    network = copy.deepcopy(network)
    for layer in (network.first, network.second):
        scale = layer.weight.data.abs().amax(1, keepdim=True) / 127
        layer.weight.data = torch.round(layer.weight.data / scale) * scale
    return network


def test_sixteen_bit_activations_leave_only_the_weights_rounding(built):
    """Steps 256 times as fine as those of 8 bits: at most 20 log10(256) = 48 dB are won, until the weights decide."""
    case = built(Perceptron, STATIC16)
    with torch.no_grad():
        rounded = rounded_per_channel(case.network)(torch.from_numpy(case.inputs)).numpy()

    assert fidelity.sqnr_db(rounded, case.outputs()) > 60
    assert 0 < case.sqnr_db() - built(Perceptron, STATIC).sqnr_db() < 48
    assert case.bits == {"first": 8, "second": 8}


def test_qoperator_file_holds_integer_operations_and_the_same_layers(built):
    """In QDQ form the convolutions are float operations between two conversions."""
    pairs, whole = (built(convolutions, STATIC, backend=backend) for backend in (plugin, qoperator))

    assert pairs.kinds["Conv"] == whole.kinds["QLinearConv"] == 2
    assert pairs.kinds["QLinearConv"] == whole.kinds["Conv"] == 0
    assert whole.kinds["QGemm"] == 1
    assert whole.bits == pairs.bits == {"0": 8, "2": 8, "6": 8}
    assert whole.sqnr_db() > 25


def test_qoperator_products_are_read_where_their_codes_are(built):
    """QGemm takes its weights as the fourth input: 64 x 96 and 96 x 16."""
    report = built(Perceptron, STATIC, backend=qoperator).report

    assert {layer.name: layer.weights for layer in report.layers} == {"first": 64 * 96, "second": 96 * 16}
    assert all(layer.bits == 8 for layer in report.layers)


@pytest.mark.parametrize(
    ("scheme", "reason"),
    [
        (INT4, "would be the one of backend onnxruntime"),
        (DYNAMIC, "would be the one of backend onnxruntime"),
        (HALF, "would be the one of backend onnxruntime"),
        (STATIC16, "in QDQ form only"),
        (STATIC, None),
        (Scheme(bits=32, format="fp32"), None),
    ],
    ids=lambda x: getattr(x, "name", ""),
)
def test_qoperator_is_offered_where_it_differs(scheme, reason):
    got = qoperator.unsupported(Case("m", "x", "onnxruntime_qoperator", "cpu"), TRANSFORMER, scheme)

    assert (got is None) if reason is None else reason in got


def test_hqq_fits_a_zero_point_to_each_group_and_spares_embeddings(built):
    """Nearest codes for the table, since HQQ of ONNX Runtime is for products; a float zero point for 32 weights."""
    case = built(Words, HQQ)
    product = next(node for node in case.graph.node if node.op_type == "MatMulNBits")
    zeros = next(numpy_helper.to_array(t) for t in case.graph.initializer if t.name == product.input[3])

    assert case.bits == {"embed": 4, "head": 4}
    assert (zeros.dtype, zeros.size) == (np.float32, 64)
    assert case.sqnr_db() > 15
    assert any("embeddings take the nearest" in note for note in case.report.notes)


def correlated(count=64):
    """Return items that fill 8 of 64 dimensions: what one weight loses, others can make good."""
    generator = np.random.default_rng(0)
    return (generator.standard_normal((count, 8)) @ generator.standard_normal((8, 64))).astype("f4")


def test_gptq_beats_nearest_codes_on_what_it_was_calibrated_with(built):
    """Its purpose. At least 3 dB: half of the noise's power."""
    nearest, chosen = (built(Perceptron, scheme, inputs=correlated()) for scheme in (INT4, GPTQ))

    assert chosen.bits == nearest.bits == {"first": 4, "second": 4}
    assert chosen.sqnr_db() - nearest.sqnr_db() > 3
    assert "GPTQ on 32 calibration items" in chosen.report.notes


def by_the_book(weights, hessian):
    """Round input after input, and let those to come make good what was lost (Frantar & Alistarh 2022, OBQ).

    Dampened by 1 % of the mean diagonal; after each input its row and column are eliminated from the inverse.
    """
    weights, scale = weights.copy(), np.abs(weights).max(0) * 2 / 15
    inverse = np.linalg.inv(hessian + 0.01 * np.diag(hessian).mean() * np.eye(len(hessian)))
    for i in range(len(weights)):
        rounded = np.clip(np.round(weights[i] / scale), -8, 7) * scale
        lost = (weights[i] - rounded) / inverse[i, i]
        weights[i + 1 :] -= np.outer(inverse[i + 1 :, i], lost)
        weights[i] = rounded
        inverse -= np.outer(inverse[:, i], inverse[i]) / inverse[i, i]
    return weights


def test_bundled_gptq_put_right_is_gptq_by_the_book():
    """As it is, it feeds no error back; the dampened inverse is all that an independent version needs."""
    library = pytest.importorskip(_onnx_gptq.LIBRARY)
    generator = np.random.default_rng(0)
    weights, inputs = generator.standard_normal((32, 5)), correlated()[:, :32].astype(float)
    hessian = inputs.T @ inputs

    with _onnx_gptq._stepped_around(library):
        got = library.gptq(weights.copy(), hessian.copy(), group_size=32, scheme="sym", blocksize=32)

    np.testing.assert_allclose(got, by_the_book(weights, hessian), atol=1e-6)


@pytest.mark.parametrize(
    ("weights", "codes", "scale", "zero"),
    [
        ([-8, 7, 3, 0], [0, 15, 11, 8], 1, 8),
        ([7, 5, -4, 0], [15, 13, 4, 8], 1, 8),  # the outermost code is not used: 7 steps, not 7.5
        ([6, 4, -2, 0], [11, 10, 7, 8], 2, 8),  # all even: twice the scale gives the same weights
        ([0, 0, 0, 0], [8, 8, 8, 8], 1, 8),
    ],
    ids=["full", "inner", "even", "zero"],
)
def test_rounded_weights_are_packed_on_the_grid_that_they_lie_on(weights, codes, scale, zero):
    """By hand, in steps of 0.1 (zeros have none)."""
    step = 0.1 if any(weights) else 1.0

    got = _onnx_gptq._on_its_grid(np.array(weights, np.float32) * np.float32(step), group_size=4, scheme="sym")

    assert got[0].tolist() == [codes]
    np.testing.assert_allclose(got[1], scale * step, rtol=1e-6)
    assert got[2].tolist() == [[zero]]


def test_gptq_needs_calibration(tmp_path, exported):
    prepared = Prepared(Perceptron().eval(), Plan(GPTQ), (np.zeros((1, 64), np.float32),))

    with pytest.raises(CalibrationError, match="got none"):
        plugin.build(prepared, tmp_path, 1)
    assert not list(tmp_path.iterdir())


def test_two_bits_are_packed_too(built):
    """Codes reach 2 from zero where those of 4 bits reach 8: 12 dB less at least is left."""
    case = built(Perceptron, Scheme(2, granularity=PerGroup(32), symmetric=False))

    assert case.bits == {"first": 2, "second": 2}
    assert 3 < case.sqnr_db() < built(Perceptron, INT4).sqnr_db()


@pytest.mark.parametrize("scheme", [INT4, STATIC, DYNAMIC], ids=lambda s: s.name)
def test_plan_mixes_float16_and_integers_in_one_file(built, scheme):
    """Float16 keeps 11 significant bits, 66 dB: the integer layer alone decides."""
    case = built(Perceptron, scheme, layers={"second": HALF})
    alone = built(Perceptron, scheme, layers={"second": None})

    assert case.bits == {"first": scheme.bits, "second": 16}
    assert case.sqnr_db() == pytest.approx(alone.sqnr_db(), abs=1)
    assert case.report.format == "fp16"
    assert case.report.weight_bytes < alone.report.weight_bytes


def test_layers_of_one_float_format_may_stay_in_the_other(built):
    case = built(Perceptron, HALF, layers={"first": None})

    assert case.bits == {"first": 32, "second": 16}
    assert case.sqnr_db() > 60


class Branches(nn.Module):
    """Three layers that take one value, as queries, keys and values do."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.third = (nn.Linear(64, 64) for _ in range(3))

    def forward(self, x):
        return self.first(x) * self.second(x) + self.third(x)


@pytest.mark.parametrize(
    ("scheme", "layers", "bits"),
    [(HALF, {"first": None, "second": None}, (32, 32, 16)), (INT4, {"third": HALF}, (4, 4, 16))],
    ids=["half", "mixed"],
)
def test_two_layers_outside_float16_may_take_one_value(built, scheme, layers, bits):
    """The converter gives that value two Casts of one name, which no runtime loads."""
    inputs = np.random.default_rng(0).standard_normal((8, 64)).astype("f4")

    case = built(Branches, scheme, layers=layers, inputs=inputs)

    assert tuple(case.bits[name] for name in ("first", "second", "third")) == bits
    assert case.sqnr_db() > (15 if scheme is INT4 else 60)


@pytest.mark.parametrize("own", [None, HALF], ids=["float32", "float16"])
@pytest.mark.parametrize("scheme", [INT4, STATIC, DYNAMIC], ids=lambda s: s.name)
def test_layer_whose_name_begins_like_another_has_its_own_scheme(built, scheme, own):
    """Layers `1` and `10`: tools append to a node's name, so names are matched by how they begin.

    Three axes make the optimizer fuse product and bias, and rename the node.
    """
    network = nn.Sequential(*(nn.Linear(32, 32) for _ in range(11)))
    inputs = np.random.default_rng(0).standard_normal((8, 4, 32)).astype("f4")

    case = built(network, scheme, layers={"10": own}, inputs=inputs)

    assert case.bits == {str(i): scheme.bits for i in range(10)} | {"10": own.bits if own else 32}


def test_values_between_float32_layers_of_a_mixed_file_stay_float32(built):
    """The converter alone would round every value of the graph to float16."""
    case = built(Perceptron, INT4, layers={"second": HALF})
    made = {node.output[0]: node for node in case.graph.node}
    casts = [node for node in case.graph.node if node.op_type == "Cast"]

    assert casts
    assert not [n for n in casts if n.input[0] in made and made[n.input[0]].op_type == "Cast"]


def test_layer_with_a_scheme_of_its_own_that_has_no_form_is_named(built):
    with pytest.raises(
        Unsupported, match=r"^layer second: ONNX Runtime packs weight-only codes of 2, 4 or 8 bits, not 3"
    ):
        built(Perceptron, INT4, layers={"second": Scheme(bits=3)})


TRANSFORMER = ModelInfo(
    "m", "m", "transformer", "vision", "d", Quality("q", "none"), (), "", "", layers=("linear", "embedding")
)


@pytest.mark.parametrize(
    ("scheme", "reason"),
    [
        (replace(HQQ, symmetric=True), "has no symmetric form"),
        (replace(GPTQ, bits=8), "GPTQ is offered for 4-bit codes, not 8-bit"),
        (replace(STATIC, codes="gptq"), "GPTQ is for weight-only codes"),
        (replace(STATIC16, ranges="entropy"), "says nothing of 16-bit activations"),
        (replace(DYNAMIC, activation_bits=16), "8-bit activations only"),
        (Scheme(bits=8, sparsity=0.5), "uniform grid"),
        *((METHODS.get(name).scheme, None) for name in (
            "int4_hqq", "int4_gptq", "int8_static_entropy", "int8_static_percentile", "int16x8_static",
            "int8_static_mse", "int8_static_moving_average",
            "int2_weight_only",
        )),
    ],
    ids=lambda x: getattr(x, "name", ""),
)  # fmt: skip
def test_what_has_no_form_is_refused_before_anything_runs(scheme, reason):
    got = plugin.unsupported(Case("m", "x", "onnxruntime", "cpu"), TRANSFORMER, scheme)

    assert (got is None) if reason is None else reason in got


@pytest.mark.parametrize("target", ["mps", "ane"])
def test_apple_targets_say_what_they_need(target, monkeypatch):
    """Without importing the runtime: the plan asks for every case."""
    modules = set(sys.modules)
    for mac, scheme, reason in (
        (False, HALF, "needs macOS"),
        (True, HALF, None),
        (True, INT4, "no quantized operation"),
    ):
        monkeypatch.setattr(_onnx_providers, "apple_silicon", lambda mac=mac: mac)
        got = plugin.unsupported(Case("m", "x", "onnxruntime", target), TRANSFORMER, scheme)
        assert (got is None) if reason is None else reason in got
    assert set(sys.modules) == modules
    assert "CoreMLExecutionProvider" in plugin.executor(target)


class FakeOptions:
    """What ONNX Runtime's session options remember."""

    def __init__(self):
        self.entries = {}

    def add_session_config_entry(self, key, value):
        self.entries[key] = value


def fake_runtime(*providers):
    """Return a stand-in for ONNX Runtime's package for macOS, which this contract is checked against."""
    levels = SimpleNamespace(ORT_ENABLE_ALL="all", ORT_ENABLE_BASIC="basic")
    return SimpleNamespace(get_available_providers=lambda: list(providers), GraphOptimizationLevel=levels)


@pytest.mark.parametrize(("target", "units"), [("mps", "CPUAndGPU"), ("ane", "CPUAndNeuralEngine")])
def test_apple_targets_ask_for_their_units_first_and_the_processor_second(target, units):
    """On a stand-in: this names what is asked for, not that a Mac does it."""
    options = FakeOptions()

    providers = _onnx_providers.configure(options, fake_runtime(_onnx_providers.COREML, _onnx_providers.CPU), target)

    assert providers == [
        ("CoreMLExecutionProvider", {"ModelFormat": "MLProgram", "MLComputeUnits": units}),
        "CPUExecutionProvider",
    ]
    assert options.graph_optimization_level == "basic"


def test_session_that_the_apple_provider_took_nothing_of_is_refused():
    """On stand-ins for sessions; the question itself is put to a real one below."""

    def session(**taken):
        parts = [SimpleNamespace(ep_name=name, get_nodes=lambda n=n: [None] * n) for name, n in taken.items()]
        return SimpleNamespace(get_provider_graph_assignment_info=lambda: parts)

    _onnx_providers.check_assignment(session(CoreMLExecutionProvider=2, CPUExecutionProvider=1), "ane")
    with pytest.raises(HardwareCompatibilityError, match="took none of the 3 nodes"):
        _onnx_providers.check_assignment(session(CPUExecutionProvider=3), "ane")


def test_nodes_of_each_provider_are_counted(built, tmp_path):
    """The real runtime: a perceptron in float32 keeps its two products, whatever becomes of the activation."""
    import onnxruntime

    built(Perceptron, Scheme(bits=32, format="fp32"))
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry(_onnx_providers.RECORD, "1")
    session = onnxruntime.InferenceSession(tmp_path / "0" / "model.onnx", options, providers=[_onnx_providers.CPU])

    counts = _onnx_providers.assigned(session)

    assert set(counts) == {"CPUExecutionProvider"}
    assert 2 <= counts.total() <= 3


@pytest.mark.skipif(sys.platform == "darwin", reason="there the provider exists")
def test_opening_on_an_apple_target_elsewhere_names_the_provider(built, tmp_path):
    built(Perceptron, HALF)

    with pytest.raises(HardwareCompatibilityError, match=r"^target ane needs ONNX Runtime's CoreML provider: got"):
        plugin.open(tmp_path / "0", TARGETS.get("ane"), 1)

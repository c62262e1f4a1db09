"""MLX: the artifact computes what the network computes, and holds what the report says."""

import importlib
import json
import subprocess
import sys

import numpy as np
import pytest

from quantkit import extras

if reason := extras.missing("mlx"):
    pytest.skip(f"backend 'mlx' {reason}", allow_module_level=True)

import mlx.core as mx
import torch
from torch import nn
from torch.nn import functional

from quantkit.backends import _mlx_lm, _mlx_program, _mlx_weights
from quantkit.backends.mlx import plugin
from quantkit.catalog import DATASETS, METHODS, MODELS
from quantkit.contracts import Plan, Prepared
from quantkit.errors import CorruptFile, Unsupported
from quantkit.numerics import fidelity
from quantkit.scheme import PerChannelGroup, PerGroup, PerTensor, Scheme

FP32, HALF = Scheme(32, "fp32"), Scheme(16, "bf16")
INT8, INT4 = Scheme(8), Scheme(4, granularity=PerGroup(32))
MODES = {"mxfp4": (4, 32), "mxfp8": (8, 32), "nvfp4": (4, 16)}  # bits, group


class Tied(nn.Module):
    """One table is embedding and output projection."""

    def __init__(self):
        super().__init__()
        self.embed, self.middle = nn.Embedding(64, 128), nn.Linear(128, 128)
        self.head = nn.Linear(128, 64, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens):
        return self.head(torch.tanh(self.middle(self.embed(tokens))))


class Reader(nn.Module):
    """Two LSTM layers, both ways; the first takes 8 inputs, which no group divides."""

    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(8, 32, num_layers=2, batch_first=True, bidirectional=True)
        self.head = nn.Linear(64, 4)

    def forward(self, x):
        return self.head(self.lstm(x)[0][:, -1])


class Apply(nn.Module):
    """A function as a network."""

    def __init__(self, function, *parts):
        super().__init__()
        self.function, self.parts = function, nn.ModuleList(parts)

    def forward(self, *inputs):
        return self.function(*inputs, *self.parts)


def perceptron():
    return nn.Sequential(nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, 16))


def convolutions():
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Conv2d(16, 16, 3, padding=1, groups=4), nn.BatchNorm2d(16), nn.MaxPool2d(3, 2, 1),
        nn.Conv2d(16, 8, (1, 3), dilation=(1, 1)), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5),
    )  # fmt: skip


INPUTS = {
    perceptron: lambda draw: draw.standard_normal((1, 256), dtype=np.float32),
    convolutions: lambda draw: draw.standard_normal((1, 3, 16, 16), dtype=np.float32),
    Reader: lambda draw: draw.standard_normal((1, 6, 8), dtype=np.float32),
    Tied: lambda draw: draw.integers(0, 64, (1, 5)),
}


class Built:
    """A network, its artifact and the artifact's session."""

    def __init__(self, network, item, scheme, folder, layers=None):
        self.network, self.item, self.folder = network, item, folder
        self.report = plugin.build(Prepared(network, Plan(scheme, layers or {}), item), folder, threads=1)
        self.session = plugin.open(folder, None, threads=1)

    @property
    def bits(self):
        return {layer.name: layer.bits for layer in self.report.layers}

    def output(self):
        return self.session.fetch(self.session.run(self.session.feed(self.item)))

    def reference(self):
        with torch.no_grad():
            return self.network(*map(torch.from_numpy, self.item)).numpy()

    def sqnr_db(self):
        return fidelity.sqnr_db(self.reference(), self.output())


@pytest.fixture(scope="module")
def build(tmp_path_factory):
    """Return a function that builds each (network, scheme) once."""
    known = {}

    def once(make, scheme, layers=None):
        key = make, scheme, str(layers)
        if key not in known:
            torch.manual_seed(0)
            network = make()
            for module in network.modules():  # a fresh batch norm does nothing: give it statistics
                if isinstance(module, nn.BatchNorm2d):
                    module.running_mean.normal_()
                    module.running_var.uniform_(0.5, 2)
                    nn.init.uniform_(module.weight, 0.5, 2)
                    nn.init.normal_(module.bias)
            item = (INPUTS[make](np.random.default_rng(0)),)
            known[key] = Built(network.eval(), item, scheme, tmp_path_factory.mktemp("artifact"), layers)
        return known[key]

    return once


# What the interpreter computes


def x(*shape, low=None):
    values = np.random.default_rng(len(shape)).standard_normal(shape, dtype=np.float32)
    return values if low is None else np.abs(values) + np.float32(low)


IDS = np.array([[3, 0, 2]])
MASK = np.array([[True, False, True, True]])
OPERATIONS = {
    "arithmetic": (lambda a, b: (a + 2 * b - 3.5) * (1.5 - a) / (b * b + 1) - torch.sub(a, b, alpha=3), x(2, 4), x(4)),
    "power": (lambda a: a**3 + a.abs() ** 0.5 + 2**a, x(2, 4)),
    "rounded division": (
        lambda a: torch.div(a, 0.3, rounding_mode="floor") + torch.div(a, 0.3, rounding_mode="trunc"),
        x(2, 4),
    ),
    "remainder": (lambda a: torch.remainder(a, 0.7) + a % 2, x(2, 4)),
    "exponentials": (lambda a: a.exp() + a.expm1() + a.sinh() + a.tanh() + a.sigmoid() + a.erf(), x(2, 4)),
    "logarithms": (lambda a: a.log() + a.log1p() + a.sqrt() + a.rsqrt() + a.reciprocal(), x(2, 4, low=0.1)),
    "angles": (lambda a: a.sin() + a.cos() + a.tan(), x(2, 4)),
    "rounding": (lambda a: a.floor() + a.ceil() + a.round() + a.trunc() + a.sign(), 3 * x(2, 4)),
    "activations": (
        lambda a: functional.gelu(a) + functional.silu(a) + functional.leaky_relu(a) + functional.elu(a),
        x(2, 4),
    ),
    "more activations": (
        lambda a: (
            functional.hardswish(a)
            + functional.softplus(a)
            + functional.mish(a)
            + functional.gelu(a, approximate="tanh")
            + functional.relu6(a)
            + functional.hardsigmoid(a)
        ),
        x(2, 4),
    ),
    "limits": (
        lambda a, b: a.clamp(-0.5) + a.clamp(max=0.2) + torch.maximum(a, b) + torch.minimum(a, b),
        x(2, 4),
        x(2, 4) + 1,
    ),
    "comparison": (
        lambda a, b: ((a > b) & (a != 0) | (b <= 0.3) ^ (a >= 0.1)).float() + (a < b) * (a == a),
        x(2, 4),
        x(4),
    ),
    "choice": (lambda a: torch.where(a > 0, a, -2 * a).masked_fill(a > 1, -torch.inf).exp(), x(2, 4)),
    "softmax": (lambda a: a.softmax(-1) + a.log_softmax(1), x(2, 4)),
    "sums": (lambda a: a.sum() + a.mean() + a.sum(1) + a.mean((0, 1)) + a.cumsum(1).amax(1) + a.var(1), x(2, 4)),
    "extremes": (
        lambda a: a.amax(1) + a.amin((0, 1)) + a.argmax(1) + a.argmin() + (a > 0).any(1) + (a > 0).all(1),
        x(2, 4),
    ),
    "norm": (
        lambda a: functional.normalize(a, dim=1) + a.std(1, keepdim=True) + a.norm(1) + a.norm(torch.inf, 1)[:, None],
        x(2, 4),
    ),
    "shapes": (lambda a: a.reshape(3, -1).t().contiguous().view(2, 2, 3).flatten(1).unsqueeze(1).squeeze(), x(1, 12)),
    "transposes": (lambda a: a.permute(2, 0, 1).transpose(0, 1) + a.swapaxes(1, 2), x(2, 3, 4)),
    "pieces": (
        lambda a: torch.cat([*a.chunk(3, 1)[::-1], *a.split([1, 4], 1), torch.stack(a.unbind(1), 1)], 1),
        x(2, 5),
    ),
    "slices": (lambda a: a[:, 1:-1] + a[:, -3:5:1][:, :3] + a[0, 2] + a[:, ::2], x(2, 5)),
    "padding": (lambda a: functional.pad(a, (1, 2, 0, 1), value=3.0) + functional.pad(a, (-1, 4, 0, 1)), x(2, 4)),
    "look-up": (lambda a, i: a[:, i[0]] + a.index_select(1, i[0]) + a.gather(1, i.expand(2, 3)), x(2, 4), IDS),
    "making": (
        lambda a: a + torch.zeros(4) + torch.ones_like(a) + torch.full((4,), 2.5) + torch.arange(4) * a.new_ones(4),
        x(2, 4),
    ),
    "writing": (
        lambda a: torch.cat([a.clone().fill_(2), a.expand(3, 2, 4)[1], a.repeat(2, 1), a.flip(0), a.tril(), a.triu()]),
        x(2, 4),
    ),
    "constant": (lambda a: a * torch.tensor([1.0, 2.0, 3.0, 4.0]), x(2, 4)),
    "in place": (lambda a: (a + 1).relu_().mul_(2).add_(a), x(2, 4)),
    "types": (
        lambda a, i: (a.int() + i[0, 0] + a.bool() + (~(a > 0)).long()).float() + i.float().mean(),
        4 * x(2, 4),
        IDS,
    ),
    "product": (
        lambda a, b: a @ b + torch.einsum("nij,njk->nik", a, b) + torch.baddbmm(a @ b, a, b),
        x(2, 3, 4),
        x(2, 4, 3),
    ),
    "attention": (
        lambda q, k, v: functional.scaled_dot_product_attention(q, k, v),
        x(1, 2, 3, 4),
        x(1, 2, 5, 4),
        x(1, 2, 5, 4),
    ),
    "causal attention": (
        lambda q: functional.scaled_dot_product_attention(q, q, q, is_causal=True, scale=0.3),
        x(1, 2, 5, 4),
    ),
    "masked attention": (
        lambda q, m: functional.scaled_dot_product_attention(q, q, q, attn_mask=m),
        x(1, 2, 4, 8),
        MASK,
    ),
    "biased attention": (
        lambda q, m: functional.scaled_dot_product_attention(q, q, q, attn_mask=m),
        x(1, 2, 4, 8),
        x(1, 1, 1, 4),
    ),
    "average pooling": (
        lambda a: functional.avg_pool2d(a, (2, 3), (1, 2), 1) + functional.max_pool2d(a, (2, 3), (1, 2), 1),
        x(1, 2, 6, 7),
    ),
    "adaptive pooling": (lambda a: functional.adaptive_avg_pool2d(a, (2, 3)), x(1, 2, 6, 9)),
}
LAYERS = {
    "linear": (nn.Linear(6, 3), x(2, 4, 6)),
    "embedding": (nn.Embedding(5, 3, padding_idx=0), IDS),
    "conv1d": (nn.Conv1d(4, 6, 3, stride=2, padding=1, groups=2), x(1, 4, 9)),
    "conv2d": (nn.Conv2d(4, 6, (3, 2), stride=(2, 1), padding=(1, 0), dilation=(1, 2)), x(1, 4, 9, 8)),
    "same padding": (nn.Conv2d(4, 8, 3, padding="same", groups=4), x(1, 4, 5, 5)),
    "batch norm": (nn.BatchNorm2d(4), x(1, 4, 3, 3)),
    "group norm": (nn.GroupNorm(2, 4), x(1, 4, 3, 3)),
    "layer norm": (nn.LayerNorm((3, 4)), x(2, 3, 4)),
    "rms norm": (nn.RMSNorm(4), x(2, 3, 4)),
    "gru": (Apply(lambda a, gru: gru(a)[0], nn.GRU(4, 3, batch_first=True)), x(1, 5, 4)),
    "lstm without bias": (Apply(lambda a, lstm: lstm(a)[1][1], nn.LSTM(4, 3, bias=False)), x(5, 1, 4)),
    "transformer": (nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, norm_first=True), x(1, 5, 8)),
}


@pytest.mark.parametrize("name", [*OPERATIONS, *LAYERS])
def test_each_operation_computes_what_torch_computes(name, tmp_path):
    """float32 keeps 24 bits, 144 dB; sums and a second implementation of exp and erf cost some of them."""
    network, *item = OPERATIONS.get(name) or LAYERS[name]
    network = network if isinstance(network, nn.Module) else Apply(network)

    built = Built(network.eval(), tuple(item), FP32, tmp_path)

    assert built.output().shape == built.reference().shape
    assert built.sqnr_db() > 110


@pytest.mark.parametrize("make", INPUTS)
def test_a_float_artifact_answers_as_the_network(build, make):
    assert build(make, FP32).sqnr_db() > 110
    assert 35 < build(make, HALF).sqnr_db() < 65  # 8 bits of mantissa: about 6.02 · 8 + 1.76 = 50 dB, less per layer


def test_batch_norms_vanish_in_the_convolutions_before_them(build):
    graph = json.loads((build(convolutions, FP32).folder / "graph.json").read_text())

    assert not [node for node in graph["nodes"] if "batch_norm" in node["op"]]
    assert not [name for name in graph["tensors"] if "running" in name]


@pytest.mark.parametrize("name", ["fmnist_cnn", "fmnist_lstm", "fmnist_vit"])
def test_the_zoo_answers_as_in_torch(name, tmp_path):
    """In float32, MLX and torch differ by the order of their sums only."""
    model = MODELS.get(name)
    item = DATASETS.get(model.info.dataset).evaluation(2).item(1)

    assert Built(model.load(), item, FP32, tmp_path).sqnr_db() > 100


@pytest.mark.parametrize("name", ["pydoc_gpt", "minilm", "resemblyzer", "resnet50"])
@pytest.mark.slow
def test_the_large_of_the_zoo_answer_as_in_torch(name, tmp_path):
    """Random weights, so that nothing is fetched; ResNet-50 is bounded by float32 itself (93 dB from float64)."""
    pytest.importorskip("transformers")
    torch.manual_seed(0)
    module = importlib.import_module(f"quantkit.zoo.{name}")
    network = module.network().eval()
    inputs = {
        "pydoc_gpt": (np.arange(16)[None],),
        "minilm": (np.arange(64)[None] + 1000, (np.arange(64) < 40).astype(np.int64)[None]),
        "resemblyzer": (x(1, 24, 40),),
        "resnet50": (x(1, 3, 64, 64),),
    }

    assert Built(network, inputs[name], FP32, tmp_path).sqnr_db() > (80 if name == "resnet50" else 100)


# What is stored


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 8])
@pytest.mark.parametrize("group", [32, 64, 128])
def test_an_affine_weight_takes_bits_plus_32_over_the_group(build, bits, group):
    """A scale and a bias of 16 bits per group, as mlx-lm has them; the layers' own biases have 2 bytes a number."""
    report = build(perceptron, Scheme(bits, granularity=PerGroup(group), symmetric=False)).report

    weights, biases = 256 * 128 + 128 * 16, 128 + 16
    assert sum(layer.weights for layer in report.layers) == weights
    assert report.weight_bytes == weights * (bits + 32 / group) / 8 + 2 * biases


@pytest.mark.parametrize("mode", MODES)
def test_a_block_float_takes_a_scale_of_8_bits_per_block(build, mode):
    """mxfp4: 4 + 8 / 32 = 4.25 bits; mxfp8: 8.25; nvfp4: 4 + 8 / 16 = 4.5."""
    bits, group = MODES[mode]
    report = build(perceptron, Scheme(bits, mode, PerGroup(group))).report

    weights, biases = 256 * 128 + 128 * 16, 128 + 16
    assert report.weight_bytes == weights * (bits + 8 / group) / 8 + 2 * biases


def unpacked(words, bits):
    """Return the codes in rows of 32-bit words, the first in the lowest bits: [rows, n], by NumPy."""
    flags = np.unpackbits(words.view(np.uint8), axis=1, bitorder="little")
    return flags.reshape(len(words), -1, bits) @ (1 << np.arange(bits))


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 8])
def test_an_affine_weight_is_scale_times_code_plus_bias(build, bits):
    """Each weight has the nearest code there is, but for the rounding of scales and biases to bfloat16 (2^-9)."""
    built = build(perceptron, Scheme(bits, granularity=PerGroup(64), symmetric=False))
    stored = mx.load(str(built.folder / "weights.safetensors"))
    codes, scales, biases = (stored[f"0.{part}"] for part in ("weight", "scales", "biases"))
    scale, bias = (np.repeat(np.array(part.astype(mx.float32)), 64, axis=1) for part in (scales, biases))

    back = unpacked(np.array(codes), bits) * scale + bias

    original = built.network[0].weight.detach().numpy()
    nearest = np.clip(np.round((original - bias) / scale), 0, 2**bits - 1) * scale + bias
    rounding = 2**-8 * (np.abs(bias) + np.abs(original) + np.abs(back - bias))
    assert (np.abs(back - original) <= np.abs(nearest - original) + rounding).all()
    theirs = _mlx_weights.Quantized(codes, scales, biases, {"bits": bits, "group_size": 64, "mode": "affine"})
    rows = np.array(theirs.rows(mx.arange(128)).astype(mx.float32))
    np.testing.assert_allclose(rows, back, rtol=2**-7, atol=2**-8 * np.abs(bias).max())


E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6])


def small_float(codes, exponent_bits, mantissa_bits, bias):
    """Return the values of small floats by their definition (OCP MX 1.0, section 5.3): sign, exponent, mantissa."""
    mantissa = codes % (1 << mantissa_bits)
    exponent = (codes >> mantissa_bits) % (1 << exponent_bits)
    sign = np.where(codes >> (mantissa_bits + exponent_bits), -1.0, 1.0)
    normal = (1 + mantissa / 2**mantissa_bits) * 2.0 ** (exponent.astype(float) - bias)
    return sign * np.where(exponent == 0, mantissa / 2**mantissa_bits * 2.0 ** (1 - bias), normal)


@pytest.mark.parametrize("mode", MODES)
def test_a_block_float_is_its_definition(build, mode):
    """mx scales are powers of two, 2^(code − 127); nvfp4's are e4m3; codes e2m1, or e4m3 in mxfp8."""
    bits, group = MODES[mode]
    built = build(perceptron, Scheme(bits, mode, PerGroup(group)))
    stored = mx.load(str(built.folder / "weights.safetensors"))
    scales = np.array(stored["0.scales"])
    scales = small_float(scales.astype(int), 4, 3, 7) if mode == "nvfp4" else 2.0 ** (scales.astype(float) - 127)
    codes = unpacked(np.array(stored["0.weight"]), bits)
    values = small_float(codes, *((2, 1, 1) if bits == 4 else (4, 3, 7)))

    back = values * np.repeat(scales, group, axis=1)

    weight = _mlx_weights.Quantized(
        stored["0.weight"], stored["0.scales"], None, {"bits": bits, "group_size": group, "mode": mode}
    )
    np.testing.assert_array_equal(np.array(weight.product(mx.eye(256)).T), back.astype(np.float32))
    assert set(np.unique(np.abs(small_float(np.arange(8), 2, 1, 1)))) == set(E2M1)
    assert fidelity.sqnr_db(built.network[0].weight.detach().numpy(), back) > (16 if bits == 4 else 28)


def test_a_quantized_artifact_is_the_network_with_the_dequantized_weights(build):
    """But for bfloat16 activations, which leave about 50 dB."""
    built = build(perceptron, INT4)
    graph, tensors = _mlx_program.read(built.folder)
    weights = _mlx_weights.resolve(tensors, graph["quantization"])
    network = perceptron()
    for layer in (0, 2):
        matrix = weights[f"{layer}.weight"].rows(mx.arange(network[layer].out_features))
        network[layer].weight.data = torch.from_numpy(np.array(matrix.astype(mx.float32)))
        network[layer].bias = built.network[layer].bias

    with torch.no_grad():
        expected = network(torch.from_numpy(built.item[0])).numpy()

    assert fidelity.sqnr_db(expected, built.output()) > 40


def test_each_further_bit_brings_6_db(build):
    """Half the step is a quarter of the noise power: 10 · log10(4) = 6.02 dB; 6 bits stay above bfloat16's noise."""
    schemes = [Scheme(bits, granularity=PerGroup(32), symmetric=False) for bits in (2, 3, 4, 5, 6)]

    decibels = [build(perceptron, scheme).sqnr_db() for scheme in schemes]

    # a step is range / (2^bits − 1): from 2 to 6 bits 20 · log10(63 / 3) = 26.4 dB
    assert decibels == sorted(decibels)
    assert decibels[-1] - decibels[0] == pytest.approx(26.4, abs=4)


def test_a_shared_table_is_stored_once_and_used_twice(build):
    built = build(Tied, INT8)

    assert built.bits == {"embed": 8, "middle": 8}
    assert any("stored once" in note for note in built.report.notes)
    assert built.sqnr_db() > 30


def test_an_lstm_is_quantized_matrix_by_matrix(build):
    """What the group does not divide stays float, with the reason."""
    built = build(Reader, INT4)

    left = {layer.name: layer.reason for layer in built.report.layers if layer.bits > 4}
    assert set(left) == {"lstm.weight_ih_l0", "lstm.weight_ih_l0_reverse"}
    assert all("8 inputs" in why for why in left.values())
    assert built.sqnr_db() > 15


def test_the_plan_may_except_a_layer(build):
    assert build(Tied, INT4, {"middle": None}).bits == {"embed": 4, "middle": 16}
    assert build(Tied, INT8, {"head": None, "middle": INT4}).bits == {"embed": 16, "middle": 4}


def test_one_scale_per_channel_becomes_groups_and_is_said(build):
    report = build(perceptron, INT8).report

    assert {"groups of 64" in note for note in report.notes} == {True, False}
    assert any("asymmetric" in note for note in report.notes)
    assert report.format == "bf16"


def test_inputs_and_output_are_float32_outside(build):
    for scheme in (FP32, HALF):
        report = build(perceptron, scheme).report
        assert [(x.shape, x.dtype) for x in (*report.inputs, *report.outputs)] == [
            ((1, 256), "float32"), ((1, 16), "float32"),
        ]  # fmt: skip


# What is refused


REFUSED = {
    "activations": Scheme(8, activations="dynamic"),
    "lut": Scheme(4, "lut", PerTensor()),
    "nf4": METHODS.get("nf4").scheme,
    "fp4": METHODS.get("fp4").scheme,
    "HQQ": METHODS.get("int4_hqq").scheme,
    "GPTQ": METHODS.get("int4_gptq").scheme,
    "sparse": METHODS.get("pruned_int8").scheme,
    "doubly": Scheme(4, granularity=PerGroup(32), double=True),
    "2, 3, 4, 5, 6 or 8 bits: got 7": Scheme(7),
    "groups of 32 in MLX": Scheme(4, "mxfp4", PerGroup(64)),
    "32, 64 or 128 inputs: got PerGroup(group_size=16": Scheme(4, granularity=PerGroup(16)),
    "PerTensor": Scheme(8, granularity=PerTensor()),
    "PerChannelGroup": Scheme(8, granularity=PerChannelGroup(4)),
}


@pytest.mark.parametrize("words", REFUSED)
def test_what_mlx_has_no_form_of_is_refused_with_the_reason(words):
    assert words in plugin.unsupported(None, MODELS.get("fmnist_vit").info, REFUSED[words])


def test_a_cnn_is_refused_but_in_float():
    info = MODELS.get("fmnist_cnn").info

    assert "convolutions" in plugin.unsupported(None, info, INT8)
    assert plugin.unsupported(None, info, FP32) is plugin.unsupported(None, info, HALF) is None


@pytest.mark.parametrize(
    ("network", "item", "words"),
    [
        (Apply(lambda a: torch.fft.fft(a).real), x(2, 4), r"aten\._fft_r2c\.default \(node _fft_r2c\)"),
        (Apply(lambda a: a.double() * 2), x(2, 4), "float64"),
        (Apply(lambda a: functional.max_pool2d(a, 2, ceil_mode=True)), x(1, 1, 5, 5), r"max_pool2d.*ceil_mode"),
        (Apply(lambda a: a if a.sum() > 0 else -a), x(2, 4), "torch.export cannot trace"),
        (Apply(lambda a, lstm: lstm(a)[0], nn.LSTM(4, 6, proj_size=3)), x(5, 1, 4), "proj_size"),
        (Apply(lambda a: functional.scaled_dot_product_attention(a, a[..., :2, :], a[..., :2, :], is_causal=True)),
         x(1, 1, 4, 8), "causal mask over 4 queries and 2 keys"),
        (nn.ConvTranspose2d(2, 2, 3), x(1, 2, 4, 4), "transposed convolution"),
    ],
    ids=["operation", "type", "option", "data-dependent", "projection", "causal", "transposed"],
)  # fmt: skip
def test_what_the_interpreter_lacks_is_named(network, item, words, tmp_path):
    with pytest.raises(Unsupported, match=words):
        Built(network.eval(), (item,), FP32, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_network_that_keeps_a_state_is_refused(tmp_path):
    class Counter(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("count", torch.zeros(1))

        def forward(self, a):
            self.count.add_(1)
            return a + self.count

    with pytest.raises(Unsupported, match=r"changes its buffers \(count\)"):
        Built(Counter(), (x(2, 4),), FP32, tmp_path)


def test_a_quantized_artifact_that_would_be_float_is_refused(tmp_path):
    with pytest.raises(Unsupported, match=r"only 0 of 120 weights .* 12 inputs are no multiple"):
        Built(nn.Sequential(nn.Linear(12, 10)), (x(1, 12),), INT8, tmp_path)


def test_a_plan_with_an_unknown_layer_is_refused(tmp_path):
    with pytest.raises(Unsupported, match="'third'"):
        Built(perceptron(), (x(1, 256),), INT8, tmp_path, {"third": None})


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ((), "takes 1 inputs .*: got 0"),
        ((np.zeros((1, 255), np.float32),), r"got float32 \[1, 255\], expected float32 \[1, 256\]"),
        ((np.zeros((1, 256)),), r"got float64 .*, expected float32"),
    ],
)
def test_wrong_inputs_are_refused(build, given, words):
    with pytest.raises(ValueError, match=words):
        build(perceptron, FP32).session.feed(given)


@pytest.fixture
def copy(build, tmp_path):
    """Return a copy of an artifact that may be broken."""
    for file in build(perceptron, INT4).folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path


def edited(folder, **changes):
    graph = json.loads((folder / "graph.json").read_text()) | changes
    (folder / "graph.json").write_text(json.dumps(graph))


BREAK = {
    "graph.json is missing": lambda folder: (folder / "graph.json").unlink(),
    "weights.safetensors is missing": lambda folder: (folder / "weights.safetensors").unlink(),
    "is no JSON": lambda folder: (folder / "graph.json").write_bytes((folder / "graph.json").read_bytes()[:-40]),
    "no graph of quantkit-mlx": lambda folder: edited(folder, format="other"),
    "has version 2": lambda folder: edited(folder, version=2),
    "formats unknown": lambda folder: edited(folder, dtype="float8"),
    r"operations unknown here \(aten\.magic\)": lambda folder: edited(
        folder, nodes=[{"name": "a", "op": "aten.magic", "args": [], "kwargs": {}, "dtype": None}]
    ),
    "lacks codes, scales or biases": lambda folder: edited(
        folder, quantization={"ghost.weight": {"bits": 4, "group_size": 32, "mode": "affine"}}
    ),
    "does not belong to its graph": lambda folder: mx.save_safetensors(
        str(folder / "weights.safetensors"), {"0.weight": mx.zeros((3,))}
    ),
    "cannot read": lambda folder: (folder / "weights.safetensors").write_bytes(b"\xff" * 100),
}


@pytest.mark.parametrize("words", BREAK)
def test_a_broken_artifact_is_named(copy, words):
    BREAK[words](copy)

    with pytest.raises(CorruptFile, match=words):
        plugin.open(copy, None, threads=1)


@pytest.mark.parametrize("kept", [0.05, 0.5, 0.999])
def test_truncated_weights_are_noticed(copy, kept):
    data = (copy / "weights.safetensors").read_bytes()
    (copy / "weights.safetensors").write_bytes(data[: int(kept * len(data))])

    with pytest.raises(CorruptFile, match=r"weights\.safetensors"):
        plugin.open(copy, None, threads=1)


# Where it runs


def test_opening_needs_no_torch_and_starts_after_a_fork(build):
    """Importing MLX starts no thread, so a host may import it and fork; a fork after a computation would hang."""
    folder = build(perceptron, INT4).folder
    program = f"""
import os, sys, pathlib, threading
import mlx.core
tasks = pathlib.Path("/proc/self/task")
assert not tasks.exists() or len(list(tasks.iterdir())) == 1
import numpy as np
child = os.fork()
if child == 0:
    from quantkit.backends.mlx import plugin
    session = plugin.open(pathlib.Path({str(folder)!r}), None, 1)
    made = session.fetch(session.run(session.feed((np.ones((1, 256), np.float32),))))
    os._exit(0 if made.shape == (1, 16) and "torch" not in sys.modules else 3)
assert os.waitpid(child, 0)[1] == 0
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


@pytest.mark.parametrize("mac", [False, True])
def test_off_apple_silicon_nothing_is_timed(monkeypatch, mac):
    monkeypatch.setattr("quantkit.backends.mlx.apple_silicon", lambda: mac)
    monkeypatch.setattr("platform.system", lambda: "Darwin" if mac else "Linux")

    assert (plugin.untimed("cpu") is None) is (plugin.untimed("mps") is None) is mac
    wanted = ("MLX on the CPU", "MLX on the GPU") if mac else ("MLX on the CPU (Linux)",) * 2
    assert (plugin.executor("cpu"), plugin.executor("mps")) == wanted


def test_a_quantized_product_adds_up_in_float32():
    """Sums in bfloat16 (8 bits) would lose half of them; one rounding at the end leaves 6.02 · 8 + 1.76 = 50 dB."""
    draw = np.random.default_rng(0)
    matrix, vector = (mx.array(draw.standard_normal((n, 1024), dtype=np.float32) + 0.5) for n in (64, 8))
    settings = {"bits": 8, "group_size": 64, "mode": "affine"}
    parts = _mlx_weights.quantize("weight", matrix.astype(mx.bfloat16), settings)
    weight = _mlx_weights.resolve(parts, {"weight": settings})["weight"]
    vector = vector.astype(mx.bfloat16)

    got = weight.product(vector)

    wide = [np.array(p.astype(mx.float32)).astype(float) for p in (weight.scales, weight.biases, vector)]
    back = unpacked(np.array(weight.codes), 8) * np.repeat(wide[0], 64, 1) + np.repeat(wide[1], 64, 1)
    assert got.dtype == mx.bfloat16
    assert fidelity.sqnr_db(wide[2] @ back.T, np.array(got.astype(mx.float32))) > 49


# mlx-lm


def llama():
    """Grouped heads, an untied head, and rotary angles of another base than mlx-lm's default."""
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        hidden_size=64, num_hidden_layers=2, intermediate_size=96, num_attention_heads=4, num_key_value_heads=2,
        vocab_size=128, rope_theta=5e5, max_position_embeddings=64,
    )  # fmt: skip
    torch.manual_seed(0)
    return transformers.LlamaForCausalLM(config).eval()


def small_decoder():
    return MODELS.get("pydoc_gpt").load()


def logits(answer):
    return (answer if isinstance(answer, torch.Tensor) else answer.logits).detach().numpy()


@pytest.mark.parametrize("make", [llama, small_decoder])
def test_mlx_lm_answers_as_torch(make, tmp_path):
    """Query, key and value apart, the rotation by halves, the tied head: each would show."""
    network, ids = make(), np.random.default_rng(0).integers(0, 128, (1, 12))

    _mlx_lm.save_for_mlx_lm(network, FP32, tmp_path)
    model, _ = pytest.importorskip("mlx_lm.utils").load_model(tmp_path)

    assert fidelity.sqnr_db(logits(network(torch.from_numpy(ids))), np.array(model(mx.array(ids)))) > 100


@pytest.mark.parametrize("scheme", [INT8, INT4, Scheme(6, granularity=PerGroup(64)), Scheme(4, "nvfp4", PerGroup(16))])
def test_mlx_lm_quantizes_what_the_group_divides(scheme, tmp_path):
    report = _mlx_lm.save_for_mlx_lm(llama(), scheme, tmp_path)
    model, config = pytest.importorskip("mlx_lm.utils").load_model(tmp_path)

    assert len(report) == 2 * 7 + 2  # seven matrices a layer, embedding and head
    left = [layer for layer in report if layer.bits > scheme.bits]
    assert len(left) == (2 if scheme.granularity == PerGroup(64) else 0)  # 96 inputs of down_proj
    assert all("96 inputs" in layer.reason for layer in left)
    assert config["quantization"]["bits"] == scheme.bits
    ids = np.arange(12)[None]
    got = np.array(model(mx.array(ids)).astype(mx.float32))
    assert fidelity.sqnr_db(logits(llama()(torch.from_numpy(ids))), got) > 10


def test_mlx_lm_refuses_other_networks(tmp_path):
    with pytest.raises(Unsupported, match=r"no decoder that mlx-lm knows: it has layer '0\.weight'"):
        _mlx_lm.save_for_mlx_lm(perceptron(), INT8, tmp_path)
    assert not list(tmp_path.iterdir())

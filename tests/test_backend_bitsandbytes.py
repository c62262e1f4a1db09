"""The bitsandbytes backend: what is stored, that it means what the papers say, and that the artifact stands alone.

Tracing a network takes about a second, so each artifact is built once and looked at by several tests.
"""

import json
import os
import statistics
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from quantkit.backends import bitsandbytes as backend
from quantkit.contracts import ModelInfo, Plan, Prepared, Quality
from quantkit.errors import CorruptFile, Unsupported
from quantkit.numerics.fidelity import sqnr_db
from quantkit.records import Case
from quantkit.scheme import PerChannel, PerChannelGroup, PerGroup, PerTensor, Scheme

pytest.importorskip("bitsandbytes")

FP32, BF16 = Scheme(32, "fp32"), Scheme(16, "bf16")
INT8 = Scheme(8, activations="dynamic")
NF4, FP4 = Scheme(4, "nf4", PerGroup(64)), Scheme(4, "fp4", PerGroup(64))
DOUBLE = Scheme(4, "nf4", PerGroup(64), double=True)
EXAMPLE = np.random.default_rng(0).standard_normal((1, 2, 3, 64), dtype=np.float32)
GRAPH, WEIGHTS = "graph.pt2", "weights.safetensors"


def network(seed=0):
    """Return three Linear layers over four axes, [n, 2, 3, 64] -> [n, 2, 3, 10]; 10 is no width for 4 bits."""
    import torch
    from torch import nn

    class Tiny(nn.Module):
        """64 -> 512 -> 256 -> 10; the middle one has no bias."""

        def __init__(self):
            super().__init__()
            self.wide, self.deep = nn.Linear(64, 512), nn.Linear(512, 256, bias=False)
            self.head = nn.Linear(256, 10)

        def forward(self, x):
            return self.head(torch.relu(self.deep(torch.relu(self.wide(x)))))

    torch.manual_seed(seed)
    return Tiny().eval()


def answer(net, x=EXAMPLE):
    import torch

    with torch.inference_mode():
        return net(torch.from_numpy(x)).numpy()


def make(folder, net, scheme, layers=None, example=EXAMPLE):
    folder.mkdir(exist_ok=True)
    return backend.plugin.build(Prepared(net, Plan(scheme, layers or {}), (example,)), folder, 1)


def run(folder, x=EXAMPLE):
    session = backend.plugin.open(folder, None, 1)
    output = session.fetch(session.run(session.feed((x,))))
    session.close()
    return output


def tensors(folder):
    """Return the stored tensors of the quantized layers, by name."""
    from safetensors.numpy import load_file

    return load_file(folder / WEIGHTS)


def details(stored, layer):
    """Return what bitsandbytes packs as JSON: block size, shape, the offset of double quantization."""
    (key,) = [k for k in stored if k.startswith(f"{layer}.weight.quant_state.bitsandbytes__")]
    return json.loads(stored[key].tobytes())


def dequantized(stored, layer):
    """Return codes x scales in NumPy: the high half of a byte first; with double quantization scales are codes too."""
    packed, facts = stored[f"{layer}.weight"].ravel(), details(stored, layer)
    codes = np.stack([packed >> 4, packed & 15], 1).ravel()
    scales = stored[f"{layer}.weight.absmax"]
    if f"{layer}.weight.nested_absmax" in stored:
        coarse = np.repeat(stored[f"{layer}.weight.nested_absmax"], 256)[: scales.size]
        scales = stored[f"{layer}.weight.nested_quant_map"][scales] * coarse + np.float32(facts["nested_offset"])
    values = stored[f"{layer}.weight.quant_map"][codes].reshape(-1, facts["blocksize"])
    return (values * scales[:, None]).reshape(facts["shape"])


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Return a function that builds the network by a scheme once: (folder, report)."""
    done = {}

    def get(scheme, **layers):
        key = (scheme, tuple(layers.items()))
        if key not in done:
            folder = tmp_path_factory.mktemp("artifact")
            done[key] = folder, make(folder, network(), scheme, layers)
        return done[key]

    return get


def bits(report):
    return {layer.name: layer.bits for layer in report.layers}


def info(family="transformer", layers=("embedding", "linear")):
    quality = Quality("top1_accuracy", "binary")
    return ModelInfo("m", "m", family, "vision", "d", quality, (), "Apache-2.0", "made here", layers)


def refused(scheme, **model):
    return backend.plugin.unsupported(Case("m", "x", "bitsandbytes", "cpu"), info(**model), scheme)


def test_full_precision_computes_what_the_network_computes(built):
    """The same operations in the same order: equal to the last bit."""
    folder, report = built(FP32)
    np.testing.assert_array_equal(run(folder), answer(network()))
    assert report.format == "fp32" and set(bits(report).values()) == {32}
    assert not (folder / WEIGHTS).exists()


def test_half_keeps_the_face_of_full_precision(built):
    """bfloat16 has 8 significant bits: errors of 2^-9 per operation are far above 30 dB. Output is float32."""
    folder, report = built(BF16)
    assert run(folder).dtype == np.float32
    assert sqnr_db(answer(network()), run(folder)) > 30
    assert report.format == "bf16" and set(bits(report).values()) == {16}


@pytest.mark.parametrize("scheme", [INT8, NF4, FP4, DOUBLE], ids=lambda s: s.name)
def test_linear_layers_take_the_scheme_and_keep_their_names(built, scheme):
    _, report = built(scheme)
    head = 8 if scheme is INT8 else 32
    assert bits(report) == {"wide": scheme.bits, "deep": scheme.bits, "head": head}
    assert [layer.weights for layer in report.layers] == [64 * 512, 512 * 256, 256 * 10]
    reason = "bitsandbytes' 4-bit kernel needs inputs in multiples of 64 and outputs of 32: got [10, 256]"
    assert {x.reason for x in report.layers if x.reason} == (set() if scheme is INT8 else {reason})
    assert (report.inputs[0].shape, report.inputs[0].dtype) == ((1, 2, 3, 64), "float32")
    assert (report.outputs[0].shape, report.outputs[0].dtype) == ((1, 2, 3, 10), "float32")


def test_nf4_codes_are_quantiles_of_the_normal_distribution(built):
    """Dettmers et al. 2023: 8 quantiles from .9677 down to .5 (left out), 0, and 7 negative ones, the largest is 1."""
    quantile = statistics.NormalDist().inv_cdf
    above = [quantile(p) for p in np.linspace(0.9677083, 0.5, 9)[:-1]]
    below = [-quantile(p) for p in np.linspace(0.9677083, 0.5, 8)[:-1]]
    law = np.sort([*above, 0.0, *below]) / max(above)
    np.testing.assert_allclose(tensors(built(NF4)[0])["wide.weight.quant_map"], law, atol=1.2e-7)


def test_fp4_codes_are_two_binades_of_halves_and_a_small_one(built):
    """One mantissa bit: 1.0 and 1.5 times 2, 4, 8 over 12; below them 0 and 1/16 over 12; then the same negative."""
    positive = np.sort([0, 1 / 16, *(m * 2**e for m in (1.0, 1.5) for e in (1, 2, 3))]) / 12
    stored = tensors(built(FP4)[0])["wide.weight.quant_map"]
    np.testing.assert_allclose(np.sort(np.abs(stored)), np.sort([*positive, *positive]), atol=1e-7)
    np.testing.assert_allclose(np.sort(stored[:8]), positive, atol=1e-7)


@pytest.mark.parametrize("scheme", [NF4, FP4], ids=lambda s: s.name)
def test_each_weight_has_the_nearest_code(built, scheme):
    """No other code of the table would be closer to weight / largest of its block (ties and rounding aside).

    The library's thresholds are midpoints in float32 with 7 digits or fewer: 1e-3 of a scale.
    """
    stored = tensors(built(scheme)[0])
    for name in ("wide", "deep"):
        weight = network().get_submodule(name).weight.detach().numpy()
        scales = stored[f"{name}.weight.absmax"]
        np.testing.assert_array_equal(scales, np.abs(weight.reshape(-1, 64)).max(1))
        scaled = weight.reshape(-1, 64) / scales[:, None]
        best = np.abs(scaled[..., None] - stored[f"{name}.weight.quant_map"]).min(-1)
        got = np.abs(weight - dequantized(stored, name)).reshape(-1, 64) / scales[:, None]
        assert (got <= best + 1e-3).all()


@pytest.mark.parametrize("scheme", [NF4, FP4, DOUBLE], ids=lambda s: s.name)
def test_session_multiplies_the_stored_numbers(built, scheme):
    """The network with NumPy's dequantized weights gives the session's answer, but for bfloat16's 2^-9 per product."""
    import torch

    folder, _ = built(scheme)
    twin = network()
    with torch.no_grad():
        for name in ("wide", "deep"):
            twin.get_submodule(name).weight.copy_(torch.from_numpy(dequantized(tensors(folder), name)))
    assert sqnr_db(answer(twin), run(folder)) > 40


def test_own_dequantization_is_the_librarys(built):
    """Double quantization has fewer than 256 scales left over in its last block of `wide` and `deep` none."""
    import bitsandbytes
    import torch

    from quantkit.backends import _bitsandbytes_graph as graphs

    for scheme in (NF4, FP4, DOUBLE):
        folder, _ = built(scheme)
        _, layers = graphs.load(folder)
        for name, (outputs, inputs) in (("wide", (512, 64)), ("deep", (256, 512))):
            weight = graphs.bnb_layers.restored(layers[name], inputs, outputs).weight
            theirs = bitsandbytes.functional.dequantize_4bit(weight.data, weight.quant_state)
            np.testing.assert_allclose(theirs.to(torch.float32), dequantized(tensors(folder), name), rtol=1e-6)


def test_nf4_takes_exactly_four_and_a_half_bits(built):
    """Codes 4, scales 32 / 64; with double quantization 8 / 64 + 32 / (64 x 256); then tables and 77 bytes of JSON."""
    for scheme, law, nested in ((NF4, 4.5, 0), (DOUBLE, 4 + 8 / 64 + 32 / 64 / 256, 256 * 4)):
        folder, report = built(scheme)
        stored = tensors(folder)
        size = sum(stored[k].nbytes for k in stored if k.startswith("deep.") and "map" not in k and "state" not in k)
        assert 8 * size / (512 * 256) == law
        fixed = 16 * 4 + nested + len(json.dumps(details(stored, "deep")))
        assert sum(stored[k].nbytes for k in stored if k.startswith("deep.")) == size + fixed
        assert report.weight_bytes == sum(x.nbytes for x in stored.values()) + 4 * (256 * 10 + 10)


def test_double_quantization_costs_small_layers_more_than_it_saves(built):
    """`wide` has 512 scales: 3 bytes less each are 1,536, a table of 1,024 and JSON more; below 342 scales it loses."""
    sizes = {}
    for scheme in (NF4, DOUBLE):
        stored = tensors(built(scheme)[0])
        sizes[scheme] = sum(stored[k].nbytes for k in stored if k.startswith("wide.") and "state" not in k)
    assert sizes[NF4] - sizes[DOUBLE] == 512 * 3 - 2 * 4 - 1024
    assert any("24,000" in note for note in built(DOUBLE)[1].notes)


@pytest.mark.parametrize("scheme", [INT8, NF4, DOUBLE], ids=lambda s: s.name)
def test_graph_holds_no_second_copy_of_a_quantized_weight(built, scheme):
    """Its weights are those that stayed in float, to the byte; and it tells no path of the machine that made it."""
    folder, report = built(scheme)
    with zipfile.ZipFile(folder / GRAPH) as archive:
        sizes = [x.file_size for x in archive.infolist() if "/data/weights/weight_" in x.filename]
        text = b"".join(archive.read(x) for x in archive.infolist())
    assert sum(sizes) == (0 if scheme is INT8 else 4 * (256 * 10 + 10))
    assert sum(x.stat().st_size for x in folder.iterdir()) < report.weight_bytes + 64_000
    assert str(Path(__file__).parent).encode() not in text and str(Path(np.__file__).parents[1]).encode() not in text


def llm_int8(x, codes, scales, bias):
    """Return LLM.int8 of [rows, inputs] in NumPy (Dettmers et al. 2022): columns with a value of 6 or more in float."""
    columns = (np.abs(x) >= 6).any(0)
    plain = np.where(np.abs(x) >= 6, 0, x).astype(np.float16).astype(np.float32)
    row = np.abs(plain).max(1, keepdims=True)
    q = np.rint(plain * (np.float32(127) / np.where(row == 0, 1, row)))
    q[:, columns] = 0
    product = (q @ codes.T.astype(np.float32)) * row * scales / 127**2
    return product + x[:, columns] @ (codes[:, columns] * (scales / 127)[:, None]).T + bias


def test_llm_int8_is_the_papers_formula(tmp_path):
    """Rows with outliers in two columns, one row of zeros; 2e-5: the library's 6.200124e-05 stands for 1 / 127^2."""
    from torch import nn

    x = np.random.default_rng(3).standard_normal((1, 5, 64), dtype=np.float32)
    x[0, 1, 7], x[0, 2, 30], x[0, 3] = 20.0, -6.5, 0
    layer = nn.Sequential(nn.Linear(64, 48)).eval()
    weight, bias = (p.detach().numpy().copy() for p in layer.parameters())
    make(tmp_path, layer, INT8, example=x)
    stored = tensors(tmp_path)
    codes, scales = stored["0.weight"], stored["0.SCB"]

    law = llm_int8(x[0], codes, scales, bias)
    np.testing.assert_allclose(run(tmp_path, x)[0], law, atol=4e-5 * np.abs(law).max())
    assert np.abs(codes).max(1).tolist() == [127] * 48
    half_a_step = scales[:, None] / 127 * 0.5 + 2.0**-11 * np.abs(weight)  # weights pass through float16
    assert (np.abs(codes * scales[:, None] / 127 - weight) <= half_a_step * (1 + 1e-5)).all()


def test_outlier_columns_stay_in_float(tmp_path):
    """One input a thousand times larger takes all codes of its row unless it is left out: 20 log10(1000) = 60 dB."""
    import torch
    from torch import nn

    x = np.random.default_rng(4).standard_normal((1, 8, 64), dtype=np.float32)
    x[..., 5] = 1000.0
    layer = nn.Sequential(nn.Linear(64, 64, bias=False)).eval()
    with torch.no_grad():
        layer[0].weight[:, 5] = 0  # so that the answer depends on the small ones only
    law = answer(layer, x)
    report = make(tmp_path, layer, INT8, example=x)
    assert sqnr_db(law, run(tmp_path, x)) > 35
    assert any("6.0" in note for note in report.notes)


def test_more_bits_are_better(built):
    law = answer(network())
    eight, four = (sqnr_db(law, run(built(scheme)[0])) for scheme in (INT8, NF4))
    assert eight > 35 and 15 < four < eight - 10


def test_every_call_and_every_session_answers_alike(built):
    """The first call repacks codes on some processors: its answer is not another one."""
    for scheme in (INT8, DOUBLE):
        session = backend.plugin.open(built(scheme)[0], None, 1)
        fed = session.feed((EXAMPLE,))
        outputs = [session.fetch(session.run(fed)).copy() for _ in range(3)]
        np.testing.assert_array_equal(outputs[0], outputs[1])
        np.testing.assert_array_equal(outputs[0], outputs[2])
        np.testing.assert_array_equal(outputs[0], run(built(scheme)[0]))
        assert session.load_s > 0


def test_two_sessions_with_the_same_layer_names_do_not_meet(built, tmp_path):
    """Opened together and called in turn, each gives its own network's answer."""
    make(tmp_path, network(seed=1), NF4)
    alone = [run(built(NF4)[0]), run(tmp_path)]
    sessions = [backend.plugin.open(folder, None, 1) for folder in (built(NF4)[0], tmp_path)]
    for _ in range(2):
        for session, law in zip(sessions, alone, strict=True):
            np.testing.assert_array_equal(session.fetch(session.run(session.feed((EXAMPLE,)))), law)
    assert sqnr_db(*alone) < 10


def test_plan_overrides_single_layers(built):
    """`wide` stays in float because the plan says so (no reason needed), `deep` takes 8 bits in a 4-bit network."""
    folder, report = built(NF4, wide=None, head=INT8)
    assert bits(report) == {"wide": 32, "deep": 4, "head": 8}
    assert not any(layer.reason for layer in report.layers)
    assert sqnr_db(answer(network()), run(folder)) > 15


def test_opening_needs_no_class_no_transformers_and_starts_no_thread(built):
    """A fresh process opens and runs it in silence; importing the run modules leaves one thread, so forking is safe."""
    code = (
        "import importlib, os, sys, numpy as np; from pathlib import Path\n"
        "from quantkit.backends.bitsandbytes import plugin\n"
        "for name in plugin.run_modules + plugin.build_modules: importlib.import_module(name)\n"
        "tasks = '/proc/self/task'\n"
        "print(len(os.listdir(tasks)) if os.path.isdir(tasks) else 1)\n"
        "session = plugin.open(Path(sys.argv[1]), None, 1)\n"
        "fed = session.feed((np.ones((1, 2, 3, 64), np.float32),))\n"
        "print(session.fetch(session.run(fed)).shape)\n"
        "print([name for name in ('transformers', 'torchao', 'triton', 'quantkit.zoo') if name in sys.modules])"
    )
    command = [sys.executable, "-c", code, str(built(INT8)[0])]
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=True
    )
    assert done.stdout.split("\n")[:3] == ["1", "(1, 2, 3, 10)", "[]"]
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ((), r"takes 1 inputs \(x\): got 0"),
        ((EXAMPLE, EXAMPLE), r"takes 1 inputs \(x\): got 2"),
        ((EXAMPLE[:, :1],), r"input 'x': got float32 \[1, 1, 3, 64\], expected float32 \[1, 2, 3, 64\]"),
        ((EXAMPLE.astype(np.float64),), r"input 'x': got float64 \[1, 2, 3, 64\], expected float32"),
    ],
    ids=["none", "two", "shape", "dtype"],
)
def test_other_inputs_are_refused_in_one_line(built, inputs, message):
    session = backend.plugin.open(built(INT8)[0], None, 1)
    with pytest.raises(ValueError, match=message) as error:
        session.feed(inputs)
    assert "\n" not in str(error.value)


def copied(folder, target):
    for file in folder.iterdir():
        (target / file.name).write_bytes(file.read_bytes())
    return target


@pytest.mark.parametrize("name", [GRAPH, WEIGHTS])
@pytest.mark.parametrize("kept", [None, 0, 0.5, 0.99], ids=["missing", "empty", "half", "nearly"])
def test_damaged_files_are_told_apart_from_errors_of_ours(built, tmp_path, name, kept):
    file = copied(built(NF4)[0], tmp_path) / name
    data = file.read_bytes()
    file.unlink() if kept is None else file.write_bytes(data[: int(kept * len(data))])
    with pytest.raises(CorruptFile, match=r"build the case again") as error:
        backend.plugin.open(tmp_path, None, 1)
    assert name in str(error.value) and "\n" not in str(error.value)


def test_files_of_two_builds_are_not_mixed(built, tmp_path):
    """Layers that the graph does not know, or of another width, or whose facts were changed."""
    other = copied(built(NF4)[0], tmp_path)
    (other / WEIGHTS).write_bytes((built(INT8)[0] / WEIGHTS).read_bytes())
    with pytest.raises(CorruptFile, match=r"do not belong together \(layer 'head'\)"):
        backend.plugin.open(other, None, 1)

    data = (built(NF4)[0] / WEIGHTS).read_bytes()
    (other / WEIGHTS).write_bytes(
        data.replace(b'"shape": [512, 64]', b'"shape": [256, 64]').replace(b'"blocksize": 64', b'"blocksize": 32')
    )
    with pytest.raises(CorruptFile, match=r"does not fit graph.pt2 in layer '\w+'"):
        backend.plugin.open(other, None, 1)


@pytest.mark.parametrize(
    ("scheme", "reason"),
    [
        (Scheme(8, activations="static"), "8 bits with dynamic activations"),
        (Scheme(8), "8 bits with dynamic activations"),
        (Scheme(4, granularity=PerGroup(64)), "not w4a16g64"),
        (Scheme(4, activations="dynamic"), "not w4a8-dynamic"),
        (Scheme(4, "lut", PerTensor()), "not lut4"),
        (Scheme(4, "mxfp4", PerGroup(32)), "not mxfp4"),
        (Scheme(8, "mxfp8", PerGroup(32)), "not mxfp8"),
        (Scheme(8, granularity=PerTensor(), activations="dynamic"), "one float scale per output channel"),
        (Scheme(8, granularity=PerChannel(1), activations="dynamic"), "one float scale per output channel"),
        (Scheme(8, activations="dynamic", symmetric=False), "symmetric codes"),
        (Scheme(8, activations="dynamic", double=True), "one float scale"),
        (Scheme(8, activations="dynamic", activation_bits=16), "rounds dense weights"),
        (Scheme(8, activations="dynamic", sparsity=0.5), "rounds dense weights"),
        (Scheme(8, activations="dynamic", codes="gptq"), "rounds dense weights"),
        (Scheme(8, activations="dynamic", ranges="entropy"), "rounds dense weights"),
        (Scheme(4, "nf4", PerGroup(48)), "blocks of 32 to 4096"),
        (Scheme(4, "nf4", PerGroup(64, axis=1)), "blocks of 32 to 4096"),
        (Scheme(4, "nf4", PerChannel()), "blocks of 32 to 4096"),
        (Scheme(4, "nf4", PerChannelGroup(4)), "blocks of 32 to 4096"),
        (Scheme(4, "fp4", PerGroup(64), activations="dynamic"), "keep activations in float"),
    ],
    ids=lambda x: x.name if isinstance(x, Scheme) else "",
)
def test_schemes_without_a_form_are_refused(scheme, reason):
    assert reason in refused(scheme)


def test_models_that_would_stay_in_float_are_refused():
    assert refused(INT8, family="cnn", layers=("conv2d", "linear")).endswith("nearly all weights, would stay in float")
    assert "the LSTM" in refused(NF4, family="rnn", layers=("lstm", "linear"))
    assert refused(NF4, layers=("embedding",)) == "bitsandbytes quantizes Linear layers only: got embedding"
    for scheme in (INT8, NF4, DOUBLE, FP4, FP32, BF16, Scheme(4, "nf4", PerGroup(128))):
        assert refused(scheme) is None
    assert refused(FP32, family="cnn", layers=("conv2d",)) is None


def test_what_cannot_be_built_is_named_and_leaves_nothing(tmp_path):
    import torch
    from torch import nn

    class Gate(nn.Module):
        """Looks at a value to decide."""

        def __init__(self):
            super().__init__()
            self.wide = nn.Linear(64, 64)

        def forward(self, x):
            return self.wide(x) if x.sum() > 0 else x

    broken = network()
    with torch.no_grad():
        broken.wide.weight[3, 5] = torch.nan
    narrow = nn.Sequential(nn.Linear(64, 10), nn.Linear(10, 64)).eval()
    cases = [
        (Gate().eval(), NF4, {}, r"torch.export cannot trace Gate"),
        (broken, NF4, {}, "layer 'wide' holds weights that are nan or infinite"),
        (broken, INT8, {}, "layer 'wide' holds weights that are nan or infinite"),
        (narrow, NF4, {}, r"only 0 of 1280 weights would be nf4: Linear '0' stays float \(bitsandbytes' 4-bit kernel"),
        (network(), NF4, {"haed": None}, "names layers that hold no weights here: haed"),
        (network(), NF4, {"deep": Scheme(8)}, "layer 'deep': bitsandbytes has nf4"),
        (network(), NF4, {"deep": BF16}, "layer 'deep': one layer in bf16 is not done"),
    ]
    for net, scheme, layers, message in cases:
        with pytest.raises(Unsupported, match=message):
            make(tmp_path, net, scheme, layers)
        assert not list(tmp_path.iterdir())


def test_weights_beyond_float16_stay_in_float(tmp_path):
    """LLM.int8 would make them infinite; NF4 takes them."""
    import torch

    net = network()
    with torch.no_grad():
        net.wide.weight[0, 0] = 1e5
    report = make(tmp_path, net, INT8)
    assert bits(report) == {"wide": 32, "deep": 8, "head": 8}
    assert report.layers[0].reason == "LLM.int8 reads weights through float16: the largest is 1e+05"


def test_shared_and_inner_layers_stay_in_float_with_the_reason(tmp_path):
    """A tied projection would be stored twice; attention looks into its projection; an idle layer is left out."""
    import torch
    from torch import nn

    class Reader(nn.Module):
        """Token ids [n, 4] -> scores [n, 4, 96]."""

        def __init__(self):
            super().__init__()
            self.embed, self.head = nn.Embedding(96, 64), nn.Linear(64, 96, bias=False)
            self.head.weight = self.embed.weight
            self.attention = nn.MultiheadAttention(64, 2, batch_first=True)
            self.up, self.idle = nn.Linear(64, 64), nn.Linear(64, 64)

        def forward(self, ids):
            x = self.embed(ids)
            x = x + self.up(self.attention(x, x, x, need_weights=False)[0])
            return self.head(x)

    torch.manual_seed(0)
    net, ids = Reader().eval(), np.array([[1, 5, 9, 2]])
    law = answer(net, ids)
    report = make(tmp_path, net, NF4, example=ids)
    found = {layer.name: (layer.weights, layer.bits, layer.reason) for layer in report.layers}
    assert found["embed"] == (96 * 64, 32, "bitsandbytes quantizes nn.Linear only")
    assert found["head"] == (0, 32, "shares its weight with embed, which codes would store a second time")
    assert found["attention.out_proj"] == (64 * 64, 32, "bitsandbytes quantizes nn.Linear only")
    assert found["up"][1] == 4 and "idle" not in found
    assert "never called by the network, so not stored: idle" in report.notes
    assert not any(key.startswith("idle") for key in tensors(tmp_path))
    assert sqnr_db(law, run(tmp_path, ids)) > 20
    with zipfile.ZipFile(tmp_path / GRAPH) as archive:
        assert sum(x.file_size == 96 * 64 * 4 for x in archive.infolist()) == 1


def test_one_layer_called_twice_is_stored_once(tmp_path):
    """The answer is that of the layer applied twice: NF4's error of about 20 dB, not another layer."""
    from torch import nn

    class Twice(nn.Module):
        """Applies one layer two times."""

        def __init__(self):
            super().__init__()
            self.turn = nn.Linear(64, 64)

        def forward(self, x):
            return self.turn(self.turn(x))

    net = Twice().eval()
    law = answer(net)
    report = make(tmp_path, net, NF4)
    assert len(report.layers) == 1
    assert sqnr_db(law, run(tmp_path)) > 15

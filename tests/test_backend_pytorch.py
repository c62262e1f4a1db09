"""The PyTorch backend: what is really inside the package, and that it computes what the network computes.

An AOTInductor build takes seconds, so each artifact is built once per module and looked at by several tests.
"""

import copy
import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from quantkit.backends import pytorch as backend
from quantkit.contracts import ModelInfo, Plan, Prepared, Quality, Split
from quantkit.errors import CalibrationError, HardwareCompatibilityError, Unsupported
from quantkit.numerics.ranges import Observer
from quantkit.records import Case
from quantkit.scheme import PerChannel, PerGroup, PerTensor, Scheme

FP32 = Scheme(32, "fp32")
BF16 = Scheme(16, "bf16")
STATIC = Scheme(8, activations="static")
STATIC_PER_TENSOR = Scheme(8, granularity=PerTensor(), activations="static")
DYNAMIC = Scheme(8, activations="dynamic")
WEIGHTS8 = Scheme(8)
WEIGHTS4 = Scheme(4, granularity=PerGroup(32))
EXAMPLE = np.random.default_rng(0).random((1, 8, 8, 3), dtype=np.float32)
CALIBRATION = Split((np.random.default_rng(1).random((8, 8, 8, 3), dtype=np.float32),), np.zeros(8), tuple("abcdefgh"))


def network():
    """Return a convolution and three Linear layers, one with rows that differ 1000-fold."""
    import torch
    from torch import nn

    class Tiny(nn.Module):
        """[n, 8, 8, 3] -> [n, 10]."""

        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 16, 3, bias=False)
            self.norm = nn.BatchNorm2d(16)
            self.wide = nn.Linear(16 * 36, 64)
            self.narrow = nn.Linear(64, 64)
            self.register_buffer("gain", torch.ones(64))
            self.head = nn.Linear(64, 10)

        def forward(self, x):
            x = torch.relu(self.norm(self.conv(x.permute(0, 3, 1, 2))))
            x = torch.relu(self.wide(x.flatten(1)))
            return self.head(torch.relu(self.narrow(x)) * self.gain)

    torch.manual_seed(0)
    tiny = Tiny().eval()
    with torch.no_grad():
        tiny.narrow.weight[:32] *= 0.001
        tiny.narrow.bias.zero_()
        tiny.gain[:32] = 1000
    return tiny


def expected():
    import torch

    with torch.no_grad():
        return network()(torch.from_numpy(EXAMPLE)).numpy()


def sqnr_db(reference, got):
    return 10 * np.log10((reference**2).sum() / ((reference - got) ** 2).sum())


@dataclasses.dataclass
class Built:
    """One artifact with its report and output."""

    folder: Path
    report: object
    output: np.ndarray

    @property
    def bits(self):
        return {layer.name: layer.bits for layer in self.report.layers}

    @property
    def reasons(self):
        return {layer.name: layer.reason for layer in self.report.layers if layer.reason}

    @property
    def size_bytes(self):
        return sum(path.stat().st_size for path in self.folder.iterdir())


def run(folder):
    session = backend.plugin.open(folder, None, 1)
    output = session.fetch(session.run(session.feed((EXAMPLE,))))
    session.close()
    return output


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Return a function that builds the tiny network by a scheme, once."""
    done = {}

    def get(scheme, **layers):
        key = (scheme, tuple(layers.items()))
        if key not in done:
            folder = tmp_path_factory.mktemp("artifact")
            calibration = CALIBRATION if scheme.activations == "static" else None
            prepared = Prepared(network(), Plan(scheme, layers), (EXAMPLE,), calibration)
            report = backend.plugin.build(prepared, folder, 1)
            done[key] = Built(folder, report, run(folder))
        return done[key]

    return get


def info(family="transformer", layers=("conv2d", "linear")):
    quality = Quality("top1_accuracy", "binary")
    return ModelInfo("m", "m", family, "vision", "d", quality, (), "Apache-2.0", "made here", layers)


def refused(scheme, **model):
    return backend.plugin.unsupported(Case("m", "x", "pytorch", "cpu"), info(**model), scheme)


def test_full_precision_package_computes_what_the_network_computes(built):
    """Only the order of float32 additions may differ."""
    np.testing.assert_allclose(built(FP32).output, expected(), rtol=1e-4, atol=1e-5)
    assert set(built(FP32).bits.values()) == {32}
    assert built(FP32).report.format == "fp32"


def test_half_keeps_the_face_of_full_precision(built):
    """bfloat16 has 8 significant bits: errors of 2^-9 per operation are far above 30 dB. Output is float32."""
    assert built(BF16).output.dtype == np.float32
    assert sqnr_db(expected(), built(BF16).output) > 30
    assert set(built(BF16).bits.values()) == {16}
    assert built(BF16).report.format == "bf16" and not built(BF16).reasons


def test_static_int8_is_int8_throughout_and_smaller_than_full_precision(built):
    assert set(built(STATIC).bits.values()) == {8}
    assert sqnr_db(expected(), built(STATIC).output) > 25
    assert built(STATIC).report.weight_bytes < built(FP32).report.weight_bytes / 2
    assert built(STATIC).size_bytes < built(FP32).size_bytes


def test_static_int8_calls_int8_kernels(built):
    """Weights that are stored as int8 and computed in float would be a lie that sizes do not show."""
    for scheme in (STATIC, STATIC_PER_TENSOR):
        (kernels,) = [note for note in built(scheme).report.notes if note.startswith("library kernels: ")]
        assert "qconv_pointwise" in kernels and "qlinear_pointwise" in kernels
        assert "mkldnn__convolution" not in kernels


def test_a_scale_for_each_channel_beats_one_scale_where_channels_differ(built):
    """Half of a layer's rows are 1000 times smaller and count 1000 times more afterwards: one scale loses them."""
    assert sqnr_db(expected(), built(STATIC).output) > sqnr_db(expected(), built(STATIC_PER_TENSOR).output) + 10


def test_dynamic_int8_takes_linear_layers_but_for_what_the_plan_keeps(built):
    """The convolution stays in float with a reason; the head without one, because the plan asked for it."""
    kept = built(DYNAMIC, head=None)
    assert kept.bits == {"conv": 32, "wide": 8, "narrow": 8, "head": 32}
    assert kept.reasons == {"conv": "torchao's w8a8-dynamic takes Linear only"}
    assert sqnr_db(expected(), kept.output) > 25


def test_weight_only_int8_is_not_folded_back(built):
    assert built(WEIGHTS8).bits == {"conv": 32, "wide": 8, "narrow": 8, "head": 8}
    assert sqnr_db(expected(), built(WEIGHTS8).output) > 30
    assert built(WEIGHTS8).report.weight_bytes < built(FP32).report.weight_bytes / 2


def test_int4_stores_two_codes_in_a_byte(built):
    """64 x 576 and 64 x 64 weights are 20,480 bytes in 4 bits; 10 outputs are no multiple of the kernel's 16."""
    four = built(WEIGHTS4)
    assert four.bits == {"conv": 16, "wide": 4, "narrow": 4, "head": 16}
    assert four.reasons["head"] == ("torch's kernel needs inputs in multiples of 32 and outputs of 16: got [10, 64]")
    assert 20_480 < four.report.weight_bytes < built(WEIGHTS8).report.weight_bytes


def test_eight_bits_beat_four(built):
    assert sqnr_db(expected(), built(WEIGHTS8).output) > sqnr_db(expected(), built(WEIGHTS4).output) + 10 > 20


def test_report_reads_the_artifact(built):
    """Read back from the files alone: the same bytes, and no float copy of a quantized weight."""
    from quantkit.backends import _pytorch_package as packages

    stored = packages.constants(packages.wrapper(built(STATIC).folder / backend.PACKAGE))
    assert sum(c.size_bytes for c in stored) == built(STATIC).report.weight_bytes
    assert not [c for c in stored if c.dtype == "float32" and len(c.shape) > 1]


def test_artifact_folder_holds_nothing_else(built):
    assert sorted(path.name for path in built(FP32).folder.iterdir()) == ["model.json", "model.pt2"]
    assert built(FP32).report.compile_s > 0


def test_opening_needs_no_compiler_and_no_torchao(built):
    """A fresh process with an empty PATH opens and runs the package, and has imported neither torchao nor inductor."""
    code = (
        "import sys, numpy as np; from pathlib import Path; from quantkit.backends.pytorch import plugin\n"
        "session = plugin.open(Path(sys.argv[1]), None, 1)\n"
        "fed = session.feed((np.ones((1, 8, 8, 3), np.float32),))\n"
        "print(session.fetch(session.run(fed)).shape, session.compile_s)\n"
        "print([name for name in ('torchao', 'torch._inductor', 'torch._dynamo') if name in sys.modules])"
    )
    command = [sys.executable, "-c", code, str(built(STATIC).folder)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PATH": ""}, check=True)
    assert done.stdout.split("\n")[:2] == ["(1, 10) 0.0", "[]"]
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("inputs", "got"),
    [
        ((EXAMPLE.repeat(2, 0),), "float32 [2, 8, 8, 3]"),
        ((EXAMPLE.astype(np.float64),), "float64 [1, 8, 8, 3]"),
        ((EXAMPLE, EXAMPLE), "float32 [1, 8, 8, 3], float32 [1, 8, 8, 3]"),
        ((), "nothing"),
    ],
    ids=["batch", "dtype", "two", "none"],
)
def test_other_inputs_are_refused_in_one_line(built, inputs, got):
    session = backend.plugin.open(built(FP32).folder, None, 1)
    with pytest.raises(ValueError) as error:
        session.feed(inputs)
    assert str(error.value) == f"inputs must be as compiled: got {got}, expected float32 [1, 8, 8, 3]"


def test_what_is_fed_is_a_copy(built):
    """Changing the array afterwards changes nothing that was fed."""
    session = backend.plugin.open(built(FP32).folder, None, 1)
    mine = EXAMPLE.copy()
    fed = session.feed((mine,))
    mine[:] = 0
    np.testing.assert_array_equal(session.fetch(session.run(fed)), built(FP32).output)


def test_another_thread_count_is_refused(built):
    with pytest.raises(ValueError, match="is compiled for 1 threads: got 2; build it again"):
        backend.plugin.open(built(FP32).folder, None, 2)


def test_another_machine_is_refused(built, monkeypatch):
    monkeypatch.setattr(backend, "machine", lambda: "Linux-x86_64-AVX2")
    with pytest.raises(HardwareCompatibilityError, match="this machine is Linux-x86_64-AVX2; build it here"):
        backend.plugin.open(built(FP32).folder, None, 1)


def test_control_flow_on_data_is_refused_with_its_place(tmp_path):
    from torch import nn

    class Gate(nn.Module):
        """Looks at a value to decide."""

        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(3, 3)

        def forward(self, x):
            return self.linear(x) if x.sum() > 0 else x

    with pytest.raises(
        Unsupported, match=r"torch.export cannot trace Gate \(test_backend_pytorch.py:\d+\): .*"
    ) as error:
        backend.plugin.build(Prepared(Gate().eval(), Plan(FP32), (EXAMPLE,)), tmp_path, 1)
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


def test_next_to_nothing_quantized_is_refused_before_compiling(tmp_path):
    """An LSTM of 4 x 32 x (3 + 32) weights and a Linear of 32 x 2: 64 of 4,544 weights are 1.4 %."""
    from torch import nn

    class Reader(nn.Module):
        """LSTM and Linear."""

        def __init__(self):
            super().__init__()
            self.lstm, self.head = nn.LSTM(3, 32, batch_first=True), nn.Linear(32, 2)

        def forward(self, x):
            return self.head(self.lstm(x[:, 0])[0][:, -1])

    with pytest.raises(Unsupported) as error:
        backend.plugin.build(Prepared(Reader().eval(), Plan(DYNAMIC), (EXAMPLE,)), tmp_path, 1)
    assert str(error.value) == (
        "only 1.4% of the weights would be quantized to w8a8-dynamic: "
        "LSTM 'lstm' stays in float (torchao's w8a8-dynamic takes Linear only)"
    )


def calibrated_scale(ranges, values):
    """Return the scale that torchao gives the input of one Linear, calibrated with items [n, 16]."""
    import torch

    from quantkit.backends import _pytorch_package as packages
    from quantkit.backends import _pytorch_quantize as quantize

    split = Split((values,), np.zeros(len(values)), tuple(map(str, range(len(values)))))
    plan = Plan(dataclasses.replace(STATIC, ranges=ranges))
    prepared = Prepared(torch.nn.Sequential(torch.nn.Linear(16, 8)).eval(), plan, (values[:1],), split)
    decisions = quantize.decide(prepared.network, packages.layers_of(prepared.network), plan)
    with torch.no_grad():
        graph, _ = quantize.apply(prepared, (torch.from_numpy(values[:1]),), decisions)
    (node, *_) = [n for n in graph.graph.nodes if "quantize_per_tensor" in str(n.target)]
    steps = 127 if quantize.reduced_range() else 255
    return node.args[1] * steps


def test_each_way_to_take_ranges_is_its_own():
    """Items of largest value 1 to 8 and -1: extremes span 9; the average moves by 0.01 of the way to each next."""
    values = np.random.default_rng(0).uniform(-0.9, 0.9, (8, 16)).astype(np.float32)
    values[:, 0], values[:, 1] = np.arange(1, 9), -1
    largest = 1.0
    for value in range(2, 9):
        largest += 0.01 * (value - largest)

    assert calibrated_scale("minmax", values) == pytest.approx(9, rel=1e-5)
    assert calibrated_scale("moving_average", values) == pytest.approx(largest + 1, rel=1e-5)


def test_least_squared_error_clips_what_extremes_keep():
    """Of a Laplace law: torchao's search comes within a tenth of the best range, inside the extremes."""
    values = np.random.default_rng(0).laplace(size=(4_000, 16)).astype(np.float32)
    observer = Observer("mse", 8)
    observer.observe(values)

    scale = calibrated_scale("mse", values)

    assert scale == pytest.approx(np.ptp(observer.range()), rel=0.1)
    assert scale < 0.95 * calibrated_scale("minmax", values)


@pytest.mark.parametrize(
    ("calibration", "message"),
    [
        (None, "needs calibration items: got none"),
        (Split((EXAMPLE * np.nan,), np.zeros(1), ("a",)), "must be finite"),
        (Split((EXAMPLE[:, :4],), np.zeros(1), ("a",)), r"got float32 \[4, 8, 3\], expected float32 \[8, 8, 3\]"),
    ],
    ids=["none", "nan", "shape"],
)
def test_calibration_is_checked(tmp_path, calibration, message):
    with pytest.raises(CalibrationError, match=message):
        backend.plugin.build(Prepared(network(), Plan(STATIC), (EXAMPLE,), calibration), tmp_path, 1)


def test_plan_with_unknown_layer_or_mixed_activations_is_refused(tmp_path):
    for layers, message in (({"haed": None}, "no weights here: haed"), ({"head": WEIGHTS8}, "cannot mix static")):
        prepared = Prepared(copy.deepcopy(network()), Plan(STATIC, layers), (EXAMPLE,), CALIBRATION)
        with pytest.raises(Unsupported, match=message):
            backend.plugin.build(prepared, tmp_path, 1)


def test_refusals_before_anything_runs():
    assert refused(FP32, family="rnn", layers=("lstm", "linear")) is None
    assert refused(BF16, family="cnn") is None
    assert refused(STATIC, family="cnn") is None
    assert refused(WEIGHTS4) is None
    assert refused(Scheme(8, activations="static", ranges="mse")) is None
    assert "none for entropy ranges" in refused(Scheme(8, activations="static", ranges="entropy"))
    assert "LSTM" in refused(DYNAMIC, family="rnn", layers=("lstm", "linear"))
    assert "the convolutions, nearly all weights" in refused(WEIGHTS8, family="cnn")
    assert refused(STATIC, layers=("embedding",)) == "torchao's w8a8 takes conv2d, linear only: got embedding"
    assert "groups of 32, 64 or 128" in refused(Scheme(4, granularity=PerGroup(16)))
    assert "per tensor or per channel" in refused(Scheme(8, granularity=PerChannel(1), activations="static"))
    assert refused(Scheme(2)) == "torchao has no packed CPU kernel for w2a16"


def test_without_a_compiler_the_plan_says_so(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert refused(FP32) == (
        "AOTInductor needs a C++ compiler: no no-such-compiler on the PATH (install one or set CXX)"
    )


def test_importing_the_plugin_imports_nothing_heavy():
    code = (
        "import sys, quantkit.backends.pytorch; print([m for m in ('torch', 'torchao', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

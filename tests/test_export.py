"""`quantkit export`: what is written is what was proved, and what cannot be done is one line and leaves nothing."""

import json
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from quantkit import cli
from quantkit.catalog import METHODS
from quantkit.contracts import BuildReport, LayerReport, ModelInfo, Quality
from quantkit.deploy import command, export, inside, manifest, source
from quantkit.deploy.request import Shape, Subject, backend_of
from quantkit.errors import (
    CalibrationError,
    CorruptFile,
    InvalidSetting,
    QuantizationError,
    StorageError,
    UnknownName,
    Unsupported,
)
from quantkit.pipeline.settings import Settings

MODULE = """
import numpy as np
import torch
from torch import nn


def plane():
    torch.manual_seed(0)
    return nn.Linear(16, 2, bias=False)


def mlp():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 3))


def raising():
    raise KeyError("no such weights")


def text():
    return "not a network"


def double():
    return plane().double()


def holed():
    network = plane()
    network.weight.data[1, 3] = float("nan")
    return network


class Pair(nn.Module):
    def forward(self, x):
        return x, x


class Airy(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, x):
        return torch.special.airy_ai(self.layer(x))


def inputs():
    return torch.linspace(-1, 1, 16).reshape(1, 16)


def words():
    return "text", None
"""
# Methods that change the network in a way whose effect on the outputs is known by hand.
METHOD = """
from quantkit.contracts import Plan, Prepared
from quantkit.scheme import Scheme


class Scaled:
    name, title, baseline, needs_calibration, profiles = "{name}", "times {factor}", False, False, ()
    scheme = Scheme(32, "fp32")

    def unsupported(self, model):
        return None

    def prepare(self, network, example, calibration):
        network.weight.data *= {factor}
        return Prepared(network, Plan(self.scheme), example, calibration)


plugin = Scaled()
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A folder of a user: a module, and two methods of their own."""
    folder = tmp_path_factory.mktemp("project")
    (folder / "my_net.py").write_text(MODULE)
    (folder / "plugins" / "methods").mkdir(parents=True)
    for name, factor in (("negated", "-1.0"), ("lost", "float('nan')")):
        (folder / "plugins" / "methods" / f"{name}.py").write_text(METHOD.format(name=name, factor=factor))
    return folder


@pytest.fixture
def here(project, plugins, home, monkeypatch):
    """The user's folder as working directory, with the quick test toolchain `grid`."""
    from quantkit import catalog
    from tests.conftest import PLUGINS

    monkeypatch.setenv(catalog.VARIABLE, f"{PLUGINS}:{project / 'plugins'}")
    monkeypatch.chdir(project)
    monkeypatch.syspath_prepend(str(project))
    return project


@pytest.fixture
def quick(here, monkeypatch):
    """The same, every step in this process: a new one would import torch again each time."""

    def direct(modules, function, *arguments, settings):
        return getattr(inside, function)(*arguments)

    monkeypatch.setattr(export, "isolated", direct)
    return here


def run(*words):
    return cli.main(["export", *map(str, words)])


def plane(out, *words, method="int8_weight_only"):
    return run("my_net:plane", "--input", "1x16", "--method", method, "--format", "grid", "--out", out, *words)


def left_in(folder):
    return sorted(path.name for path in folder.iterdir())


# What is written.


def test_the_figures_are_those_of_the_artifact_that_lies_there(quick, tmp_path, capsys):
    """SQNR recomputed from the artifact's own file: 10 log10(sum ref² / sum (ref - out)²) on the golden input."""
    import my_net

    assert plane(tmp_path / "out") == 0

    facts = manifest.check(tmp_path / "out")
    golden = np.load(tmp_path / "out" / "golden" / "golden.npz")
    (call,) = golden["input0"]
    reference = call @ my_net.plane().weight.detach().numpy().T
    output = call @ np.load(tmp_path / "out" / "artifact" / "weights.npy").T
    sqnr_db = 10 * np.log10((reference**2).sum() / ((reference - output) ** 2).sum())
    assert facts["fidelity"]["sqnr_db"]["value"] == pytest.approx(sqnr_db, abs=0.01)
    np.testing.assert_allclose(golden["output0"][0], output, rtol=1e-6)
    said = capsys.readouterr().out
    assert (
        f"{sqnr_db:.1f} dB against the original, 1 item" in said and "NumPy" in said and str(tmp_path / "out") in said
    )


def test_the_manifest_has_what_a_user_of_the_artifact_needs(quick, tmp_path):
    plane(tmp_path / "out")

    facts = json.loads((tmp_path / "out" / "manifest.json").read_text())

    assert facts["schema_version"] == 1
    assert facts["model"]["name"] == "my_net:plane" and facts["model"]["licence"] == "not stated"
    assert (facts["method"], facts["scheme"], facts["backend"]["name"]) == ("int8_weight_only", "w8a16", "grid")
    assert facts["executor"] == "NumPy" and facts["versions"]["numpy"] == np.__version__
    assert facts["inputs"] == [{"name": "x0", "shape": [1, 16], "dtype": "float32"}]
    assert facts["outputs"] == [{"name": "y0", "shape": [1, 2], "dtype": "float32"}]
    assert facts["coverage"]["weights"] == 32 and facts["coverage"]["quantized_share"] == 1.0
    assert facts["coverage"]["bits_per_weight"] == 8.0 and facts["coverage"]["left_in_float"] == []
    assert set(facts["files"]) >= {"artifact/weights.npy", "golden/golden.npz", "golden/input0.bin"}
    assert all(entry["bytes"] > 0 and len(entry["sha256"]) == 64 for entry in facts["files"].values())


def test_raw_golden_files_hold_the_same_numbers(quick, tmp_path):
    plane(tmp_path / "out")

    golden = np.load(tmp_path / "out" / "golden" / "golden.npz")
    for name in ("input0", "output0"):
        raw = np.fromfile(tmp_path / "out" / "golden" / f"{name}.bin", "<f4")
        np.testing.assert_array_equal(raw, golden[name].ravel())


def test_the_folder_can_be_read_by_others(quick, tmp_path):
    """A temporary folder is private; the export is as readable as any folder made here."""
    plane(tmp_path / "out")
    (tmp_path / "plain").mkdir()

    assert (tmp_path / "out").stat().st_mode == (tmp_path / "plain").stat().st_mode
    assert not [name for name in left_in(tmp_path) if name.startswith(".making-")]


@pytest.mark.slow
def test_several_methods_lie_side_by_side_and_one_failure_does_not_end_the_others(here, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TINY_BREAKS", "abort")

    status = run(
        "tiny_plane", "--method", "breaking,fp32,int8_weight_only", "--format", "grid", "--out", tmp_path / "o"
    )

    assert status == 2
    assert left_in(tmp_path / "o") == ["fp32-grid", "int8_weight_only-grid"]
    assert manifest.check(tmp_path / "o" / "fp32-grid")["fidelity"]["items"] == 64
    said = capsys.readouterr()
    assert "failed    tiny_plane breaking grid: crashed: killed by SIGABRT" in said.err
    assert "Traceback" not in said.err + said.out


def test_calibration_rows_are_also_what_is_compared(quick, tmp_path):
    rows = np.random.default_rng(0).standard_normal((5, 16)).astype(np.float32)
    np.savez(tmp_path / "rows.npz", x=rows)

    assert plane(tmp_path / "out", "--calibration", tmp_path / "rows.npz") == 0
    assert manifest.check(tmp_path / "out")["fidelity"]["items"] == 6  # the example and five rows


def test_labels_say_that_outputs_are_scores(quick, tmp_path):
    (tmp_path / "labels.txt").write_text("left\nright\n")

    plane(tmp_path / "out", "--labels", tmp_path / "labels.txt", method="fp32")

    facts = manifest.check(tmp_path / "out")
    assert facts["labels"] == ["left", "right"]
    assert facts["fidelity"]["top1_agreement"]["value"] == 1.0
    assert facts["fidelity"]["sqnr_db"]["value"] is None or facts["fidelity"]["sqnr_db"]["value"] > 100


# What is not usable.


def test_an_error_larger_than_the_signal_is_said_loudly_and_is_status_1(quick, tmp_path, capsys):
    """Negated outputs: the error is twice the signal, SQNR = 10 log10(1/4) = -6.02 dB."""
    assert plane(tmp_path / "out", method="negated") == 1

    assert manifest.check(tmp_path / "out")["fidelity"]["sqnr_db"]["value"] == pytest.approx(-6.0206, abs=1e-3)
    assert "WARNING" in capsys.readouterr().out


def test_nan_is_refused_and_nothing_is_kept(quick, tmp_path, capsys):
    assert plane(tmp_path / "out", method="lost") == 2

    assert "my_net lost grid answers nan or inf on 1 of 1 items: nothing is kept" in capsys.readouterr().err
    assert left_in(tmp_path) == []


def test_an_operation_that_the_toolchain_refuses_is_one_line_and_leaves_nothing(quick, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TINY_BREAKS", "refuse")

    assert plane(tmp_path / "out", method="breaking") == 2

    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("quantkit: ")]
    assert "layer conv1: operation aten.unknown has no lowering" in line
    assert left_in(tmp_path) == []


# Places.


def test_an_export_that_is_there_is_replaced_only_by_force(quick, tmp_path, capsys):
    plane(tmp_path / "out", method="fp32")

    assert plane(tmp_path / "out") == 2
    assert "exists already" in capsys.readouterr().err
    assert manifest.check(tmp_path / "out")["method"] == "fp32"
    assert plane(tmp_path / "out", "--force") == 0
    assert manifest.check(tmp_path / "out")["method"] == "int8_weight_only"
    assert left_in(tmp_path) == ["out"]


def test_force_never_replaces_what_is_no_export(quick, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("years of work")

    assert plane(tmp_path / "out", "--force") == 2
    assert "is no export" in capsys.readouterr().err
    assert (tmp_path / "out" / "thesis.txt").read_text() == "years of work"


def test_a_place_that_cannot_be_written_is_one_line(here, tmp_path, capsys):
    (tmp_path / "file").write_text("")

    assert plane(tmp_path / "file" / "out") == 2
    assert "--out" in capsys.readouterr().err


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_whatever_ends_the_work_leaves_nothing(tmp_path, error):
    def work():
        with export.whole(tmp_path / "out", force=False) as folder:
            (folder / "half.onnx").write_text("half")
            raise error

    with pytest.raises(error):
        work()
    assert left_in(tmp_path) == []


def test_a_full_disk_is_a_storage_error(tmp_path):
    with pytest.raises(StorageError, match="No space left"), export.whole(tmp_path / "out", force=False):
        raise OSError(28, "No space left on device")


# Whoever received an export.


@pytest.fixture
def received(quick, tmp_path):
    plane(tmp_path / "out", method="fp32")
    return tmp_path / "out"


def test_check_finds_a_changed_file(received):
    path = received / "artifact" / "weights.npy"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)

    with pytest.raises(CorruptFile, match=r"weights\.npy is not the file that was exported"):
        manifest.check(received)


def test_check_finds_a_missing_and_a_strange_file(received):
    (received / "artifact" / "extra.bin").write_text("x")
    with pytest.raises(CorruptFile, match=r"extra\.bin is not part of the export"):
        manifest.check(received)

    (received / "artifact" / "extra.bin").unlink()
    (received / "golden" / "input0.bin").unlink()
    with pytest.raises(CorruptFile, match=r"input0\.bin is missing"):
        manifest.check(received)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"schema_version": 1, "files": []}'])
def test_check_refuses_what_is_no_manifest(received, text):
    (received / "manifest.json").write_text(text)

    with pytest.raises(CorruptFile, match="no readable manifest"):
        manifest.check(received)


def test_check_refuses_another_schema(received):
    facts = json.loads((received / "manifest.json").read_text()) | {"schema_version": 99}
    (received / "manifest.json").write_text(json.dumps(facts))

    with pytest.raises(CorruptFile, match="schema 99: this quantkit reads 1"):
        manifest.check(received)


# Mistakes of the command line, before anything runs.


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["my_net:plane", "--format", "grid"], "needs example inputs: --input"),
        (["my_net:plane", "--format", "grid", "--input", "1,16"], "--input is [name=]shape[:type]"),
        (["my_net:plane", "--format", "grid", "--input", "1x16:float"], "unknown type 'float'"),
        (["my_net:plane", "--format", "grid", "--input", "0x16"], "axis of length 0"),
        (["my_net:plane", "--format", "grid", "--input", "1x16", "--example", "a.npz"], "give one of them"),
        (["my_net:plane", "--format", "gird", "--input", "1x16"], "Did you mean 'grid'"),
        (["tiny_plain", "--format", "grid"], "Did you mean 'tiny_plane'"),
        (["my_net.plane", "--format", "grid"], "own is package.module:factory"),
        (["tiny_plane", "--format", "grid", "--input", "1x16"], "is a model of the zoo"),
        (["tiny_plane", "--format", "grid", "--template"], "no template for grid"),
        (["tiny_plane", "--format", "grid", "--threads", "0"], "--threads must be at least 1"),
        (["my_net:plane", "--format", "grid", "--input", "1x16", "--labels", "none.txt"], "--labels none.txt"),
    ],
)
def test_a_mistake_of_the_command_line_is_one_line(here, tmp_path, capsys, words, message):
    assert run(*words, "--method", "fp32", "--out", tmp_path / "out") == 2

    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1
    assert left_in(tmp_path) == []


def test_formats_have_friendly_names():
    assert [backend_of(word) for word in ("ONNX", "tflite", "core ml", "mlx")] == [
        "onnxruntime",
        "litert",
        "coreml",
        "mlx",
    ]


def test_statuses():
    """0 all, 1 absurd, 2 a failure, 3 nothing could be done."""
    good, bad = (export.Exported(None, {}, absurd) for absurd in (False, True))

    assert command._status([good], []) == 0
    assert command._status([good, bad], []) == 1
    assert command._status([bad], [QuantizationError("x")]) == 2
    assert command._status([], [Unsupported("x")]) == 3
    assert command._status([good], [Unsupported("x")]) == 0


# Mistakes of a user's network and data, as the job's own process meets them.


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no_such_module:make", "cannot be imported: ModuleNotFoundError"),
        ("my_net:absent", "cannot be imported: AttributeError"),
        (":make", "cannot be imported: ValueError"),
        ("my_net:raising", "my_net:raising raised KeyError: 'no such weights'"),
        ("my_net:text", "must return a torch.nn.Module: got str"),
        ("my_net:double", "weight weight of my_net:double is torch.float64"),
        ("my_net:holed", "weight weight of my_net:holed holds nan or inf"),
    ],
)
def test_a_factory_that_gives_no_usable_network_is_named(here, name, message):
    with pytest.raises(QuantizationError, match=message) as caught:
        source.network_of(Subject(name, shapes=(Shape.parse("1x16"),)))

    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("model", "shape", "message"),
    [
        ("my_net:plane", "1x15", r"refuses the inputs float32 \[1, 15\]"),
        ("my_net:plane", "1x16:int64", r"refuses the inputs int64 \[1, 16\]"),
        ("my_net:plane", "1x16:float64", r"refuses the inputs float64 \[1, 16\]"),
        ("my_net:Pair", "1x16", "returns tuple: wrap it"),
    ],
)
def test_inputs_that_do_not_fit_are_named_with_their_shapes(here, tmp_path, model, shape, message):
    subject = Subject(model, shapes=(Shape.parse(shape),))

    with pytest.raises(Unsupported, match=message):
        inside.original(subject, tmp_path, Settings(), 0)


def test_an_example_may_be_a_function_or_a_file(here, tmp_path):
    np.savez(tmp_path / "x.npz", image=np.linspace(-1, 1, 16, dtype=np.float32).reshape(1, 16))

    by_function = source.data_of(Subject("my_net:plane", "my_net:inputs"), 0)
    by_file = source.data_of(Subject("my_net:plane", str(tmp_path / "x.npz")), 0)

    np.testing.assert_allclose(by_function.example[0], by_file.example[0], atol=1e-6)
    assert by_file.names == ("image",)


@pytest.mark.parametrize("example", ["my_net:words", "absent.npz", "my_net.py.npz"])
def test_an_example_that_is_none_is_refused(here, example):
    (here / "my_net.py.npz").write_text("text")

    with pytest.raises(InvalidSetting):
        source.data_of(Subject("my_net:plane", example), 0)


def test_made_up_inputs_are_the_same_every_time_and_integers_are_zero():
    first, again = (
        source.data_of(Subject("a:b", shapes=(Shape.parse("2x3"), Shape.parse("1x4:int64"))), 0) for _ in "12"
    )

    np.testing.assert_array_equal(first.example[0], again.example[0])
    assert first.example[0].any() and not first.example[1].any()


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": np.zeros((4, 15), np.float32)}, r"float32 \[4, 15\], expected float32 \[n, 16\]"),
        ({"x": np.zeros((4, 16), np.float64)}, r"float64 \[4, 16\], expected float32 \[n, 16\]"),
        ({"x": np.full((4, 16), np.nan, np.float32)}, "holds nan or inf in 4 of 4 items"),
        ({"x": np.zeros((0, 16), np.float32)}, "calibration data is empty"),
        ({"x": np.zeros((4, 16), np.float32), "y": np.zeros(4)}, "has 2 arrays for 1 inputs"),
        (None, "cannot be read"),
    ],
    ids=["shape", "dtype", "nan", "empty", "count", "absent"],
)
def test_calibration_that_cannot_be_used_is_refused(tmp_path, arrays, message):
    if arrays is not None:
        np.savez(tmp_path / "rows.npz", **arrays)

    with pytest.raises(CalibrationError, match=message):
        source.data_of(Subject("a:b", shapes=(Shape.parse("1x16"),), calibration=tmp_path / "rows.npz"), 0)


def test_a_static_method_without_calibration_is_refused():
    with pytest.raises(CalibrationError, match=r"--calibration FILE\.npz"):
        source.data_of(Subject("a:b", shapes=(Shape.parse("1x16"),)), 8)


def test_an_unknown_method_is_a_did_you_mean(here, tmp_path):
    with pytest.raises(UnknownName, match="Did you mean 'int8_static'"):
        METHODS.get("int8_statik")


def test_layers_left_in_float_are_listed_by_name():
    layers = (LayerReport("embed", "Embedding", 60, 32, "no form"), LayerReport("head", "Linear", 40, 4))

    found = manifest.coverage(BuildReport(layers, 270, 0.0, "fp32"), quantized=True)

    assert found["quantized_share"] == 0.4 and found["bits_per_weight"] == 8 * 270 / 100
    assert [layer["name"] for layer in found["left_in_float"]] == ["embed"]


def test_families_go_by_where_most_weights_are(here):
    from torch import nn

    subject = Subject("a:b", shapes=(Shape.parse("1x16"),))
    lstm = nn.ModuleList([nn.LSTM(16, 16), nn.Linear(16, 2)])
    cnn = nn.Sequential(nn.Conv2d(8, 8, 3), nn.Linear(4, 2))

    assert source.info_of(subject, lstm).family == "rnn"
    assert source.info_of(subject, cnn).family == "cnn" and source.info_of(subject, cnn).layers == ("conv2d", "linear")
    assert source.info_of(subject, nn.TransformerEncoderLayer(16, 2)).family == "transformer"
    assert source.info_of(subject, nn.Linear(4, 2)).family == "mixed"


# A model that keeps a state.


class Sum:
    """A session that adds up what it has seen: output of call k = sum of inputs 0..k."""

    def reset(self):
        self.total = 0.0

    def feed(self, inputs):
        return inputs[0]

    def run(self, fed):
        self.total = self.total + fed
        return self.total

    def fetch(self, output):
        return output[..., None]


def test_the_golden_data_of_a_stateful_model_is_a_sequence_of_calls(tmp_path):
    tokens = np.arange(1, 13, dtype=np.float32).reshape(1, 12, 1, 1)  # one item of twelve calls
    outputs = inside._by_session(Sum(), [tokens[0]], stepwise=True)[None]
    answers = {"x0": tokens, "outputs": outputs, "reference": outputs}
    info = ModelInfo("sum", "sum", "rnn", "text", "", Quality("none", "none"), (), "", "", (), stepwise=True)
    facts = {
        "golden": manifest.golden_facts(answers, stepwise=info.stepwise),
        "inputs": [{"name": "x", "shape": [1, 1], "dtype": "int32"}],
    }

    manifest.write_golden(tmp_path, facts, answers)

    golden = np.load(tmp_path / "golden" / "golden.npz")
    assert golden["input0"].dtype == np.int32 and golden["input0"].shape == (8, 1, 1)
    np.testing.assert_array_equal(golden["output0"].ravel(), np.cumsum(np.arange(1, 9)))


# For real.


@pytest.mark.slow
def test_a_new_user_exports_their_own_network(project, tmp_path):
    """As a user types it, in their own folder; the artifact is then run by ONNX Runtime alone."""
    runtime = pytest.importorskip("onnxruntime")
    line = f"export my_net:mlp --input 1x8 --method int8_dynamic --format onnx --out {tmp_path / 'out'} --template"
    done = subprocess.run(
        [sys.executable, "-m", "quantkit.cli", *line.split()], cwd=project, capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stderr
    assert "100% of 352 weights" in done.stdout and "Traceback" not in done.stderr
    manifest.check(tmp_path / "out")
    session = runtime.InferenceSession(str(tmp_path / "out" / "artifact" / "model.onnx"))
    golden = np.load(tmp_path / "out" / "golden" / "golden.npz")
    (output,) = session.run(None, {session.get_inputs()[0].name: golden["input0"][0]})
    np.testing.assert_array_equal(output, golden["output0"][0])
    again = subprocess.run([sys.executable, tmp_path / "out" / "app" / "python" / "check.py"], check=False)
    assert again.returncode == 0


@pytest.mark.slow
def test_an_operation_that_a_format_lacks_is_named(here, tmp_path, capsys):
    pytest.importorskip("onnxruntime")

    words = ["--input", "1x8", "--method", "int8_dynamic", "--format", "onnxruntime", "--out"]
    assert run("my_net:Airy", *words, tmp_path / "out") == 2

    assert "special_airy_ai" in capsys.readouterr().err
    assert set(left_in(tmp_path)) <= {"home"}


def test_the_module_of_the_tests_is_what_a_user_would_write():
    compile(textwrap.dedent(MODULE), "my_net.py", "exec")


@pytest.mark.slow
def test_a_decoder_of_transformers_also_leaves_in_the_librarys_own_form(here, tmp_path, monkeypatch):
    """Of a wrapped Llama, mlx-lm's folder holds mlx-lm's configuration and codes, and the manifest vouches for them."""
    pytest.importorskip("mlx_lm")
    pytest.importorskip("transformers")
    (tmp_path / "my_llama.py").write_text(
        textwrap.dedent("""
        import torch
        from torch import nn
        from transformers import LlamaConfig, LlamaForCausalLM

        class Logits(nn.Module):
            def __init__(self):
                super().__init__()
                torch.manual_seed(0)
                self.llama = LlamaForCausalLM(LlamaConfig(
                    vocab_size=64, hidden_size=64, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2))

            def forward(self, ids):
                return self.llama(ids, use_cache=False).logits
        """)
    )
    monkeypatch.chdir(tmp_path)
    words = ["my_llama:Logits", "--input", "1x8:int64", "--method", "int4_weight_only", "--format", "mlx"]

    assert cli.main(["export", *words, "--out", "out"]) == 0

    native = tmp_path / "out" / "native"
    assert json.loads((native / "config.json").read_text())["quantization"] == {
        "group_size": 32, "bits": 4, "mode": "affine"}  # fmt: skip
    assert any(note.startswith("native/: opens with mlx_lm") for note in manifest.check(tmp_path / "out")["notes"])
    (native / "config.json").write_text("{}")
    with pytest.raises(CorruptFile, match=r"native/config\.json is not the file"):
        manifest.check(tmp_path / "out")

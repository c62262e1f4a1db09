"""TensorFlow's interpreter gives LiteRT's answers on the same bytes; Keras and SavedModel are sources too."""

import numpy as np
import pytest

pytest.importorskip("tensorflow", reason="needs tensorflow: pip install 'quantkit[tensorflow]'")
pytest.importorskip("ai_edge_quantizer", reason="needs ai_edge_quantizer: pip install 'quantkit[litert]'")

import tensorflow as tf

from quantkit import extras
from quantkit.backends import _litert_graph, _litert_quantize, _litert_session, _litert_source
from quantkit.backends.tensorflow import plugin
from quantkit.contracts import ModelInfo, Plan, Quality, Split
from quantkit.errors import CorruptFile, Unsupported
from quantkit.numerics import fidelity
from quantkit.records import Case
from quantkit.scheme import PerGroup, Scheme

FP32 = Scheme(bits=32, format="fp32")
SCHEMES = [
    FP32,
    Scheme(bits=16, format="bf16"),
    Scheme(bits=8),
    Scheme(bits=8, activations="dynamic"),
    Scheme(bits=8, activations="static"),
    Scheme(bits=8, activations="static", activation_bits=16),
    Scheme(bits=4),
    Scheme(bits=4, granularity=PerGroup(32)),
]
INPUTS = np.random.default_rng(0).standard_normal((8, 8, 8, 3), dtype=np.float32)


@pytest.fixture(scope="module")
def model():
    tf.random.set_seed(0)
    return tf.keras.Sequential(
        [
            tf.keras.layers.Input((8, 8, 3), batch_size=1),
            tf.keras.layers.Conv2D(16, 3, padding="same", activation="relu"),
            tf.keras.layers.Flatten(),
            tf.keras.layers.Dense(64, activation="relu"),
            tf.keras.layers.Dense(5),
        ]
    )


@pytest.fixture(scope="module")
def source(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    model.export(folder, verbose=False)
    return _litert_source.lower_saved_model(folder, tmp_path_factory.mktemp("work"))


def quantized(source, scheme):
    """Return the source in a scheme by the same path as a PyTorch network takes."""
    ops = list(_litert_graph.weight_ops(_litert_graph.read(source)))
    asked = _litert_quantize.wishes(ops, Plan(scheme))
    calibration = Split((INPUTS,), np.zeros(8), tuple("abcdefgh"))
    return _litert_quantize.quantize(source, ops, asked, scheme, calibration)[0]


def answers(session):
    return np.concatenate([session.fetch(session.run(session.feed((x[None],)))) for x in INPUTS])


def expected(model):
    return np.concatenate([model(x[None]).numpy() for x in INPUTS])


def test_saved_model_computes_what_keras_computes(source, model, tmp_path):
    (tmp_path / "model.tflite").write_bytes(source)

    assert fidelity.sqnr_db(expected(model), answers(plugin.open(tmp_path, None, 1))) > 120


def test_keras_file_gives_the_same_weights_as_its_saved_model(source, model, tmp_path):
    model.save(tmp_path / "model.keras")
    data = _litert_source.lower_saved_model(tmp_path / "model.keras", tmp_path)

    def weights(data):
        read = _litert_graph.read(data)
        ops = _litert_graph.weight_ops(read)
        return sorted(bytes(read.buffers[buffer].data) for op in ops for buffer, _, _ in op.tensors.values())

    assert weights(data) == weights(source)


@pytest.mark.parametrize("scheme", SCHEMES, ids=lambda scheme: scheme.name)
def test_both_interpreters_answer_alike(source, model, tmp_path, scheme, record_property):
    """Same bytes, two builds of the same kernels: what differs is the order of float sums, or one last code."""
    (tmp_path / "model.tflite").write_bytes(quantized(source, scheme))
    theirs = answers(plugin.open(tmp_path, None, 1))
    ours = answers(_litert_session.open_session(tmp_path, 1))
    record_property("difference", float(np.abs(theirs - ours).max()))

    step = np.ptp(ours) / 255 if scheme.activations == "static" and scheme.activation_bits == 8 else 0
    assert np.abs(theirs - ours).max() <= step + 1e-4
    assert fidelity.sqnr_db(expected(model), theirs) > (15 if scheme.bits == 4 else 25)


def test_missing_and_damaged_models_are_named(tmp_path, source):
    with pytest.raises(CorruptFile, match=r"is no SavedModel: expected a folder with saved_model.pb"):
        _litert_source.lower_saved_model(tmp_path, tmp_path)
    (tmp_path / "saved_model.pb").write_bytes(b"no protobuf")
    with pytest.raises(CorruptFile, match="TensorFlow cannot read"):
        _litert_source.lower_saved_model(tmp_path, tmp_path)
    (tmp_path / "model.keras").write_bytes(b"no archive")
    with pytest.raises(CorruptFile, match="Keras cannot read"):
        _litert_source.lower_saved_model(tmp_path / "model.keras", tmp_path)
    (tmp_path / "model.tflite").write_bytes(source[: len(source) // 2])
    with pytest.raises(CorruptFile, match="build the case again"):
        plugin.open(tmp_path, None, 1)


def test_operation_without_litert_form_is_refused(tmp_path):
    class Odd(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([1, 3], tf.float32)])
        def __call__(self, x):
            return tf.math.igamma(x, x)

    tf.saved_model.save(Odd(), str(tmp_path))
    with pytest.raises(Unsupported, match=r"converter refuses .*Igamma"):
        _litert_source.lower_saved_model(tmp_path, tmp_path)


def test_missing_toolchain_is_named_before_anything_runs(monkeypatch):
    info = ModelInfo("m", "m", "cnn", "vision", "d", Quality("q", "none"), (), "", "", ("conv2d",))
    monkeypatch.setattr(extras, "missing", lambda extra: f"needs {extra}")

    assert plugin.unsupported(Case("m", "fp32", "tensorflow", "cpu"), info, FP32) == (
        "the artifact is built by LiteRT's toolchain, which needs litert"
    )

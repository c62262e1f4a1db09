"""The reference executor as a whole: models against PyTorch, rounding, states, watching, and files to be refused."""

from __future__ import annotations

import json
import shutil
import warnings
from functools import cache
from unittest import mock

import numpy as np
import pytest

pytest.importorskip("coremltools")

import coremltools as ct
import torch
from coremltools.converters.mil.mil import Builder as mb
from coremltools.converters.mil.mil import types
from coremltools.optimize import coreml as cto

from quantkit import mil
from quantkit.catalog import DATASETS, MODELS
from quantkit.errors import CorruptFile, Unsupported
from quantkit.numerics.fidelity import sqnr_db
from tests.mil_cases import save

ITEMS = 16
# convert the weights of a case -> what it must give is read from the compressed file by coremltools' decompressor
COMPRESSIONS = {
    "int8 per channel": ("iOS16", lambda m: cto.linear_quantize_weights(m, linear("int8", "per_channel"))),
    "uint8 with zero points": (
        "iOS16",
        lambda m: cto.linear_quantize_weights(m, linear("uint8", "per_channel", "linear")),
    ),
    "int4 per block": ("iOS18", lambda m: cto.linear_quantize_weights(m, linear("int4", "per_block"))),
    **{
        f"palette of {bits} bits": ("iOS16", lambda m, b=bits: cto.palettize_weights(m, palette(nbits=b)))
        for bits in (2, 4, 6, 8)
    },
    "palette per group": (
        "iOS18",
        lambda m: cto.palettize_weights(m, palette(nbits=4, granularity="per_grouped_channel", group_size=16)),
    ),
    "pruned": ("iOS16", lambda m: cto.prune_weights(m, pruned())),
    "pruned, then palettized": (
        "iOS18",
        lambda m: cto.palettize_weights(cto.prune_weights(m, pruned()), palette(nbits=4), joint_compression=True),
    ),
    "pruned, then int8": (
        "iOS18",
        lambda m: cto.linear_quantize_weights(
            cto.prune_weights(m, pruned()), linear("int8", "per_channel"), joint_compression=True
        ),
    ),
    "palette of int8 entries": (
        "iOS18",
        lambda m: cto.linear_quantize_weights(
            cto.palettize_weights(m, palette(nbits=4)), linear("int8", "per_tensor"), joint_compression=True
        ),
    ),
}


def linear(dtype, granularity, mode="linear_symmetric"):
    op = cto.OpLinearQuantizerConfig(mode=mode, dtype=dtype, granularity=granularity, weight_threshold=100)
    return cto.OptimizationConfig(global_config=op)


def palette(**options):
    op = cto.OpPalettizerConfig(mode="kmeans", num_kmeans_workers=1, weight_threshold=100, **options)
    return cto.OptimizationConfig(global_config=op)


def pruned():
    op = cto.OpMagnitudePrunerConfig(target_sparsity=0.5, weight_threshold=100)
    return cto.OptimizationConfig(global_config=op)


def convert(network, example, precision="float32", opset="iOS18", **options):
    """Return the network converted by tracing, its inputs named x0, x1, ..."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # shapes are fixed on purpose
        traced = torch.jit.trace(network, tuple(torch.from_numpy(x) for x in example))
    kinds = [np.int32 if x.dtype.kind == "i" else np.float32 for x in example]
    with mock.patch("gc.collect"):
        return ct.convert(
            traced,
            inputs=[ct.TensorType(f"x{i}", x.shape, kind) for i, (x, kind) in enumerate(zip(example, kinds))],
            compute_precision=ct.precision(precision),
            minimum_deployment_target=getattr(ct.target, opset),
            skip_model_load=True,
            **options,
        )


def saved(model, folder):
    package = folder / "model.mlpackage"
    model.save(str(package))
    return package


class PlainNorm(torch.nn.Module):
    """RMSNorm written out: coremltools converts `nn.RMSNorm` into a division by the maximum first, so epsilon moves."""

    def __init__(self, norm):
        super().__init__()
        self.weight, self.eps = norm.weight, norm.eps

    def forward(self, x):
        return x * torch.rsqrt((x * x).mean(-1, keepdim=True) + self.eps) * self.weight


def loaded(name):
    """Return a zoo model's network with its norms written out, and some items."""
    plugin = MODELS.get(name)
    network = plugin.load()
    for module in list(network.modules()):
        for child, norm in list(module.named_children()):
            if isinstance(norm, torch.nn.RMSNorm):
                setattr(module, child, PlainNorm(norm))
    return network, DATASETS.get(plugin.info.dataset).evaluation(ITEMS)


def outputs(program, split):
    """Return the first output for every item, joined."""
    rows = []
    for index in range(len(split)):
        feed = {t.name: x.astype(t.dtype) for t, x in zip(program.inputs, split.item(index))}
        rows.append(next(iter(program.run(feed).values())).astype(np.float32))
    return np.concatenate(rows)


def by_pytorch(network, split):
    with torch.inference_mode():
        return np.concatenate([network(*map(torch.from_numpy, split.item(i))).numpy() for i in range(len(split))])


@pytest.mark.parametrize("precision", ["float32", "float16"])
@pytest.mark.parametrize("name", ["fmnist_cnn", "fmnist_lstm", "fmnist_vit", "pydoc_gpt"])
def test_a_model_agrees_with_pytorch(name, precision, tmp_path):
    """float32: the same sums in another order, far above 90 dB.

    float16: weights and every intermediate are rounded by a relative 2**-12 on average (2**-11 at most), which is 72 dB
    for one rounding; n independent ones cost 10 log10(n), 23 dB for the 200 operations of these models. With 4 dB to
    spare for errors that are not independent: 45 dB.
    """
    network, split = loaded(name)
    package = saved(convert(network, split.item(0), precision), tmp_path)

    got = outputs(mil.load(package), split)

    assert sqnr_db(by_pytorch(network, split), got) > (90 if precision == "float32" else 45)


@pytest.fixture(scope="module")
def cnn():
    network, split = loaded("fmnist_cnn")
    return network, split


@pytest.fixture(scope="module")
def converted(cnn):
    """Return a function: opset -> the model in float32, to be compressed (which leaves it as it is)."""
    network, split = cnn
    return cache(lambda opset: convert(network, split.item(0), opset=opset))


@pytest.mark.parametrize("name", COMPRESSIONS)
def test_compressed_weights_run_as_their_decompressed_values(name, cnn, converted, tmp_path):
    """PyTorch runs the same network with the weights that coremltools' own decompressor reads from the file."""
    network, split = cnn
    opset, compress = COMPRESSIONS[name]
    package = saved(compress(converted(opset)), tmp_path)
    twin = loaded("fmnist_cnn")[0]
    fill(twin, decompressed(package))
    changed = sqnr_db(by_pytorch(network, split), by_pytorch(twin, split))

    got = outputs(mil.load(package), split)

    assert changed < 90, "nothing was compressed"
    assert sqnr_db(by_pytorch(twin, split), got) > 90


def decompressed(package):
    """Return (weight, bias) of the file's convolutions and linear layers in order, decompressed by coremltools."""
    plain = cto.decompress_weights(ct.models.MLModel(str(package), skip_model_load=True))
    layers = [op for op in plain._mil_program.functions["main"].operations if op.op_type in ("conv", "linear")]
    return [(np.float32(op.weight.val), np.float32(op.bias.val)) for op in layers]


def fill(network, weights):
    """Put the file's numbers into PyTorch's layers; the converter has folded the batch norms into them."""
    layers = [m for m in network.modules() if isinstance(m, (torch.nn.Conv2d, torch.nn.Linear))]
    assert len(layers) == len(weights)
    for layer, (weight, bias) in zip(layers, weights):
        layer.weight = torch.nn.Parameter(torch.from_numpy(weight))
        layer.bias = torch.nn.Parameter(torch.from_numpy(bias))
    for module in list(network.modules()):
        for child, norm in list(module.named_children()):
            if isinstance(norm, torch.nn.BatchNorm2d):
                setattr(module, child, torch.nn.Identity())


def test_float16_is_rounded_once_per_operation(tmp_path):
    """A sum of products is taken in float32 and rounded once: 2048 + 1 + 1 is 2050, in float16 steps 2048."""
    weight = np.float16([[1, 1, 1]])
    x = np.float16([[2048, 1, 1]])
    package = save(lambda x: mb.linear(x=x, weight=weight), {"x": x}, "iOS17", tmp_path)

    assert next(iter(mil.load(package).run({"x": x}).values())) == [[2050]]


def test_float32_precision_rounds_nothing_between(tmp_path):
    """1 + 2**-12 needs 13 bits: float16 loses the term between two operations, float32 keeps it."""
    x = np.float16([1])
    package = save(lambda x: mb.sub(x=mb.add(x=x, y=np.float16(2**-12)), y=np.float16(1)), {"x": x}, "iOS17", tmp_path)

    def run(precision):
        return next(iter(mil.load(package, precision).run({"x": x}).values()))

    assert run("as_stored") == 0 and run("as_stored").dtype == np.float16
    assert run("float32") == np.float32(2**-12) and run("float32").dtype == np.float32
    with pytest.raises(ValueError, match="precision must be 'as_stored' or 'float32': got 'int8'"):
        mil.load(package, "int8")


def test_watching_sees_every_tensor_by_its_name(tmp_path):
    x = np.float32([[-1, 2]])
    seen = {}

    def two_steps(x):
        return mb.mul(x=mb.relu(x=x, name="rectified"), y=3.0, name="tripled")

    program = mil.load(save(two_steps, {"x": x}, "iOS17", tmp_path))
    program.run({"x": x}, watch=lambda name, tensor: seen.update({name: tensor.numpy().tolist()}))

    assert seen == {"rectified": [[0, 2]], "tripled": [[0, 6]]}


@pytest.fixture
def counter(tmp_path):
    """A program that adds its input to a state and returns the state."""

    @mb.program(
        input_specs=[mb.TensorSpec((2,), dtype=types.fp16), mb.StateTensorSpec((2,), dtype=types.fp16)],
        opset_version=ct.target.iOS18,
    )
    def program(x, total):
        return mb.coreml_update_state(state=total, value=mb.add(x=mb.read_state(input=total), y=x))

    model = ct.convert(program, source="milinternal", minimum_deployment_target=ct.target.iOS18, skip_model_load=True)
    return mil.load(saved(model, tmp_path))


def test_a_state_lives_from_call_to_call_and_no_further(counter):
    (state,) = counter.states
    assert (state.name, state.shape, state.dtype) == ("total", (2,), "float16")
    first, second = counter.new_state(), counter.new_state()

    def call(state):
        return next(iter(counter.run({"x": np.float16([1, 2])}, state).values())).tolist()

    assert [call(first), call(first), call(second), call(first)] == [[1, 2], [2, 4], [1, 2], [3, 6]]
    with pytest.raises(ValueError, match=r"state must hold \['total'\]: got \[\]; make one with new_state"):
        call(None)


@pytest.fixture(scope="module")
def package(cnn, tmp_path_factory):
    network, split = cnn
    return saved(convert(network, split.item(0)), tmp_path_factory.mktemp("cnn"))


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({}, r"inputs must be named \['x0'\]: got \[\]"),
        ({"y": np.zeros((1, 1, 28, 28), np.float32)}, r"inputs must be named \['x0'\]: got \['y'\]"),
        ({"x0": np.zeros((1, 28, 28), np.float32)}, r"'x0' must have the shape \(1, 1, 28, 28\): got \(1, 28, 28\)"),
        ({"x0": np.zeros((1, 1, 28, 28))}, "'x0' must be float32: got float64"),
    ],
)
def test_a_wrong_input_is_told_in_one_line(package, inputs, message):
    with pytest.raises(ValueError, match=message) as caught:
        mil.load(package).run(inputs)
    assert "\n" not in str(caught.value)


def test_flexible_shapes_take_any_size(tmp_path):
    traced = torch.jit.trace(torch.nn.Linear(3, 2).eval(), torch.zeros(4, 3))
    shape = ct.Shape((ct.RangeDim(1, 9, default=4), 3))
    model = ct.convert(
        traced,
        inputs=[ct.TensorType("x", shape)],
        minimum_deployment_target=ct.target.iOS17,
        compute_precision=ct.precision.FLOAT32,
        skip_model_load=True,
    )
    program = mil.load(saved(model, tmp_path))
    assert program.inputs[0].shape == (-1, 3)
    assert next(iter(program.run({"x": np.zeros((7, 3), np.float32)}).values())).shape == (7, 2)


def damage(package, where, change):
    """Change a file of the package in place."""
    (file,) = package.rglob(where)
    change(file)


DAMAGE = {
    "no manifest": ("Manifest.json", lambda f: f.unlink(), "Manifest.json is missing"),
    "manifest cut": ("Manifest.json", lambda f: f.write_text(f.read_text()[:40]), "names no model"),
    "manifest names another": (
        "Manifest.json",
        lambda f: f.write_text(json.dumps({"rootModelIdentifier": "a", "itemInfoEntries": {"a": {"path": "b"}}})),
        "b is missing",
    ),
    "model cut": ("model.mlmodel", lambda f: f.write_bytes(f.read_bytes()[: f.stat().st_size // 2]), "cannot be read"),
    "model of another kind": (
        "model.mlmodel",
        lambda f: f.write_bytes(ct.proto.Model_pb2.Model(specificationVersion=4).SerializeToString()),
        "got a model of type None, expected mlProgram",
    ),
    "no weights": ("weight.bin", lambda f: f.unlink(), "weight.bin is missing"),
    "weights cut": ("weight.bin", lambda f: f.write_bytes(f.read_bytes()[:-1000]), "weight.bin"),
    "weights almost gone": ("weight.bin", lambda f: f.write_bytes(f.read_bytes()[:80]), "ends at byte 80"),
    "weights overwritten": ("weight.bin", lambda f: f.write_bytes(bytes(f.stat().st_size)), "expected"),
}


@pytest.mark.parametrize("how", DAMAGE)
def test_a_damaged_package_is_refused(how, package, tmp_path):
    copy = tmp_path / "copy.mlpackage"
    shutil.copytree(package, copy)
    where, change, message = DAMAGE[how]
    damage(copy, where, change)

    with pytest.raises(CorruptFile, match=message) as caught:
        mil.load(copy)
    assert "copy.mlpackage cannot be read as a Core ML package" in str(caught.value)


def test_the_numbers_come_from_the_weight_file(package, cnn, tmp_path):
    """Zero the contents of all blobs in the file, keeping their headers: every class scores the same."""
    copy = tmp_path / "copy.mlpackage"
    shutil.copytree(package, copy)

    def erase(file):
        data = bytearray(file.read_bytes())
        at = 64
        while at + 64 <= len(data):
            length, start = (int.from_bytes(data[at + k : at + k + 8], "little") for k in (8, 16))
            data[start : start + length] = bytes(length)
            at = -(-(start + length) // 64) * 64
        file.write_bytes(bytes(data))

    damage(copy, "weight.bin", erase)
    _, split = cnn
    before, after = (next(iter(mil.load(p).run({"x0": split.item(0)[0]}).values())) for p in (package, copy))
    assert np.ptp(before) > 1 > 1e-3 > np.ptp(after) or np.ptp(after) < np.ptp(before) / 10


def test_a_missing_operation_is_named_at_load_with_its_place(tmp_path):
    def unknown(x):
        noise = mb.random_normal(shape=np.int32([2]), name="noise")
        return mb.add(x=x, y=mb.add(x=noise, y=mb.random_uniform(shape=np.int32([2]), name="more")))

    package = save(unknown, {"x": np.zeros(2, np.float32)}, "iOS17", tmp_path)
    with pytest.raises(Unsupported, match=r"lacks: random_normal \(noise\); random_uniform \(more\)"):
        mil.load(package)


def test_an_operation_that_cannot_be_done_this_way_is_named_at_load(tmp_path):
    x, h = np.zeros((2, 1, 3), np.float32), np.zeros((1, 4), np.float32)
    weights = {"weight_ih": np.zeros((12, 3), np.float32), "weight_hh": np.zeros((12, 4), np.float32)}
    package = save(
        lambda x, h: mb.gru(x=x, initial_h=h, reset_after=True, **weights)[0], {"x": x, "h": h}, "iOS18", tmp_path
    )
    with pytest.raises(Unsupported, match=r"gru .*reset_after"):
        mil.load(package)


def test_a_missing_package_is_told_by_its_path(tmp_path):
    with pytest.raises(CorruptFile, match=r"nowhere.mlpackage .*Manifest.json is missing"):
        mil.load(tmp_path / "nowhere.mlpackage")

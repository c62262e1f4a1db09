"""The façade on the toy toolchain of tests/plugins: real files, milliseconds of work.

The backend `grid` takes one Linear layer with 16 inputs; here it stands where PyTorch and ONNX Runtime stand. Most
tests let the pipeline's jobs run in this process, since what they are about is on this side; those with the fixture
`processes` start the real ones.
"""

import copy
import subprocess
import sys
import threading
import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import quantkit
from quantkit.catalog import MODELS
from quantkit.controller import QuantizationController
from quantkit.engines import config, exporting, job, own
from quantkit.engines.config import HardwareTarget, QuantizationConfig, QuantizationMethod
from quantkit.engines.face import copied, face
from quantkit.engines.job import Job
from quantkit.engines.loader import Parts, items_of
from quantkit.engines.ptq import PTQEngine
from quantkit.engines.suite import QuantizationBenchmarkSuite
from quantkit.engines.warn import QuantizationWarning
from quantkit.errors import (
    CalibrationError,
    CorruptFile,
    InvalidSetting,
    QuantizationError,
    UnknownName,
    Unsupported,
)
from quantkit.pipeline import inside
from quantkit.pipeline.crew import Crew
from quantkit.pipeline.settings import Settings

QUICK = Settings(rounds=2, round_s=0.02, warmup_s=0.0, time_limit_s=60.0)


class Here(Crew):
    """Runs the jobs in this process."""

    def call(self, purpose, backend, *arguments, limits):
        return getattr(inside, purpose)(*arguments)


@pytest.fixture
def processes(plugins, home, monkeypatch):
    """Both frameworks of the CPU are the toy toolchain."""
    for name in ("pytorch", "onnx"):
        monkeypatch.setitem(config.FORMATS, name, "grid")
    return home


@pytest.fixture
def grid(processes, monkeypatch):
    """The same, without the start of processes."""
    monkeypatch.setattr(job, "Crew", Here)
    return processes


def plane(seed=0):
    torch.manual_seed(seed)
    return nn.Linear(16, 4).eval().requires_grad_(True)


def bare():
    """A layer without bias, which is what the toy toolchain multiplies by."""
    torch.manual_seed(0)
    return nn.Linear(16, 4, bias=False)


def points(count=60, seed=1):
    torch.manual_seed(seed)
    x = torch.randn(count, 16)
    return DataLoader(TensorDataset(x, bare()(x).argmax(1)), batch_size=16)


def test_importing_the_package_is_light():
    """No toolchain and no NumPy: names are loaded when they are used."""
    said = "import sys, quantkit as q; q.QuantizationConfig; print({'torch', 'numpy'} & set(sys.modules))"

    done = subprocess.run([sys.executable, "-c", said], capture_output=True, text=True)

    assert done.stdout == "set()\n", done.stderr


def test_every_public_name_is_there():
    assert all(getattr(quantkit, name) for name in quantkit.__all__)
    with pytest.raises(AttributeError, match="no attribute 'PTQEngin'"):
        quantkit.PTQEngin  # noqa: B018


def test_eight_bits_of_a_known_layer(grid):
    """A symmetric grid of 8 bits is off by half a step at most, half of max|w| / 127, for each of 16 inputs."""
    network, data = bare(), points()

    model, stats = PTQEngine(bits=8, settings=QUICK).quantize_model(network, data)

    x = torch.randn(5, 16)
    half_steps = network.weight.abs().amax(1) / 127 / 2
    assert ((model(x) - network(x)).abs() <= half_steps * x.abs().sum(1, keepdim=True) + 1e-5).all()
    assert isinstance(model, nn.Module)
    assert stats["compression_ratio"] == 0.25  # 1 byte for 4, and the toy counts no scales
    assert stats["size_reduction"] == 0.75
    assert stats["quantization_method"] == "pytorch_8bit"
    assert (stats["items"], stats["calibration_items"]) == (12, 48)
    assert stats["accuracy_metric"] == "top1_accuracy"
    assert stats["original_accuracy"] == 1.0
    assert (stats["fallbacks"], stats["warnings"]) == ([], [])


def test_the_given_model_is_never_changed(grid):
    """Weights, mode, gradients, hooks and random state are those of before."""
    network = bare().train()
    network.weight.grad = torch.ones_like(network.weight)
    calls = []
    network.register_forward_hook(lambda *_: calls.append(1) if threading.main_thread() is None else None)
    before, hooks = copy.deepcopy(network.state_dict()), dict(network._forward_hooks)
    data = points()
    drawn = torch.random.get_rng_state()

    PTQEngine(settings=QUICK).quantize_model(network, data)

    assert network.training
    assert network.weight.requires_grad
    assert (network.weight.grad == 1).all()
    assert dict(network._forward_hooks) == hooks
    assert all((network.state_dict()[name] == value).all() for name, value in before.items())
    assert (torch.random.get_rng_state() == drawn).all()


def test_a_class_that_only_this_function_knows_reaches_the_building_process(processes):
    class Linear(nn.Linear):
        def forward(self, x):
            return super().forward(x) * 1.0

    network, threads = Linear(16, 4, bias=False), torch.get_num_threads()

    model, stats = PTQEngine(settings=QUICK).quantize_model(network, points())

    assert stats["sqnr_db"] > 30
    assert model(torch.zeros(1, 16)).abs().max() == 0
    assert torch.get_num_threads() == threads


def test_equal_networks_and_data_are_built_once(grid):
    """The second time everything comes from the cache; another weight is another artifact."""
    engine, data, network = PTQEngine(settings=QUICK), points(), bare()
    first, _ = engine.quantize_model(network, data)
    again, _ = engine.quantize_model(copy.deepcopy(network), data)
    with torch.no_grad():
        network.weight[0, 0] += 1
    other, _ = engine.quantize_model(network, data)

    assert again.artifact == first.artifact
    assert other.artifact != first.artifact


def test_nan_in_the_calibration_data_costs_those_items_and_is_said(grid):
    loader = points()
    loader.dataset.tensors[0][7, 3] = float("nan")

    with pytest.warns(QuantizationWarning, match="1 of 60 items left out"):
        _, stats = PTQEngine(settings=QUICK).quantize_model(bare(), loader)

    assert stats["calibration_items"] + stats["items"] == 59
    assert "item 7" in stats["fallbacks"][0]


def test_a_warning_points_at_the_callers_line(grid):
    loader = points()
    loader.dataset.tensors[0][7, 3] = float("nan")

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        PTQEngine(settings=QUICK).quantize_model(bare(), loader)

    assert [one.filename for one in caught if one.category is QuantizationWarning] == [__file__]


def test_nothing_but_nan_is_refused(grid):
    data = [torch.full((8, 16), float("nan"))]

    with pytest.raises(CalibrationError, match="8 of 8 items"):
        PTQEngine(settings=QUICK).quantize_model(bare(), data)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PTQEngine(bits=3), r"takes 8 or 4 bits: got 3. Did you mean bits=4\?"),
        (lambda: PTQEngine(bits="8"), "takes 8 or 4 bits: got '8'"),
        (lambda: PTQEngine(accuracy_threshold=95), "a share above 0 and at most 1 .*: got 95"),
        (lambda: PTQEngine().quantize_model(bare(), [], framework="onxx"), "Did you mean 'onnx'"),
        (lambda: QuantizationConfig("ptq8", HardwareTarget.CPU), "Did you mean QuantizationMethod.PTQ_8BIT"),
        (lambda: QuantizationConfig(QuantizationMethod.QAT, "gpu"), "must be a HardwareTarget: got 'gpu'"),
        (lambda: given(calibration_dataset_size=0), "at least 1: got 0"),
        (lambda: given(accuracy_threshold=0.0), "got 0.0"),
        (lambda: given(export_formats=["onx"]), "Did you mean 'onnx'"),
        (lambda: given(export_formats="onnx"), "is a list of names"),
        (lambda: QuantizationController({"method": "qat"}), "must be a QuantizationConfig: got dict"),
        (lambda: QuantizationBenchmarkSuite().benchmark(bare(), [], []), "a list of at least one"),
    ],
)
def test_wrong_arguments_are_refused_with_what_was_meant(make, message):
    with pytest.raises(InvalidSetting, match=message):
        make()


def given(**changes):
    return QuantizationConfig(QuantizationMethod.PTQ_8BIT, HardwareTarget.CPU, **changes)


class Squeezing(nn.Linear):
    def forward(self, x):
        return super().forward(x).squeeze()


class Names(nn.Linear):
    def forward(self, x):
        return {"name": "none"}


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (nn.Linear(5, 2), r"the model refuses its own data \(float32 \[8, 16\]\): RuntimeError"),
        (Squeezing(16, 4), "must have the items as its first axis"),
        (Names(16, 4), "returns dict without a float tensor"),
    ],
)
def test_networks_that_cannot_be_called_say_why(network, message):
    with pytest.raises(Unsupported, match=message):
        Job(network, points(), QUICK)


@pytest.mark.parametrize("what", ["nan", "none", "no weights"])
def test_networks_that_cannot_be_quantized_say_why(what):
    network = bare()
    with torch.no_grad():
        network.weight[0, 0] = float("nan")
    given = {"nan": network, "none": "resnet50", "no weights": nn.ReLU()}[what]
    message = {"nan": "weight weight holds nan", "none": "must be a torch.nn.Module: got str", "no weights": "nothing"}

    with pytest.raises(QuantizationError, match=message[what]):
        Job(given, points(), QUICK)


def test_inputs_of_other_shapes_are_refused_and_a_closed_model_says_so(grid):
    model, _ = PTQEngine(settings=QUICK).quantize_model(bare(), points())

    with pytest.raises(InvalidSetting, match=r"input 0 is float32 \[2, 15\], expected float32 \[n, 16\]"):
        model(torch.zeros(2, 15))
    with pytest.raises(InvalidSetting, match="takes these inputs: 1 by position; got 2 by position"):
        model(torch.zeros(2, 16), torch.zeros(2, 16))
    assert model(torch.zeros(2, 16, dtype=torch.float64)).dtype == torch.float32
    model.close()
    with pytest.raises(QuantizationError, match="closed"):
        model(torch.zeros(2, 16))


class Spiky(nn.Linear):
    """A row whose one large weight takes all codes: what the others said is lost in 4 bits."""

    def __init__(self):
        super().__init__(16, 4, bias=False)
        torch.manual_seed(0)
        with torch.no_grad():
            self.weight.copy_(0.01 * torch.randn(4, 16))
            self.weight[:, 0] = 1.0


def spiky_points():
    torch.manual_seed(1)
    x = torch.randn(400, 16)
    return DataLoader(TensorDataset(x, Spiky()(x).argmax(1)), batch_size=50)


@pytest.mark.parametrize("strict", [False, True])
def test_four_bits_that_lose_the_answers_are_warned_of_or_refused_with_the_layer(grid, strict):
    engine = PTQEngine(bits=4, strict=strict, settings=QUICK)
    said = pytest.raises if strict else pytest.warns
    kind = QuantizationError if strict else QuantizationWarning

    with said(kind, match=r"top1_accuracy 1 -> .*the paired test agrees.*expected at least 95"):
        _, stats = engine.quantize_model(Spiky(), spiky_points())

    if not strict:
        assert stats["accuracy_verdict"] == "regression"
        assert "w4a16g32" in stats["warnings"][0], "the layer's scheme is named"


def test_without_targets_agreement_with_the_original_is_measured(grid):
    _, stats = PTQEngine(settings=QUICK).quantize_model(bare(), [torch.randn(50, 16)])

    assert stats["accuracy_metric"] == "top1_agreement"
    assert stats["accuracy_verdict"] == "unavailable"
    assert stats["accuracy_retention"] == stats["accuracy"] >= 0.9


def test_float_targets_are_judged_by_their_squared_error(grid):
    """The original answers its own targets plus noise of variance 0.25."""
    x = torch.randn(400, 16)
    y = bare()(x).detach() + 0.5 * torch.randn(400, 4)

    _, stats = PTQEngine(settings=QUICK).quantize_model(bare(), [(x, y)])

    assert stats["accuracy_metric"] == "mean_squared_error"
    assert 0.15 < stats["original_accuracy"] < 0.35
    assert stats["accuracy_retention"] == pytest.approx(stats["original_accuracy"] / stats["accuracy"])


def test_behaviour_is_part_of_a_networks_key():
    """Two networks of equal weights and layers that answer otherwise are two."""
    items = items_of(bare(), points(), Parts(40))
    few = tuple(x[:8] for x in items.evaluation.inputs)
    plain, twice = copied(bare())[0], copied(bare())[0]
    twice.register_forward_hook(lambda module, inputs, output: 2 * output)

    keys = [own.network_key(network, face(network, (), few)[1]) for network in (plain, plain, twice)]

    assert keys[0] == keys[1] != keys[2]


def test_the_catalog_knows_an_own_network_for_as_long_as_its_job_lasts(grid):
    with Job(bare(), points(), QUICK) as open_job:
        name = open_job.model
        assert MODELS.get(name).info.layers == ("linear",)
        with Job(bare(), points(), QUICK) as inner:
            assert inner.model == name
        assert MODELS.get(name), "the outer one still needs it"

    with pytest.raises(UnknownName, match=name):
        MODELS.get(name)


def test_what_cannot_travel_is_named(tmp_path):
    network = bare()
    network.lock = threading.Lock()

    with pytest.raises(QuantizationError, match=r"cannot be copied .*lock"):
        copied(network)
    with pytest.raises(QuantizationError, match=r"cannot be sent .*lock"):
        own.packed(network, tmp_path / "x.network")


def test_bfloat16_weights_count_as_they_were_given(grid):
    """Half the bytes to begin with: 8 bits of 16 are one half."""
    _, stats = PTQEngine(settings=QUICK).quantize_model(bare().bfloat16(), points())

    assert stats["compression_ratio"] == 0.5
    assert "bfloat16" in stats["notes"][0]


def test_the_controller_writes_what_it_made_and_it_opens_again(grid, tmp_path):
    wanted = QuantizationConfig(QuantizationMethod.PTQ_8BIT, HardwareTarget.CPU, benchmark_baseline=False)

    found = QuantizationController(wanted, settings=QUICK).quantize_model(bare(), points(), tmp_path / "out")

    folder = tmp_path / "out" / "ptq_8bit-cpu"
    x = torch.randn(3, 16)
    assert found["artifacts"] == {"cpu": str(folder)}
    assert (exporting.load(folder)(x) == found["model"](x)).all()
    assert found["compression_ratio"] == found["stats"]["compression_ratio"] == 0.25
    (folder / "artifact" / "weights.npy").write_bytes(b"changed")
    with pytest.raises(CorruptFile, match=r"weights\.npy is not the file"):
        exporting.load(folder)


def test_methods_are_benchmarked_side_by_side(processes):
    """Both beside full precision; dynamic int8 and static int8 are one grid for the toy, so their figures agree."""
    methods = [QuantizationMethod.PTQ_8BIT, QuantizationMethod.DYNAMIC]
    controller = QuantizationController(given(), settings=QUICK)

    found = controller.benchmark_quantization_methods(bare(), points(), methods)

    assert list(found) == ["ptq_8bit", "dynamic"]
    for figures in found.values():
        assert figures["compression_ratio"] == 0.25
        assert figures["inference_time"] > 0
        assert figures["speedup_factor"] > 0
        assert figures["original_accuracy"] == 1.0
    assert found["ptq_8bit"]["accuracy"] == found["dynamic"]["accuracy"]


def test_a_method_that_no_toolchain_takes_stays_in_the_list_with_its_reason(grid):
    convolution = nn.Sequential(nn.Conv1d(1, 2, 3), nn.Flatten())
    suite = QuantizationBenchmarkSuite(settings=QUICK)

    (found,) = suite.benchmark(convolution, [torch.randn(20, 1, 8)], [QuantizationMethod.PTQ_8BIT])

    assert np.isnan(found.accuracy_retention)
    assert "grid takes Linear layers only" in found.reasons["build"]
    assert suite.front([found]) == []


def test_what_one_toolchain_refuses_the_next_one_makes(grid, monkeypatch, tmp_path):
    monkeypatch.setitem(config.FORMATS, "pytorch", "bitsandbytes")  # which has no static int8
    wanted = QuantizationConfig(QuantizationMethod.PTQ_8BIT, HardwareTarget.CPU, benchmark_baseline=False)

    with pytest.warns(QuantizationWarning, match="pytorch: .*LLM.int8.*; instead: onnx"):
        found = QuantizationController(wanted, settings=QUICK).quantize_model(bare(), points(), tmp_path)

    assert found["quantization_method"] == "onnx_8bit"
    assert len(found["fallbacks"]) == 1


def test_a_unit_that_refuses_the_network_gives_generic_quantization_for_the_cpu(grid, tmp_path):
    """Core ML has no dynamic int8."""
    wanted = QuantizationConfig(QuantizationMethod.DYNAMIC, HardwareTarget.ANE, benchmark_baseline=False)

    with pytest.warns(QuantizationWarning, match="hardware: ane: .*generic quantization for the CPU"):
        found = QuantizationController(wanted, settings=QUICK).quantize_model(bare(), points(), tmp_path)

    assert found["quantization_method"] == "pytorch_dynamic"
    assert found["targets"]["ane"]["compression_ratio"] == 0.25

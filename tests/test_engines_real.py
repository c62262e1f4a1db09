"""The façade on the real toolchains: the specification's own examples as written there, and every engine on a CNN."""

import copy
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn as nn

import quantkit
from quantkit import (
    DynamicQuantizationEngine,
    HardwareSpecificOptimizer,
    HardwareTarget,
    MixedPrecisionEngine,
    PTQEngine,
    QATEngine,
)
from quantkit.engines import exporting, job
from quantkit.errors import CalibrationError, HardwareCompatibilityError, InvalidSetting, Unsupported
from quantkit.pipeline.settings import Settings
from quantkit.procedures.qat_settings import Training
from tests.test_engines import Here

pytestmark = pytest.mark.slow
here = pytest.mark.usefixtures("in_this_process")
QUICK = Settings(rounds=2, round_s=0.02, warmup_s=0.0)


@pytest.fixture
def in_this_process(monkeypatch):
    """Toolchains are imported once instead of once a job; the examples of the specification do start processes."""
    monkeypatch.setattr(job, "Crew", Here)


@pytest.fixture(autouse=True, scope="module")
def empty_cache(tmp_path_factory):
    """Nothing comes from a cache that was there before; what one test has built, the next one may use."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("QUANTKIT_HOME", str(tmp_path_factory.mktemp("home")))
        yield


class TestQuantizationEngine:
    """As the specification has it."""

    @pytest.fixture
    def sample_model(self):
        """Create sample model for testing."""
        return nn.Sequential(
            nn.Linear(100, 50),
            nn.ReLU(),
            nn.Linear(50, 10),
            nn.Softmax(dim=1)
        )  # fmt: skip

    @pytest.fixture
    def calibration_data(self):
        """Create sample calibration data."""
        dataset = torch.utils.data.TensorDataset(
            torch.randn(1000, 100),
            torch.randint(0, 10, (1000,))
        )  # fmt: skip
        return torch.utils.data.DataLoader(dataset, batch_size=32)

    @pytest.mark.filterwarnings("ignore::quantkit.QuantizationWarning")  # random labels: accuracy is noise
    def test_ptq_8bit_quantization(self, sample_model, calibration_data):
        """Test 8-bit post-training quantization."""
        ptq_engine = PTQEngine(bits=8)
        quantized_model, stats = ptq_engine.quantize_model(
            sample_model,
            calibration_data,
            framework="pytorch"
        )  # fmt: skip

        assert "compression_ratio" in stats
        assert stats["compression_ratio"] < 1.0  # Should be compressed
        assert isinstance(quantized_model, nn.Module)

    def test_hardware_optimization(self, sample_model):
        """Test hardware-specific optimization."""
        optimizer = HardwareSpecificOptimizer()

        # Test CPU optimization
        cpu_model, cpu_stats = optimizer.optimize_for_hardware(
            sample_model,
            HardwareTarget.CPU
        )  # fmt: skip

        assert "cpu_optimized" in cpu_stats
        assert cpu_stats["cpu_optimized"] == True  # noqa: E712
        x = torch.randn(3, 100)
        assert torch.allclose(cpu_model(x), sample_model(x), atol=1e-5)

    @here
    def test_accuracy_retention(self, sample_model):
        """Test accuracy retention after quantization: labels are the model's own answers, or there is none."""
        x = torch.randn(400, 100)
        test_dataset = [(x, sample_model(x).argmax(1))]

        # Get baseline accuracy
        baseline_accuracy = evaluate_model(sample_model, test_dataset)

        # Quantize model
        ptq_engine = PTQEngine(bits=8)
        quantized_model, _ = ptq_engine.quantize_model(sample_model, test_dataset, framework="onnx")

        # Get quantized accuracy
        quantized_accuracy = evaluate_model(quantized_model, test_dataset)

        # Assert acceptable accuracy retention
        accuracy_retention = quantized_accuracy / baseline_accuracy
        assert accuracy_retention > 0.95  # At least 95% accuracy retention


def evaluate_model(model, batches):
    right = [(model(x).argmax(1) == y).float() for x, y in batches]
    return float(torch.cat(right).mean())


class Cnn(nn.Module):
    """Two convolutions with norms and a classifier, on images of 8x8."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
        )  # fmt: skip
        self.head = nn.Linear(32, 4)

    def forward(self, x):
        return self.head(self.body(x).flatten(1))


@pytest.fixture(scope="module")
def taught():
    """A network and images: which quarter is the brightest."""
    torch.manual_seed(1)
    y = torch.randint(0, 4, (600,))
    x = 0.3 * torch.randn(600, 1, 8, 8)
    for i, quarter in enumerate(y.tolist()):
        x[i, 0, 4 * (quarter // 2) : 4 * (quarter // 2) + 4, 4 * (quarter % 2) : 4 * (quarter % 2) + 4] += 1
    network = Cnn()
    network.head = nn.Linear(16 * 4, 4)  # a mean over the image would lose the place
    network.body = nn.Sequential(*list(network.body)[:4], nn.AdaptiveAvgPool2d(2))
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    for _ in range(40):
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(x), y).backward()
        optimizer.step()
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=64)
    return network.eval(), loader


ENGINES = {
    "ptq": lambda: PTQEngine(bits=8, settings=QUICK),
    "qat": lambda: QATEngine(bits=8, training=Training(epochs=1), settings=QUICK),
    "mixed": lambda: MixedPrecisionEngine(settings=QUICK),
    "dynamic": lambda: DynamicQuantizationEngine(settings=QUICK),
}


@here
@pytest.mark.parametrize("name", ENGINES)
def test_every_engine_keeps_what_a_small_cnn_knows(taught, name):
    network, loader = taught
    before = copy.deepcopy(network.state_dict())

    model, stats = ENGINES[name]().quantize_model(network, loader, framework="onnx")

    assert stats["original_accuracy"] > 0.9, "else nothing could be lost"
    assert stats["accuracy_retention"] > 0.95
    assert stats["compression_ratio"] < 0.75
    assert model(torch.randn(3, 1, 8, 8)).shape == (3, 4)
    assert all((network.state_dict()[key] == value).all() for key, value in before.items())
    assert not network.training


@here
def test_mixed_precision_keeps_its_budget_and_says_which_layer_got_what(taught):
    network, loader = taught

    _, stats = MixedPrecisionEngine(settings=QUICK).quantize_model(network, loader, framework="onnx")

    assert stats["planned_bytes"] <= stats["budget_bytes"]
    assert set(stats["layers"]) == {"body.0", "head"}
    assert set(stats["layers"].values()) <= {"bf16", "w8a8"}


@here
def test_training_needs_targets_for_a_loss_of_the_task(taught):
    network, _ = taught
    engine = QATEngine(loss=nn.functional.cross_entropy, settings=QUICK)

    with pytest.raises(CalibrationError, match="needs targets"):
        engine.quantize_model(network, [torch.randn(20, 1, 8, 8)], framework="onnx")


@here
def test_an_adaptive_session_of_an_own_network_keeps_its_accuracy(taught):
    network, loader = taught
    engine = DynamicQuantizationEngine(settings=QUICK)

    with engine.adaptive_session(network, loader, "onnx", loss=0.02, methods=("int8_static",)) as (session, facts):
        answers = [session.answer((x[None].numpy(),)) for x in loader.dataset.tensors[0][:40]]

    assert facts["precisions"] == ["int8_static", "fp32"]
    assert facts["thresholds"].tested >= 250  # four fifths of three fifths of 600
    said = torch.tensor([int(answer.output.argmax()) for answer in answers])
    assert (said == loader.dataset.tensors[1][:40]).float().mean() > 0.9
    assert {answer.precision for answer in answers} <= {"int8_static", "fp32"}


class Record(dict):
    """As transformers returns it: a dictionary whose values can be had by attribute."""


class Encoder(nn.Module):
    """A little text classifier with the face of one of transformers."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.table = nn.Embedding(50, 64)
        self.hidden, self.classifier = nn.Linear(64, 64), nn.Linear(64, 3)

    def forward(self, input_ids, attention_mask=None, labels=None, use_cache=True):
        mask = attention_mask[..., None].float()
        mean = (self.table(input_ids) * mask).sum(1) / mask.sum(1)
        found = Record(logits=self.classifier(torch.relu(self.hidden(mean))))
        return Record(found, past=mean) if use_cache else found


@here
@pytest.mark.filterwarnings("ignore::quantkit.QuantizationWarning")
@pytest.mark.parametrize("bits", [8, 4])
def test_a_network_that_takes_a_dictionary_and_returns_a_record(bits):
    """By bitsandbytes, as for transformers: inputs by name go in, the logits come out, item by item."""
    torch.manual_seed(0)
    ids, mask, network = torch.randint(0, 50, (80, 7)), torch.ones(80, 7, dtype=torch.int64), Encoder()
    labels = network(ids, mask)["logits"].argmax(1)
    batch = {"input_ids": ids, "attention_mask": mask, "labels": labels, "text": ["words"] * 80}

    model, stats = PTQEngine(bits=bits, settings=QUICK).quantize_model(network, [batch], framework="huggingface")

    answer = model(attention_mask=mask[:2], input_ids=ids[:2])
    assert answer.shape == (2, 3)
    assert torch.allclose(answer, model(ids[:2], mask[:2]))
    assert stats["sqnr_db"] > (25 if bits == 8 else 12)  # 4 bits: NF4's 20 dB for a normal weight, two layers, slack
    assert stats["accuracy_metric"] == "top1_accuracy"
    assert not any("table" in warning for warning in stats["warnings"]), "it stayed in float and is not to blame"
    assert any("text" in note for note in stats["notes"])


@here
def test_units_of_apple_silicon_are_built_for_and_their_speed_is_not_made_up():
    network = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 8))
    optimizer = HardwareSpecificOptimizer(QUICK)

    model, stats = optimizer.optimize_for_hardware(network, HardwareTarget.ANE)

    x = torch.randn(2, 64)
    assert torch.allclose(model(x), network(x), atol=0.02)  # float16
    assert stats["ane_compatible"]
    assert stats["neural_engine_optimized"] == optimizer.hardware_info["ane_available"]
    if not optimizer.hardware_info["is_apple_silicon"]:
        assert stats["speed"].startswith("unavailable: needs macOS")


def test_shapes_that_nothing_says_are_asked_for():
    with pytest.raises(InvalidSetting, match="Conv2d does not say them: give data"):
        HardwareSpecificOptimizer().optimize_for_hardware(Cnn(), HardwareTarget.CPU)


@here
def test_an_artifact_moves_to_the_targets_of_its_toolchain_only(taught):
    network, loader = taught
    model, _ = PTQEngine(settings=QUICK).quantize_model(network, loader, framework="onnx")

    same, stats = HardwareSpecificOptimizer().optimize_for_hardware(model, HardwareTarget.CPU)

    x = torch.randn(1, 1, 8, 8)
    assert stats["cpu_optimized"]
    assert torch.equal(same(x), model(x))
    with pytest.raises(HardwareCompatibilityError, match="onnxruntime does not run on"):
        model.on("tpu")


class Attention(nn.Module):
    """Four matrices of 4,096 weights, and biases."""

    def __init__(self):
        super().__init__()
        self.query, self.key, self.value, self.out = (nn.Linear(64, 64) for _ in range(4))


def test_recommendations_follow_the_architecture_and_the_constraints():
    controller = quantkit.QuantizationController(
        quantkit.QuantizationConfig(quantkit.QuantizationMethod.PTQ_8BIT, HardwareTarget.CPU)
    )
    transformer = Attention()
    weights = sum(p.numel() for p in transformer.parameters())

    def recommend(network, **constraints):
        return controller.recommend_quantization_strategy(network, {"target": HardwareTarget.CPU} | constraints)

    assert recommend(Cnn())[0] is quantkit.QuantizationMethod.PTQ_8BIT
    assert recommend(transformer)[0] is quantkit.QuantizationMethod.DYNAMIC
    assert recommend(transformer, max_size_bytes=0.8 * weights)[0] is quantkit.QuantizationMethod.PTQ_4BIT
    with pytest.raises(Unsupported, match="no method keeps max_size_bytes=10"):
        recommend(transformer, max_size_bytes=10)
    with pytest.raises(InvalidSetting, match="max_latency_s can only be measured"):
        recommend(transformer, max_latency_s=0.001)
    with pytest.raises(InvalidSetting, match="Did you mean 'max_latency_s'"):
        recommend(transformer, max_latency=1)


def test_what_a_network_is():
    found = quantkit.analyze(nn.LSTM(8, 16))

    assert found.architecture_type == "rnn"
    assert found.parameters == 4 * 16 * (8 + 16 + 2)  # four gates: inputs, states, two biases
    assert found.quantization_compatibility["dynamic"]
    assert found.recommended_methods[0] == "dynamic"


@here
def test_the_controller_exports_to_the_formats_that_were_asked_for(taught, tmp_path):
    network, loader = taught
    config = quantkit.QuantizationConfig(
        quantkit.QuantizationMethod.PTQ_8BIT, HardwareTarget.MPS_GPU, benchmark_baseline=False, export_formats=["onnx"]
    )

    found = quantkit.QuantizationController(config, settings=QUICK).quantize_model(network, loader, tmp_path)

    x = next(iter(loader))[0][:4]
    opened = exporting.load(found["artifacts"]["onnx"])
    assert set(found["artifacts"]) == {"mps", "onnx"}
    assert torch.allclose(opened(x), network(x), atol=0.1 * float(network(x).detach().abs().max()))
    assert found["stats"]["quantization_method"] == "coreml_8bit"


def test_the_example_of_the_documentation_runs_as_it_stands(tmp_path):
    page = (Path(__file__).parents[1] / "docs" / "python.md").read_text()
    (example,) = re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)

    done = subprocess.run([sys.executable, "-c", example], cwd=tmp_path, capture_output=True, text=True)

    assert done.returncode == 0, done.stderr
    assert "torch.Size([3, 10])" in done.stdout

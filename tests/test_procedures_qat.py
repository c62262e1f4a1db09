"""Quantization-aware training: laws of the grids, of resuming, of the way back by name, and that it recovers a loss."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from quantkit.contracts import Plan, Prepared, Split
from quantkit.errors import CalibrationError, CorruptFile, InvalidSetting, QuantizationError, Unsupported
from quantkit.procedures import (
    layers,
    qat,
    qat_coreml,
    qat_data,
    qat_fake,
    qat_graph,
    qat_loss,
    qat_report,
    qat_verdict,
)
from quantkit.procedures.qat_settings import Stage, Training, gradual
from quantkit.scheme import PerChannel, PerGroup, PerTensor, Scheme

W4, W2 = Scheme(4), Scheme(2)
AFFINE = Scheme(4, granularity=PerGroup(8), symmetric=False)
W8A8 = Scheme(8, activations="static")
QUICK = Training(epochs=2, batch=16, learning_rate=1e-3)


def network(seed: int = 0) -> nn.Module:
    """Return convolution, norm and linear layer: [n, 1, 8, 8] -> logits [n, 4]."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        built = nn.Sequential(
            nn.Conv2d(1, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(288, 16), nn.ReLU(),
            nn.Linear(16, 4),
        )  # fmt: skip
        built.train()(torch.randn(64, 1, 8, 8))  # statistics of its own
    return built.eval()


def items(count: int = 64, seed: int = 0) -> Split:
    rng = np.random.default_rng(seed)
    inputs = rng.standard_normal((count, 1, 8, 8), dtype=np.float32)
    return Split((inputs,), rng.integers(0, 4, count), tuple(map(str, range(count))))


def codes_distance(trained: nn.Module, plan: Plan) -> float:
    """Return the largest distance of a weight from its own grid."""
    return max(
        float((weight - layers.rounded(weight, plan.default)).abs().max())
        for module in layers.weight_layers(trained).values()
        for weight in layers.weights_of(module).values()
    )


@pytest.mark.parametrize("scheme", [W4, AFFINE, Scheme(4, granularity=PerTensor()), Scheme(4, "nf4", PerGroup(64))])
def test_the_trained_weights_lie_on_the_grid(scheme):
    """Rounding the result again changes nothing, so that a backend of that grid finds the same codes."""
    model = network()

    trained = qat.train(model, Plan(scheme), items(), QUICK)

    assert codes_distance(trained.network, Plan(scheme)) < 1e-5
    assert {type(m) for m in trained.network.modules()} == {type(m) for m in model.modules()}
    assert trained.network.state_dict().keys() == model.state_dict().keys()


def test_the_given_network_is_not_changed():
    model = network()
    before = copy.deepcopy(model.state_dict())

    trained = qat.train(model, Plan(W4), items(), QUICK)

    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)
    assert not model.training and not trained.network.training
    assert all(p.requires_grad for p in model.parameters())


def test_the_random_state_and_the_threads_of_the_caller_stay():
    torch.manual_seed(7)
    expected, threads = torch.rand(3), torch.get_num_threads()
    torch.manual_seed(7)

    qat.train(network(), Plan(W4), items(), Training(epochs=1, threads=2))

    assert torch.equal(torch.rand(3), expected) and torch.get_num_threads() == threads


def test_a_coarse_grid_is_learned_without_labels():
    """At 2 bits (codes -1, 0, 1) rounding ruins a small network; the teacher's answers alone bring half back."""
    model, plan, held = network(), Plan(W2), items(128, seed=9)
    told = layers.answers(model, held)

    trained = qat.train(model, plan, items(512), Training(epochs=12, batch=32, learning_rate=3e-3), logits=False)

    def noise(candidate: nn.Module) -> float:
        return float((layers.answers(candidate, held) - told).square().mean())

    assert noise(trained.network) < 0.5 * noise(layers.simulated(model, plan))
    assert trained.report.after.sqnr_db > trained.report.before.sqnr_db
    assert trained.best > 0 and trained.history[-1].loss < trained.history[0].loss


def test_a_rate_that_ruins_gives_back_the_rounded_original():
    """No epoch is better than none: the weights are the original's, rounded to nearest."""
    model, plan = network(), Plan(W4)

    trained = qat.train(model, plan, items(), Training(epochs=1, learning_rate=10.0, batch=16))

    assert trained.best == 0
    expected = layers.simulated(model, plan).state_dict()
    torch.testing.assert_close(trained.network.state_dict(), expected, rtol=0, atol=1e-6)


class Cut(Exception):
    """What cuts a training."""


@pytest.mark.parametrize("scheme", [W4, pytest.param(W8A8, marks=pytest.mark.slow)], ids=["layered", "graph"])
def test_a_cut_training_goes_on_as_if_uncut(tmp_path, scheme):
    """Order, noise, moments, ranges and the best epoch come back: the weights are equal bit by bit."""
    model, training = network(), Training(epochs=4, batch=16, noise=0.5 if scheme == W4 else 1.0)
    whole = qat.train(model, Plan(scheme), items(), training)

    def cut(line: str) -> None:
        if "epoch 3/4" in line:
            raise Cut  # before the third checkpoint is written: that epoch is done again

    with pytest.raises(Cut):
        qat.train(model, Plan(scheme), items(), training, folder=tmp_path, say=cut)
    said: list[str] = []
    resumed = qat.train(model, Plan(scheme), items(), training, folder=tmp_path, say=said.append)

    assert said[0] == "goes on after epoch 2 of 4"
    assert [epoch.number for epoch in resumed.history] == [1, 2, 3, 4]
    torch.testing.assert_close(resumed.network.state_dict(), whole.network.state_dict(), rtol=0, atol=0)


def test_every_training_has_its_own_file_and_a_done_one_is_not_done_again(tmp_path):
    first = qat.train(network(), Plan(W4), items(), QUICK, folder=tmp_path)
    qat.train(network(1), Plan(W4), items(), QUICK, folder=tmp_path)
    qat.train(network(), Plan(W4), items(), QUICK, folder=tmp_path, logits=False)
    said: list[str] = []

    again = qat.train(network(), Plan(W4), items(), QUICK, folder=tmp_path, say=said.append)

    assert len(list(tmp_path.iterdir())) == 3 and said == ["goes on after epoch 2 of 2"]
    torch.testing.assert_close(again.network.state_dict(), first.network.state_dict(), rtol=0, atol=0)
    for file in tmp_path.iterdir():
        file.write_bytes(b"half of")
    with pytest.raises(CorruptFile, match="delete it to train from the start"):
        qat.train(network(), Plan(W4), items(), QUICK, folder=tmp_path)


def test_progress_has_bar_losses_and_time_left():
    said: list[str] = []

    qat.train(network(), Plan(W4), items(), QUICK, say=said.append)

    assert said[0].startswith("before training: validation ")
    assert said[1].startswith("[##########..........] epoch 1/2: loss ") and said[1].endswith(" s left")
    assert said[2].startswith("[####################] epoch 2/2: ") and "at most 0 s left" in said[2]


def test_patience_ends_a_training_that_gains_nothing():
    """With a rate of nearly 0 no epoch gains, so that it ends after as many epochs as patience lasts."""
    training = Training(epochs=9, patience=2, learning_rate=1e-30, freeze_norms_after=0)

    assert len(qat.train(network(), Plan(W4), items(), training).history) == 2


def test_patience_is_counted_from_the_whole_plan_on():
    stages = (Stage(0, share=0.0), Stage(3))
    training = Training(epochs=9, patience=2, learning_rate=1e-30, freeze_norms_after=0, schedule=stages)

    assert len(qat.train(network(), Plan(W4), items(), training).history) == 5


def student(training: Training, scheme: Scheme = W4) -> qat_fake.Layered:
    return qat_fake.Layered(network(), Plan(scheme), items(), training)


def test_a_stage_rounds_the_first_layers_at_its_own_width():
    """Of three layers a share of one half is the first two (places 0 and 1 lie below 1.5); 8 bits beat 4 by far."""
    training = Training(schedule=(Stage(0, share=0.5, bits=8), Stage(1)))
    learner = student(training)
    learner.learn(training.stage(0), norms=True)

    found = learner._weights()

    assert list(found) == ["0.weight", "4.weight"]
    assert torch.equal(found["4.weight"], layers.rounded(learner.module[4].weight, Scheme(8)))
    learner.judge()
    assert list(learner._weights()) == ["0.weight", "4.weight", "6.weight"]


def test_noise_rounds_its_share_of_the_weights():
    """Of 4,608 weights that are drawn with .25 each, 4 standard deviations are 4·sqrt(.25·.75/4608) = .026."""
    learner = student(Training(noise=0.25))
    learner.learn(Stage(0), norms=True)

    weight, used = learner.module[4].weight, learner._weights()["4.weight"]

    assert float((used != weight).float().mean()) == pytest.approx(0.25, abs=0.026)
    learner.judge()
    assert torch.equal(learner._weights()["4.weight"], layers.rounded(weight, W4))


def test_for_pytorchs_kernel_torchao_rounds_on_the_grid_of_its_own_quantizer():
    """Two paths of torchao: what training rounds to is what its int4 quantizer stores, taken from float32."""
    from torchao.prototype.quantization.int4 import PrototypeInt4WeightOnlyConfig
    from torchao.quantization import quantize_

    model, scheme = nn.Sequential(nn.Linear(64, 16, bias=False)), Scheme(4, granularity=PerGroup(32))
    learner = qat_fake.Layered(model, Plan(scheme), items(), Training(grid="tinygemm"))
    trained = learner.network()
    stored = copy.deepcopy(model)

    quantize_(stored, PrototypeInt4WeightOnlyConfig(group_size=32, set_inductor_config=False))

    assert set(learner._fakes) == {"0"} and learner.engine == "torchao 1, straight-through 0 layers"
    x = torch.eye(64, dtype=torch.bfloat16)
    weight = stored[0].weight
    scales = weight.scale_and_zero.to(torch.bfloat16)
    stored[0].weight = nn.Parameter(type(weight)(weight.qdata, scales, weight.block_size, weight.shape), False)
    torch.testing.assert_close(stored(x).float(), trained[0].weight.T, rtol=2**-7, atol=2e-3)  # bfloat16
    assert (trained[0].weight - model[0].weight).abs().max() > 5e-3
    again = qat_fake.Layered(trained, Plan(scheme), items(), Training(grid="tinygemm")).network()
    torch.testing.assert_close(again[0].weight, trained[0].weight, rtol=0, atol=1e-6)


@pytest.mark.parametrize("bits", [4, 8])
def test_the_signed_grid_is_what_onnx_runtime_stores(bits):
    onnxruntime = pytest.importorskip("onnxruntime")
    import onnx
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    scheme, weight = Scheme(bits, granularity=PerGroup(32)), torch.randn(16, 64, generator=torch.manual_seed(0))
    graph = onnx.parser.parse_graph("g (float[64, 64] x) => (float[64, 16] y) { y = MatMul(x, w) }")
    graph.initializer.append(onnx.numpy_helper.from_array(weight.T.numpy().copy(), "w"))
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 21)], ir_version=10)
    quantizer = MatMulNBitsQuantizer(model, bits=bits, block_size=32, is_symmetric=True)
    quantizer.process()

    session = onnxruntime.InferenceSession(quantizer.model.model.SerializeToString())
    (stored,) = session.run(None, {"x": np.eye(64, dtype=np.float32)})

    near = layers.rounded(weight, scheme, signed=True)
    torch.testing.assert_close(torch.from_numpy(stored.T.copy()), near, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(layers.rounded(near, scheme, signed=True), near, rtol=1e-5, atol=1e-6)
    assert (near - layers.rounded(weight, scheme)).abs().max() > 1e-3, "another grid than the scheme's own"


def test_a_method_trains_for_the_grid_of_its_backend():
    from quantkit.catalog import BACKENDS, METHODS

    method = METHODS.get("qat_int4")

    grids = {name: method.for_backend(BACKENDS.get(name)).grid for name in ("coreml", "onnxruntime", "pytorch")}

    assert grids == {"coreml": "scheme", "onnxruntime": "signed", "pytorch": "tinygemm"}
    noisy = Training(noise=0.5)
    assert noisy.on("tinygemm") is noisy and noisy.on("signed").grid == "signed", "torchao knows no noise"


def test_torchaos_other_grids_are_nobodys():
    """Why those layers are rounded by us.

    Symmetric: 7.5 has the scale 1 and becomes 7, though it is the largest. Affine by default: 1..16 lie on the codes
    0..15 of scale 1 with the zero point -1, or a float one; cut to an integer of the wrong unit all move by more than
    a step.
    """
    from torchao.quantization.qat import IntxFakeQuantizeConfig
    from torchao.quantization.qat.fake_quantizer import IntxFakeQuantizer

    def fake(row: torch.Tensor, kind: torch.dtype, symmetric: bool) -> torch.Tensor:
        return IntxFakeQuantizer(IntxFakeQuantizeConfig(kind, group_size=row.shape[1], is_symmetric=symmetric))(row)

    row, ramp = torch.tensor([[7.5, 3.0, -1.0, 2.0]]), torch.arange(-8.0, 8.0)[None]

    assert fake(row, torch.int4, True).tolist() == [[7.0, 3.0, -1.0, 2.0]]
    assert layers.rounded(row, Scheme(4, granularity=PerGroup(4)))[0, 0] == 7.5
    assert (fake(ramp, torch.uint4, False) - ramp).abs().max() >= 1
    assert torch.equal(layers.rounded(ramp, Scheme(4, granularity=PerGroup(16), symmetric=False)), ramp)


def test_tables_of_a_container_are_no_layers():
    class Positions(nn.Module):
        def __init__(self):
            super().__init__()
            self.head, self.position = nn.Linear(4, 2), nn.Parameter(torch.ones(3, 4))

    assert set(qat_fake.asked(Positions(), Plan(W4))) == {"head"}


def test_gradients_pass_through_rounding_and_stop_outside_a_range():
    """Straight through inside; an input beyond its range is cut, so that its gradient is 0."""
    model = nn.Sequential(nn.Linear(2, 1, bias=False))
    calibrated = Split((np.array([[-1.0, 1.0], [1.0, 1.0]], np.float32),), np.zeros(2), ("a", "b"))
    learner = qat_fake.Layered(model, Plan(W8A8), calibrated, QUICK)
    learner.learn(Stage(0), norms=True)
    x = torch.tensor([[0.3, 4.0]], requires_grad=True)

    learner(x).sum().backward()

    used = layers.rounded(model[0].weight, W8A8)[0]
    assert x.grad is not None and x.grad[0, 0] == used[0] and x.grad[0, 1] == 0
    largest = 127 * 2 / 255  # of codes 0..255 over [-1, 1] with the zero point 128
    assert float(learner.module[0].weight.grad[0, 1]) == pytest.approx(largest)  # 4 was cut


def test_tied_weights_stay_tied():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.head = nn.Embedding(10, 8), nn.Linear(8, 10, bias=False)
            self.head.weight = self.embed.weight

        def forward(self, tokens):
            return self.head(self.embed(tokens))

    tokens = np.random.default_rng(0).integers(0, 10, (32, 4))
    split = Split((tokens,), tokens, tuple(map(str, range(32))))

    trained = qat.train(Tied().eval(), Plan(Scheme(4, granularity=PerGroup(8))), split, QUICK).network

    assert trained.head.weight is trained.embed.weight


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["auto", "coreml"])
def test_the_graphs_weights_go_back_by_name(engine):
    """With fake quantization off the trained graph and the network of its weights answer alike, norms fused or not."""
    if engine == "coreml":
        pytest.importorskip("coremltools")
    model, data = network(), items()
    learner = (qat_coreml.CoremlGraph if engine == "coreml" else qat_graph.Graph)(model, Plan(W8A8), data)
    learner.learn(Stage(0), norms=True)
    optimizer = torch.optim.SGD(learner.module.parameters(), lr=0.05)
    for _ in range(3):  # weights, norms and statistics move
        optimizer.zero_grad()
        learner(torch.from_numpy(data.inputs[0][:32])).square().mean().backward()
        optimizer.step()
    plain = copy.deepcopy(model)

    plain.load_state_dict(learner.plain_state())
    learner.float()

    x = torch.from_numpy(items(8, seed=5).inputs[0])
    with torch.no_grad():
        torch.testing.assert_close(plain(x), learner(x), rtol=1e-4, atol=1e-5)
        assert not torch.allclose(plain(x), model(x), atol=1e-2)
        assert not torch.equal(plain[1].running_mean, model[1].running_mean)
        learner.judge()
        assert not torch.allclose(learner(x), plain(x), atol=1e-5)  # rounding is on again


@pytest.mark.slow
def test_static_int8_goes_through_the_graph_and_mixed_plans_through_layers():
    model, data = network(), items()

    whole = qat.train(model, Plan(W8A8), data, Training(epochs=1))
    mixed = qat.train(model, Plan(W8A8, {"6": None}), data, Training(epochs=1))

    assert whole.engine == "torchao PT2E" and "straight-through 2" in mixed.engine
    assert torch.equal(whole.network[1].num_batches_tracked * 0, torch.tensor(0))
    assert codes_distance(whole.network, Plan(W8A8)) < 1e-5
    assert all(0 <= use.clipped_inputs < 0.1 for use in whole.report.layers)


@pytest.mark.parametrize("norms", [True, False])
def test_frozen_norms_keep_their_statistics(norms):
    learner, before = student(QUICK), network()[1].running_mean
    learner.learn(Stage(0), norms=norms)

    learner(torch.from_numpy(items().inputs[0]))

    assert torch.equal(learner.module[1].running_mean, before) is not norms


def test_the_task_loss_takes_the_share_that_distillation_leaves():
    """A task that wants all logits at 0, with all of the loss, shrinks them; the teacher alone does not."""
    model, data = network(), items(256)
    how = {"epochs": 6, "learning_rate": 3e-3, "freeze_norms_after": 0}

    def shrink(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return outputs.square().mean()

    shrunk = qat.train(model, Plan(W4), data, Training(distill=0.0, **how), loss=shrink).network
    told = qat.train(model, Plan(W4), data, Training(distill=1.0, **how), loss=shrink).network

    size = {name: float(layers.answers(n, data).square().mean()) for name, n in (("shrunk", shrunk), ("told", told))}
    assert size["shrunk"] < 0.5 * size["told"]


def test_distillation_by_hand():
    """KL([.5 .5] || [.25 .75]) = .5·ln 2 + .5·ln(2/3) = .143841; times T² with logits times T it is the same again."""
    teacher, own = torch.zeros(1, 2), torch.tensor([[0.0, np.log(3)]], dtype=torch.float32)

    once = qat_loss.distillation(own, teacher, logits=True, temperature=1.0)
    softened = qat_loss.distillation(2 * own, teacher, logits=True, temperature=2.0)
    other = qat_loss.distillation(torch.tensor([3.0, 4.5]), torch.tensor([3.0, 4.0]), logits=False, temperature=1.0)

    assert float(once) == pytest.approx(0.143841, abs=1e-6)
    assert float(softened) == pytest.approx(4 * 0.143841, abs=1e-5)
    assert float(other) == pytest.approx(0.25 / 25)


def test_the_grid_loss_pulls_weights_to_their_grid():
    """7 is on its grid; 2.25 lies .25 from 2: the share is .25² / |w|², its gradient 2·.25 / |w|²."""
    model = nn.Sequential(nn.Linear(2, 1, bias=False))
    model[0].weight.data = torch.tensor([[7.0, 2.25]])

    distance = qat_fake.mean_distance(model, ["0"], lambda _, weight: layers.rounded(weight, W4))
    distance.backward()

    square = 49 + 2.25**2
    assert float(distance) == pytest.approx(0.25**2 / square)
    torch.testing.assert_close(model[0].weight.grad, torch.tensor([[0.0, 2 * 0.25 / square]]))


def test_a_grid_loss_leaves_latent_weights_nearer_the_grid():
    def left(grid_loss: float) -> float:
        learner = student(Training())
        optimizer = torch.optim.Adam(learner.module.parameters(), 1e-3)
        for _ in range(20):
            optimizer.zero_grad()
            (learner(torch.from_numpy(items().inputs[0])).mean() * 0 + grid_loss * learner.distance()).backward()
            optimizer.step()
        return float(learner.distance())

    assert left(1.0) < 0.5 * left(0.0)


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm, self.head = nn.LSTM(8, 4, batch_first=True), nn.Linear(4, 4)

    def forward(self, x):
        return self.head(self.lstm(x.squeeze(1))[0][:, -1])


class Stepwise(nn.Module):
    states = ("cache",)


@pytest.mark.parametrize(
    ("model", "plan", "reason"),
    [
        (Recurrent(), Plan(W4), "layer 'lstm' cannot be trained at w4a16: the weights of LSTM go into one fused call"),
        (Stepwise(), Plan(W4), "one position at a time"),
        (network(), Plan(Scheme(4, "lut", PerTensor())), "only uniform integers and NF4"),
        (network(), Plan(Scheme(4, codes="gptq")), "codes other than the nearest"),
        (network(), Plan(Scheme(32, "fp32")), "fp32 quantizes no layer"),
        (network(), Plan(W4, {"nine": None}), "no weights here: nine"),
    ],
    ids=["lstm", "stepwise", "palette", "gptq", "float", "unknown"],
)
def test_what_cannot_be_trained_is_refused_with_a_reason(model, plan, reason):
    with pytest.raises(Unsupported, match=reason):
        qat.train(model.eval(), plan, items(), QUICK)


def test_a_recurrent_layer_may_stay_in_float():
    trained = qat.train(Recurrent().eval(), Plan(W4, {"lstm": None}), items(), QUICK)

    assert [use.name for use in trained.report.layers] == ["head"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"epochs": 0}, "epochs must be at least 1"),
        ({"noise": 0.0}, "share of weights quantized"),
        ({"distill": 1.5}, "share from 0 to 1: got 1.5"),
        ({"learning_rate": 0.0}, "learning_rate must be positive"),
        ({"validation_share": 1.0}, "between 0 and 1"),
        ({"grid_loss": -1.0}, "must not be negative"),
        ({"schedule": (Stage(1),)}, r"start at epoch 0.*got \[1\]"),
        ({"schedule": (Stage(0, share=0.5),)}, "last stage must quantize all"),
        ({"schedule": (Stage(0, share=2.0), Stage(1))}, "share of a stage"),
    ],
)
def test_settings_without_sense_are_refused(changes, said):
    with pytest.raises(InvalidSetting, match=said):
        Training(**changes)
    with pytest.raises(InvalidSetting, match="3 stages before the whole plan need 6 epochs: got 4"):
        gradual(4, layers=(0.3, 0.6), bits=(8,))


def test_a_loss_that_explodes_is_an_error():
    with pytest.raises(QuantizationError, match=r"loss of nan: lower the learning rate \(0\.001\)"):
        qat.train(
            network(),
            Plan(W4),
            items(),
            Training(epochs=1, distill=0.0),
            loss=lambda outputs, _: outputs.sum() * np.nan,
        )


def test_items_are_parted_for_good_and_for_all():
    """The parts are disjoint, together whole, and the same at every call; a user's loader keeps its order."""
    data = items(20)

    learn, held = qat_data.held_out(data, 0.1, seed=3)

    assert sorted((*learn.ids, *held.ids), key=int) == list(data.ids) and len(held) == 2
    assert qat_data.held_out(data, 0.1, seed=3)[1].ids == held.ids
    parts = list(qat_data.batches(torch.arange(9), 4))
    assert [len(rows) for rows in parts] == [3, 3, 3] and torch.equal(torch.cat(parts), torch.arange(9))
    with pytest.raises(CalibrationError, match="at least 4 items"):
        qat_data.held_out(items(3), 0.1, seed=0)


def test_a_users_loader_becomes_items():
    data = torch.utils.data.TensorDataset(torch.arange(10.0)[:, None], torch.arange(10))

    split = qat_data.from_loader(torch.utils.data.DataLoader(data, batch_size=4), most=6)
    alone = qat_data.from_loader([torch.ones(2, 3)])

    assert split.inputs[0][:, 0].tolist() == split.targets.tolist() == [0, 1, 2, 3, 4, 5] and len(split) == 6
    assert qat_data.targets_of(alone) is None and alone.inputs[0].shape == (2, 3)
    with pytest.raises(CalibrationError, match="got 0 batches"):
        qat_data.from_loader([])


def test_use_of_a_grid_by_hand():
    """Codes 7, 0, 0, -1 of 15: three are used; one of four weights lies at an end of the grid."""
    layer = nn.Linear(4, 1, bias=False)
    layer.weight.data = torch.tensor([[0.7, 0.0, 0.01, -0.1]])

    use = qat_report.layer_use("0", layer, W4)

    assert use.occupancy == pytest.approx(3 / 15)
    assert use.entropy_bits == pytest.approx(1.5)  # shares 1/4, 1/2, 1/4
    assert use.saturated == 0.25


def test_clipping_counts_what_lies_outside():
    """Ranges from [0, 1]; of the values -0.5, 0.5, 2, 0.25 two lie outside."""
    layer = nn.Sequential(nn.Linear(2, 1))
    seen = Split((np.array([[0.0, 1.0]], np.float32),), np.zeros(1), ("a",))
    other = Split((np.array([[-0.5, 0.5], [2.0, 0.25]], np.float32),), np.zeros(2), ("b", "c"))

    assert qat_report.clipping(layer, {"0": W8A8}, seen, other) == {"0": 0.5}


def test_verdict_and_recovered_share_by_hand():
    """Of 1,000 items the original has 900 right, rounding 800, training 880: 80 of 100 lost ones are back."""
    right = np.repeat([1.0, 0.0], [900, 100])
    rounded, trained = right.copy(), right.copy()
    rounded[:100], trained[:20] = 0, 0

    found = qat_verdict.compare(right, rounded, trained, outcome="binary", better="higher", margin=0.01)

    assert found.recovered == pytest.approx(0.8) and found.low < 0.8 < found.high and found.low > 0.6
    assert found.trained_vs_rounded.verdict == "pass" and found.trained_vs_rounded.drop == pytest.approx(-0.08)
    assert found.lost == pytest.approx(0.1)
    nothing = qat_verdict.compare(right, right, right, outcome="binary", better="higher", margin=0.01)
    assert nothing.recovered is None and nothing.lost == 0


def test_the_models_losses_are_their_outcomes():
    """The mean cross-entropy of logits is what the zoo's decoder is judged by, and falls for the right class."""
    from quantkit.catalog import MODELS

    logits = torch.from_numpy(np.random.default_rng(0).standard_normal((3, 5, 7), dtype=np.float32))
    targets = torch.from_numpy(np.random.default_rng(1).integers(0, 7, (3, 5)))
    gpt, fashion = MODELS.get("pydoc_gpt"), MODELS.get("fmnist_cnn")

    assert float(gpt.loss(logits, targets)) == pytest.approx(gpt.outcomes(logits.numpy(), targets.numpy()).mean(), 1e-5)
    sure = 20.0 * functional.one_hot(targets[:, 0], 10).float()
    assert float(fashion.loss(sure, targets[:, 0])) == pytest.approx(0.0, abs=1e-4)


def test_per_channel_is_what_the_methods_ask_for():
    """The pairs that are compared have one scheme, so that they differ in the weights only."""
    from quantkit.catalog import METHODS, MODELS

    pairs = (("qat_int4", "int4_weight_only"), ("qat_int8", "int8_static"))
    for trained, rounded in (*pairs, ("qat_int4_per_channel", "int4_weight_only_per_channel")):
        assert METHODS.get(trained).scheme == METHODS.get(rounded).scheme
    assert METHODS.get("qat_int4_per_channel").scheme.granularity == PerChannel(0)
    for model, said in (("fmnist_lstm", "LSTM"), ("pydoc_gpt_cached", "one position"), ("resnet50", "random weights")):
        assert said in METHODS.get("qat_int4").unsupported(MODELS.get(model).info)


@pytest.mark.slow
def test_coremltools_trainer_gives_back_a_plain_network():
    pytest.importorskip("coremltools")
    model = network()

    trained = qat.train(model, Plan(W8A8), items(), Training(epochs=1, engine="coreml", learning_rate=1e-4))

    assert trained.engine == "coremltools LinearQuantizer"
    assert trained.network.state_dict().keys() == model.state_dict().keys()
    assert codes_distance(trained.network, Plan(W8A8)) < 1e-5
    with pytest.raises(Unsupported, match="takes static int8 per channel"):
        qat.train(model, Plan(W4), items(), Training(engine="coreml"))


def test_a_method_is_told_what_its_model_knows():
    from quantkit.catalog import METHODS, MODELS

    method, model = METHODS.get("qat_int4"), MODELS.get("fmnist_cnn")

    told = method.for_model(model)

    assert told.loss == model.loss and told.logits and told.scheme == method.scheme
    assert method.loss is None


class Greedy:
    """A method that asks for more calibration items than the settings have."""

    calibration_items = 50

    def for_model(self, model):
        self.told = model
        return self

    def prepare(self, network, example, calibration):
        self.given = len(calibration)
        return Prepared(network, Plan(W4), example, calibration)


class Zoo:
    def load(self):
        return network()


def test_a_build_gives_training_its_items_and_ranges_the_usual_number():
    from quantkit.pipeline import inside
    from quantkit.pipeline.settings import Settings

    method, model, settings = Greedy(), Zoo(), Settings(calibration=10)

    prepared = inside.prepare(method, model, object(), items(1).inputs, items(settings.items_for(method)), settings)

    assert method.told is model and method.given == 50
    assert prepared.calibration.ids == tuple(map(str, range(10))) and len(prepared.calibration.inputs[0]) == 10
    assert Settings(calibration=80).items_for(method) == 80 and settings.items_for(Zoo()) == 10


def test_items_that_training_asks_for_are_part_of_the_artifacts_key(monkeypatch):
    from dataclasses import replace

    from quantkit.catalog import METHODS
    from quantkit.pipeline import keys
    from quantkit.pipeline.settings import Settings
    from quantkit.records import Case

    case, method = Case("fmnist_cnn", "qat_int4_per_channel", "coreml", "cpu"), METHODS.get("qat_int4_per_channel")
    before = keys.artifact_key(case, Settings())
    fewer = replace(method, calibration_items=300)

    monkeypatch.setitem(METHODS._loaded, case.method, (fewer, METHODS.file(case.method)))

    assert keys.artifact_key(case, Settings()) != before

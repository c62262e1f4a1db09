"""The search on a toolchain that simulates, on a target whose clock is advanced by what runs; then on real ones."""

import itertools
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from quantkit.catalog import BACKENDS, METHODS, TARGETS, VARIABLE
from quantkit.contracts import BuildReport, LayerReport, Plan, Quality, Split
from quantkit.errors import BudgetTooSmall, Unsupported
from quantkit.procedures import costs, layers, sensitivity
from quantkit.scheme import PerGroup, Scheme
from quantkit.search import judge, plugin, steps, timing

HALF, EIGHT, FOUR, TWO = Scheme(16, "bf16"), Scheme(8), Scheme(4), Scheme(2)
SCHEMES = (HALF, EIGHT, FOUR, TWO)
EMPTY_S, PER_BIT_S = 1e-3, 1e-6  # what a call costs on the test's target, and each bit of a weight


class Sim:
    """Writes the simulated network; every call advances the target's clock by its bits. It has no 2-bit form."""

    name, targets = "sim", ("watch",)

    def __init__(self):
        self.builds = 0

    def versions(self):
        return {}

    def executor(self, target):
        return "simulation"

    def untimed(self, target):
        return "its clock stands still" if target == "cpu" else None

    def build(self, prepared, folder, threads):
        self.builds += 1
        found = layers.weight_layers(prepared.network)
        schemes = {name: prepared.plan.layers.get(name, prepared.plan.default) for name in found}
        if refused := [name for name, scheme in schemes.items() if scheme == TWO]:
            raise Unsupported(f"layer {refused[0]!r}: no form of {TWO.name}")
        torch.save(layers.simulated(prepared.network, prepared.plan), folder / "network.pt")
        reports = [LayerReport(n, "Linear", m.weight.numel(), schemes[n].bits) for n, m in found.items()]
        bits = sum(report.weights * report.bits for report in reports)
        (folder / "bits").write_text(str(bits))
        biases = sum(p.numel() * 2 for p in prepared.network.parameters() if p.ndim == 1)
        stored = sum(costs.Storage().bytes(tuple(m.weight.shape), schemes[n]) for n, m in found.items())
        return BuildReport(tuple(reports), stored + biases, 0.0, "fp16")

    def open(self, folder, target, threads):
        return SimSession(folder, target)


class SimSession:
    load_s = compile_s = 0.0

    def __init__(self, folder, target):
        self._network = torch.load(folder / "network.pt", weights_only=False)
        self._cost, self._target = EMPTY_S + PER_BIT_S * float((folder / "bits").read_text()), target

    def feed(self, inputs):
        return tuple(map(torch.from_numpy, inputs))

    def run(self, fed):
        self._target.now += self._cost
        with torch.no_grad():
            return self._network(*fed)

    def fetch(self, output):
        return output.numpy()

    def close(self):
        pass


class Watch:
    """A clock that only moves when something runs, with a drift that hits whoever runs later."""

    name, simulated = "watch", False

    def __init__(self):
        self.now = 0.0

    def untimed(self):
        return None

    def clock(self):
        return self.now

    def synchronize(self):
        pass


class Metered(Watch):
    """Burns three watts."""

    name = "metered"

    def energy_j(self):
        return 3 * self.now


@pytest.fixture
def sim():
    plugin, file = Sim(), Path(__file__)
    with BACKENDS.lend("sim", plugin, file), TARGETS.lend("watch", Watch(), file):
        yield plugin


def chain():
    """Two equal layers and a smaller one."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 2)).eval()


def data(count=400, seed=0):
    values = np.random.default_rng(seed).standard_normal((count, 16)).astype(np.float32)
    with torch.no_grad():
        targets = chain()(torch.from_numpy(values)).argmax(1).numpy()
    return Split((values,), targets, tuple(map(str, range(count))))


def right(outputs, targets):
    return (outputs.argmax(1) == targets).astype(float)


# what layers cost


def test_times_are_those_of_the_layers_alone(sim, tmp_path):
    """A layer of n weights in b bits takes n · b microseconds here; the empty call's millisecond is not in it."""
    units, say = sensitivity.units(chain(), data().item(0)), []
    bench = timing.Bench("sim", "watch", rounds=2, round_s=0.05, cache=tmp_path)

    found = timing.seconds(chain(), data(9), units, SCHEMES, bench, say.append)

    bits = np.array([[weights * b for b in (16, 8, 4)] for weights in (256, 256, 32)])
    np.testing.assert_allclose(found.values[:, :3], bits * PER_BIT_S, rtol=1e-6)
    assert found.overhead == pytest.approx(EMPTY_S)
    assert np.isnan(found.values[:, 3]).all() and "no form of w2a16" in found.refused["0 w2a16"]
    assert sim.builds == 1 + 2 * 4  # the empty network, and two sizes in four schemes: equal layers once

    timing.seconds(chain(), data(9), units, SCHEMES, bench)
    assert sim.builds == 9  # kept


def test_nothing_is_timed_where_time_says_nothing(sim):
    bench = timing.Bench("sim", "cpu")
    with pytest.raises(Unsupported, match="milliseconds cannot be measured: sim on cpu: its clock stands still"):
        timing.seconds(chain(), data(9), {}, SCHEMES, bench)


def test_joules_come_from_a_meter_or_not_at_all(sim):
    """Three watts: three times the seconds. Without a meter there is no figure."""
    units = sensitivity.units(chain(), data().item(0))
    with pytest.raises(Unsupported, match="no energy meter on this machine: target 'watch' has none"):
        timing.joules(chain(), data(9), units, (FOUR,), timing.Bench("sim", "watch"))

    with TARGETS.lend("metered", Metered(), Path(__file__)):
        found = timing.joules(chain(), data(9), units, (FOUR,), timing.Bench("sim", "metered", rounds=2))
    np.testing.assert_allclose(found.values[:, 0], 3 * 4 * PER_BIT_S * np.array([256, 256, 32]), rtol=1e-6)


# the verdict


def judged(required=None, items=None, **changes):
    quality = Quality("side", "binary")
    asked = {"quality": quality, "outcomes": right} | changes
    return judge.Judge(chain(), items or data(), required=required or judge.Required(), **asked)


def test_a_verdict_needs_enough_items():
    """Equal answers: 400 items show that no 1 % was lost (1 - 0.99^n < .05 from n = 299), 100 do not."""
    assert judged().verdict(judged().original).word == "pass"
    few = judged(items=data(100))
    assert (few.verdict(few.original).word, few.verdict(few.original).holds) == ("inconclusive", False)


def test_without_targets_fidelity_decides():
    """Noise of a hundredth of the signal's power is 20 dB."""
    judging = judged(judge.Required(sqnr_db=19.9), quality=None, outcomes=None)
    near = judging.original * 1.1  # error: a tenth of every value
    assert judging.verdict(near).sqnr_db == pytest.approx(20, abs=1e-4)
    assert judging.verdict(near).holds and not judging.verdict(judging.original * 1.2).holds


def test_transitions_are_counted_in_the_artifact():
    bits = [8, 8, 4, 16, 16, 8]
    assert judge.transitions([LayerReport(str(i), "Linear", 1, b) for i, b in enumerate(bits)]) == 3


# the search


def request(sim_place=("sim", "watch"), **changes):
    network, items = chain(), data(64, seed=1)
    schemes = (HALF, EIGHT, FOUR)
    found = sensitivity.measure(network, items, schemes, loss=sensitivity.NOISE)
    settings = {
        "costs": costs.table(network, found.units, schemes).astype(float),
        "unit": "bytes",
        "budget": costs.uniform_bytes(network, found.units, EIGHT) + 2 * (16 + 16 + 2),
        "judge": judged(),
        "transition_share": 0.0,
    }
    settings |= changes
    place = judge.Place(*sim_place)
    return steps.Request(network, found, default=EIGHT, place=place, calibration=items, **settings)


def test_the_first_plan_that_holds_ends_the_search(sim, tmp_path):
    """The bytes of int8 are enough here; biases are found by building, not guessed."""
    asked = request()
    found = steps.search(asked, tmp_path)

    assert found.holds and len(found.steps) == 1
    assert found.best.cost <= asked.budget and found.best.cost == found.best.predicted_cost
    assert (found.artifact / "network.pt").is_file()
    stored = [16, 8, 4]
    bits = [stored[index] for index in found.best.indices]
    assert found.best.stored_transitions == sum(a != b for a, b in itertools.pairwise(bits))


def test_a_plan_that_fails_raises_what_loses_most(sim, tmp_path):
    """In 10 bits a weight the least loss does not do; each next plan forbids the worst layer what it had."""
    network, items = chain(), data(64, seed=1)
    small = costs.uniform_bytes(network, sensitivity.units(network, items.item(0)), FOUR) + 68
    never = judged(judge.Required(sqnr_db=200.0), quality=None, outcomes=None)
    found = steps.search(request(budget=2.4 * small, judge=never), tmp_path)

    assert not found.holds and len(found.steps) > 1
    assert "the budget cannot hold the quality" in found.ended or "every layer has" in found.ended
    for before, after in itertools.pairwise(found.steps):
        assert before.indices != after.indices
        raised = [unit for unit in range(3) if after.indices[unit] < before.indices[unit]]
        assert raised
    best = max(found.steps, key=lambda step: step.verdict["sqnr_db"])
    assert found.best == best and all(step.within for step in found.steps)


def test_a_killed_search_goes_on_with_the_best_it_had(sim, tmp_path):
    """Stopped after one plan, then run again: no plan is built twice, and the end is the same."""
    never = judged(judge.Required(sqnr_db=200.0), quality=None, outcomes=None)
    asked = request(judge=never, budget=800.0)
    whole = steps.search(asked, tmp_path / "whole")
    assert len(whole.steps) == 2
    builds, lines = sim.builds, []

    def stop(line):
        lines.append(line)
        if len(lines) == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        steps.search(asked, tmp_path / "cut", stop)
    kept = json.loads((tmp_path / "cut" / "search.json").read_text())
    assert len(kept["steps"]) == 1 and (tmp_path / "cut" / "best" / "network.pt").is_file()
    again = steps.search(asked, tmp_path / "cut")

    assert [step.indices for step in again.steps] == [step.indices for step in whole.steps]
    assert again.best == whole.best
    assert sim.builds - builds == builds


def test_a_budget_in_seconds_is_kept_by_the_artifact(sim, tmp_path):
    """An empty call is a millisecond and 4 bits are 2.2: 4 ms hold some, and the artifact is timed, not foretold."""
    network, items = chain(), data(64, seed=1)
    units = sensitivity.units(network, items.item(0))
    timed = timing.seconds(network, items, units, (HALF, EIGHT, FOUR), timing.Bench("sim", "watch", rounds=2))
    any_ = judged(judge.Required(sqnr_db=-10.0), quality=None, outcomes=None)

    found = steps.search(request(costs=timed.values, unit="s", budget=4e-3, judge=any_), tmp_path)

    bits = np.array([256, 256, 32]) @ np.array([(16, 8, 4)[index] for index in found.best.indices])
    assert found.best.cost == pytest.approx(EMPTY_S + PER_BIT_S * bits) and found.holds


@pytest.mark.parametrize(("share", "tried"), [(0.9, True), (0.1, False)])
def test_a_budget_that_the_forecast_misses_by_little_is_tried(sim, tmp_path, share, tried):
    """Single layers tell of too small a gain: 4 bits take 2.2 ms and are foretold more; only the artifact knows."""
    network, items = chain(), data(64, seed=1)
    units = sensitivity.units(network, items.item(0))
    timed = timing.seconds(network, items, units, (HALF, EIGHT, FOUR), timing.Bench("sim", "watch", rounds=2))
    fastest = EMPTY_S + PER_BIT_S * 4 * (256 + 256 + 32)
    any_ = judged(judge.Required(sqnr_db=-10.0), quality=None, outcomes=None)
    asked = request(costs=share * timed.values, unit="s", budget=1.001 * fastest, judge=any_)

    if not tried:
        with pytest.raises(BudgetTooSmall):
            steps.search(asked, tmp_path)
        return
    found = steps.search(asked, tmp_path)

    assert found.best.predicted_cost > asked.budget and found.best.cost == pytest.approx(fastest) and found.holds


def test_no_plan_at_all_is_an_error_with_the_smallest_cost(sim, tmp_path):
    with pytest.raises(BudgetTooSmall, match="got at least"):
        steps.search(request(budget=100.0), tmp_path)


def test_a_plan_that_stays_in_float_is_no_quantized_artifact():
    """Backends refuse what hardly holds its default: with all layers in float the default is float as well."""
    asked = request()
    assert steps._plan(asked, [HALF, HALF, HALF]).default == HALF
    assert steps._plan(asked, [EIGHT, HALF, HALF]).default == EIGHT  # 256 of 544 weights


# real toolchains


class Three(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.middle, self.last = nn.Linear(64, 64), nn.Linear(64, 128), nn.Linear(128, 64)

    def forward(self, x):
        return self.last(torch.relu(self.middle(torch.relu(self.first(x)))))


GROUPED = Scheme(4, granularity=PerGroup(32))
STORAGE = {
    "coreml": costs.Storage(),
    "mlx": costs.Storage(offset_bits=16, instead_of_channels=(64, 32)),
    "onnxruntime": costs.Storage(float_bits=32, scale_bits=32, offset_bits=None, instead_of_channels=(128, 64, 32)),
}


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["coreml", "mlx", "onnxruntime", "pytorch"])
def test_backends_hold_plans_of_16_8_and_4_bits(backend, tmp_path):
    """What the artifact stores is what the plan says, layer by layer, and bytes are those of the arithmetic."""
    values = np.random.default_rng(0).standard_normal((4, 64)).astype(np.float32)
    items = Split((values,), np.zeros(4), tuple("abcd"))
    plan = Plan(EIGHT, {"first": HALF, "middle": EIGHT, "last": GROUPED})
    place = judge.Place(backend)
    network = Three().eval()

    report = judge.build(network, plan, items, tmp_path, place)
    outputs = judge.answers(tmp_path, items, place)

    assert {layer.name: layer.bits for layer in report.layers} == {"first": 16, "middle": 8, "last": 4}
    assert judge.transitions(report.layers) == 2
    # weights uniform in ±a: rms a / √3; 4-bit steps of a / 7: noise a / 7 / √12, a share of .071; half as much again
    original = layers.answers(network, items).numpy()
    assert np.linalg.norm(outputs - original) < 1.5 * 0.071 * np.linalg.norm(original)
    if storage := STORAGE.get(backend):
        shapes = {"first": (64, 64), "middle": (128, 64), "last": (64, 128)}
        foretold = sum(storage.bytes(shapes[name], scheme) for name, scheme in plan.layers.items())
        biases = (64 + 128 + 64) * (4 if backend == "onnxruntime" else 2)
        assert foretold <= report.weight_bytes <= foretold + biases + 256


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["coreml", "mlx", "onnxruntime", "pytorch"])
def test_backends_name_the_layer_of_a_scheme_they_lack(backend, tmp_path):
    """NF4 with double quantization is bitsandbytes' own."""
    items = Split((np.zeros((1, 64), np.float32),), np.zeros(1), ("a",))
    plan = Plan(EIGHT, {"middle": Scheme(4, "nf4", PerGroup(64), double=True)})
    with pytest.raises(Unsupported, match=r"layer .?middle"):
        judge.build(Three().eval(), plan, items, tmp_path, judge.Place(backend))


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["coreml", "onnxruntime"])
def test_static_plans_leave_layers_in_16_bits(backend, tmp_path):
    """Activations of two layers in 8 bits, the first layer in floats of 16."""
    values = np.random.default_rng(0).standard_normal((32, 64)).astype(np.float32)
    items = Split((values,), np.zeros(32), tuple(map(str, range(32))))
    static, network = Scheme(8, activations="static"), Three().eval()

    report = judge.build(network, Plan(static, {"first": HALF}), items, tmp_path, judge.Place(backend))
    outputs = judge.answers(tmp_path, items, judge.Place(backend))

    assert {layer.name: layer.bits for layer in report.layers} == {"first": 16, "middle": 8, "last": 8}
    original = layers.answers(network, items).numpy()
    # a step of a 255th of a range of about 8 standard deviations: noise .009; two layers and weights: twice that
    assert np.linalg.norm(outputs - original) < 0.02 * np.linalg.norm(original)


# what is written


def test_a_found_plan_is_a_method(tmp_path, monkeypatch):
    """Written, found by its name, and it gives the plan again; for another model it refuses."""
    plan = Plan(EIGHT, {"first": None, "middle": Scheme(8, activations="static"), "last": GROUPED})
    plugin.write(tmp_path, "mixed_found", "found here", "tiny", plan)
    monkeypatch.setenv(VARIABLE, str(tmp_path))

    method = METHODS.get("mixed_found")
    try:
        prepared = method.prepare("network", (), None)
        assert (prepared.plan.default, dict(prepared.plan.layers)) == (plan.default, plan.layers)
        assert method.needs_calibration and method.scheme == EIGHT
        assert method.unsupported(SimpleNamespace(name="tiny")) is None
        assert "the plan is one for tiny: got other" in method.unsupported(SimpleNamespace(name="other"))
    finally:
        METHODS._loaded.pop("mixed_found")

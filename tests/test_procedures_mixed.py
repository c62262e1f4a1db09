"""Mixed precision: sums by hand, brute force beside the integer program, and a toolchain that only simulates."""

import itertools
import json
import math
from types import SimpleNamespace
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from torch import nn

from quantkit.contracts import Split
from quantkit.errors import BudgetTooSmall, CalibrationError
from quantkit.methods import mixed_6bit, mixed_6bit_palette, mixed_16_8
from quantkit.procedures import assign, costs, layers, mixed, sensitivity
from quantkit.procedures.assign import Problem
from quantkit.procedures.costs import Storage
from quantkit.scheme import PerChannelGroup, PerGroup, PerTensor, Scheme

HALF, EIGHT, FOUR = Scheme(16, "bf16"), Scheme(8), Scheme(4, granularity=PerGroup(32))


class Tied(nn.Module):
    """A tiny decoder: its head is its embedding, and it calls its layers in another order than it lists them."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.head = nn.Linear(32, 20, bias=False)
        self.table = nn.Parameter(torch.zeros(4, 32))
        self.last, self.early = nn.Linear(32, 32), nn.Linear(32, 32)
        self.embed = nn.Embedding(20, 32)
        self.head.weight = self.embed.weight
        self.unused = nn.Linear(3, 3)

    def forward(self, tokens):
        x = torch.relu(self.early(self.embed(tokens) + self.table))
        return self.head(self.last(x))


def tokens(count=12):
    values = np.random.default_rng(0).integers(0, 20, (count, 4))
    return Split((values,), np.roll(values, -1, axis=1), tuple(map(str, range(count))))


def test_layers_that_share_a_weight_are_one_unit_in_the_order_of_their_calls():
    """A table of positions is no layer, and neither is what is never called."""
    found = sensitivity.units(Tied().eval(), tokens().item(0))
    assert found == {"embed": ("embed", "head"), "early": ("early",), "last": ("last",)}
    assert list(found) == ["embed", "early", "last"]


# sensitivity


class Apart(nn.Module):
    """Two layers whose errors never meet: each makes its own half of the output."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.left, self.right = nn.Linear(8, 6), nn.Linear(8, 6)

    def forward(self, x):
        return torch.cat([self.left(x), self.right(x)], 1)


def points(count=20, width=8):
    values = np.random.default_rng(2).standard_normal((count, width)).astype(np.float32)
    return Split((values,), np.zeros(count), tuple(map(str, range(count))))


def test_errors_that_never_meet_add_up_exactly():
    """|e_left|² and |e_right|² lie in different outputs: noise over signal of both is the sum of the single ones."""
    network, items = Apart().eval(), points()
    found = sensitivity.measure(network, items, (EIGHT, Scheme(3)), loss=sensitivity.NOISE)

    predicted, joint = sensitivity.additivity(
        network, items, found, {"left": Scheme(3), "right": EIGHT}, sensitivity.NOISE
    )

    assert predicted == pytest.approx(joint, rel=1e-5)
    assert found.losses.shape == (2, 2) and (found.losses[:, 0] < found.losses[:, 1]).all()


def test_a_loss_is_that_of_one_quantized_layer():
    """Worked out beside it: only `left` has rounded weights; noise over signal of the outputs."""
    network, items = Apart().eval(), points()
    found = sensitivity.measure(network, items, (Scheme(4),), loss=sensitivity.NOISE)

    x = torch.from_numpy(items.inputs[0])
    with torch.no_grad():
        noise = (x @ (layers.rounded(network.left.weight, Scheme(4)) - network.left.weight).T).square().sum()
        signal = network(x).square().sum()
    assert found.of("left", Scheme(4)) == pytest.approx(float(noise / signal), rel=1e-5)


def test_float_loses_nothing_and_what_is_not_simulated_is_nan():
    found = sensitivity.measure(
        Apart().eval(), points(), (sensitivity.FLOAT, Scheme(4, "mxfp4", PerGroup(32))), loss=sensitivity.NOISE
    )
    assert (found.losses[:, 0] == 0).all() and np.isnan(found.losses[:, 1]).all()
    assert json.loads(found.to_json())["losses"][0] == [0.0, None]


def test_an_interrupted_measurement_goes_on(tmp_path):
    """The second run asks only what the first did not finish; other weights are another measurement."""
    asked = []
    loss = sensitivity.Loss("counted", lambda original, _: asked.append(1) or float(len(original)))

    def stop(line):
        raise KeyboardInterrupt(line)

    with pytest.raises(KeyboardInterrupt):
        sensitivity.measure(Apart().eval(), points(), (EIGHT, FOUR), loss=loss, cache=tmp_path, say=stop)
    assert len(asked) == 2

    again = sensitivity.measure(Apart().eval(), points(), (EIGHT, FOUR), loss=loss, cache=tmp_path)
    assert len(asked) == 4 and (again.losses == 20).all()

    other = Apart().eval()
    other.left.weight.data[0, 0] += 1
    sensitivity.measure(other, points(), (EIGHT,), loss=loss, cache=tmp_path)
    assert len(asked) == 6


def test_the_loss_that_fits_is_read_from_the_targets():
    scores = np.zeros((5, 4, 20))
    assert sensitivity.fitting_loss(scores, np.zeros((5, 4), int)) is sensitivity.KL
    assert sensitivity.fitting_loss(scores, np.full((5, 4), 20)) is sensitivity.NOISE  # beyond the last class
    assert sensitivity.fitting_loss(scores, np.zeros((5, 4))) is sensitivity.NOISE  # no indices


@pytest.mark.parametrize(("higher", "expected"), [(True, 0.25), (False, -0.25)])
def test_quality_lost_has_a_direction(higher, expected):
    """Means .75 and .5: a quarter less."""
    loss = sensitivity.quality_loss(lambda outputs: outputs, "right", higher=higher)
    assert loss.of(np.array([1, 1, 1, 0.0]), np.array([1, 1, 0, 0.0])) == expected


# bytes


@pytest.mark.parametrize(
    ("storage", "shape", "scheme", "expected"),
    [
        (Storage(), (64, 128), None, 64 * 128 * 2),
        (Storage(float_bits=32), (64, 128), None, 64 * 128 * 4),
        (Storage(float_bits=32), (64, 128), HALF, 64 * 128 * 2),
        (Storage(), (64, 128), EIGHT, 64 * 128 + 64 * 2),
        (Storage(), (64, 128), Scheme(8, granularity=PerTensor()), 64 * 128 + 2),
        (Storage(), (3, 5), Scheme(4), 8 + 3 * 2),  # 15 codes of half a byte
        (Storage(offset_bits=None), (64, 128), Scheme(8, symmetric=False), 64 * 128 + 64 * 3),
        (Storage(offset_bits=16), (64, 128), FOUR, 64 * 64 + 256 * 4),
        (Storage(), (4, 40), FOUR, 4 * 64 // 2 + 8 * 2),  # 40 filled up to two groups of 32
        (Storage(padded=False), (4, 40), FOUR, 4 * 40 * 2),  # stays float
        (Storage(), (8, 64, 3, 3), FOUR, 8 * 576 // 2 + 8 * 18 * 2),
        (Storage(kernel_shared=True), (8, 64, 3, 3), FOUR, 8 * 576 // 2 + 8 * 2 * 2),
        (Storage(products_only=True), (8, 64, 3, 3), FOUR, 8 * 576 * 2),
        (Storage(instead_of_channels=(64, 32)), (8, 96), EIGHT, 8 * 96 + 8 * 3 * 2),
        (Storage(), (64, 128), Scheme(6, "lut", PerTensor()), 64 * 128 * 6 // 8 + 64 * 2),
        (Storage(), (10, 16), Scheme(4, "lut", PerChannelGroup(4)), 80 + 3 * 16 * 2),
    ],
    ids=str,
)
def test_bytes_are_exact(storage, shape, scheme, expected):
    """Codes, then one scale (or palette) for each that share it; sums beside each case."""
    assert storage.bytes(shape, scheme) == expected


def test_shared_weights_are_counted_once():
    network = Tied().eval()
    found = sensitivity.units(network, tokens().item(0))
    assert costs.table(network, found, (HALF,))[:, 0].tolist() == [20 * 32 * 2, 32 * 32 * 2, 32 * 32 * 2]


# assignment


def best_by_trying(problem):
    """The least loss plus penalty over every assignment within the budget, or None."""
    n, k = problem.losses.shape
    found = [
        assign.describe(problem, choices)
        for choices in itertools.product(range(k), repeat=n)
        if problem.allowed[range(n), choices].all()
    ]
    kept = [a.loss + problem.penalty * a.transitions for a in found if a.cost <= problem.budget]
    return min(kept, default=None)


@pytest.mark.parametrize("seed", range(25))
def test_the_integer_program_finds_what_trying_all_finds(seed):
    """Five layers, three schemes, chained, some choices forbidden: 243 assignments, whole budgets met exactly."""
    rng = np.random.default_rng(seed)
    lost, cost = rng.lognormal(0, 2, (5, 3)), rng.integers(1, 9, (5, 3)).astype(float)
    lost[rng.integers(5), 0] = math.nan
    budget = float(rng.integers(12, 30))
    problem = Problem(lost, cost, budget, mixed.edges(5), penalty=rng.random(), forbidden=rng.random((5, 3)) < 0.1)
    expected = best_by_trying(problem)

    if expected is None:
        with pytest.raises(BudgetTooSmall):
            assign.solve(problem)
        return
    found = assign.solve(problem)

    assert found.cost <= budget
    assert found.loss + problem.penalty * found.transitions == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e7], ids="{:g}".format)
def test_the_unit_of_the_budget_does_not_matter(scale):
    """Microseconds or megabytes: the choice is the same, and a budget that is just met is kept."""
    lost, cost = np.array([[0.0, 4.0], [0.0, 1.0]]), np.array([[4.0, 1.0], [4.0, 1.0]])
    found = assign.solve(Problem(lost * 1e-4, cost * scale, 5.0 * scale))
    assert found.choices == (0, 1) and found.loss == pytest.approx(1e-4)


def test_a_budget_too_small_says_what_it_takes():
    problem = Problem(np.ones((2, 2)), np.array([[8.0, 4.0], [6.0, 3.0]]), 6.5, unit="bytes")
    with pytest.raises(BudgetTooSmall, match=r"got at least 7 bytes"):
        assign.solve(problem)


def test_a_transition_must_pay_off():
    """Alternating needs of 1.0 and 1.1: without a penalty six changes; at a quarter of the loss none pays."""
    lost = np.array([[1.0, 1.1] if layer % 2 else [1.1, 1.0] for layer in range(7)])
    problem = Problem(lost, np.ones((7, 2)), 7.0, mixed.edges(7))
    assert assign.solve(problem).transitions == 6
    assert assign.solve_sparing_transitions(problem, 0.25).transitions == 0


def test_arrays_that_do_not_belong_together_are_refused():
    with pytest.raises(ValueError, match=r"losses and costs must be \[layers, schemes\]"):
        Problem(np.ones((2, 3)), np.ones((3, 2)), 1.0)


# the whole decision


@pytest.mark.parametrize(
    "plugin", [mixed_6bit.plugin, mixed_6bit_palette.plugin, mixed_16_8.plugin], ids=lambda plugin: plugin.name
)
def test_methods_keep_their_budget_and_the_network(plugin, home):
    """Bytes are counted again from the plan; tied layers have one scheme; nothing is written into the network."""
    network, items = Tied().eval(), tokens()
    before = {name: value.clone() for name, value in network.state_dict().items()}

    prepared = plugin.prepare(network, items.item(0), items)

    recipe, found = plugin.recipe(), sensitivity.units(network, items.item(0))
    taken = sum(
        recipe.storage.bytes(shape, prepared.plan.layers[unit])
        for unit, shapes in costs.unit_shapes(network, found).items()
        for shape in shapes
    )
    assert taken <= recipe.budget.bytes(network, found, recipe.storage)
    assert prepared.plan.layers["embed"] == prepared.plan.layers["head"]
    assert prepared.plan.default == plugin.scheme
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    with pytest.raises(CalibrationError, match="on calibration items: got none"):
        plugin.prepare(network, items.item(0), None)
    assert "takes one step" in plugin.unsupported(SimpleNamespace(name="cached", stepwise=True))


def test_the_layer_that_matters_gets_the_bits():
    """One half of the output is a thousand times the other: its layer is kept in 16 bits, the other pays."""
    network = Apart().eval()
    network.left.weight.data *= 1000
    recipe = mixed.Recipe((HALF, Scheme(4)), EIGHT, mixed.Budget(Scheme(4), HALF, 0.5), transition_share=0.0)

    found = mixed.decide(network, points(), recipe)

    assert found.choices == {"left": HALF, "right": Scheme(4)}
    assert found.assignment.cost <= found.budget_bytes


def test_a_validation_split_is_what_sensitivity_never_saw():
    items = points(10)
    seen, unseen = mixed.first(items, 4), mixed.rest(items, 4)
    assert seen.ids + unseen.ids == items.ids and not set(seen.ids) & set(unseen.ids)
    np.testing.assert_array_equal(np.concatenate([seen.inputs[0], unseen.inputs[0]]), items.inputs[0])


def test_pictures_are_svg_with_every_layer_and_scheme(tmp_path):
    from quantkit.search import page

    network, items = Apart().eval(), points()
    found = sensitivity.measure(network, items, (HALF, FOUR), loss=sensitivity.NOISE)
    choices = {"left": HALF, "right": FOUR}

    path = page.write(
        tmp_path, "<two> layers", found, choices=choices, bytes_=costs.table(network, found.units, found.schemes)
    )

    text = path.read_text()
    svg = ElementTree.fromstring(text[text.index("<svg") : text.index("</svg>") + 6])
    words = [node.text for node in svg.iter() if node.tag.endswith("text")]
    assert {"left", "right", "bf16", "w4a16g32", f"{6 * 8 * 2:,} B"} <= set(words)
    assert sum("chosen" in node.get("class", "") for node in svg.iter()) == 2
    assert "&lt;two&gt;" in text and "<script" not in text
    raw = json.loads((tmp_path / "sensitivity.json").read_text())
    assert raw["choices"] == {"left": "bf16", "right": "w4a16g32"} and raw["bytes"][0][0] == 96


def test_sensitivity_asks_for_enough_answers():
    """40 rows of answers: 40 items with one each, and never fewer than 16 items where each gives four."""
    assert len(mixed.enough(Apart().eval(), points(60), 40)) == 40
    assert len(mixed.enough(Tied().eval(), tokens(60), 40)) == mixed.LEAST_ITEMS


def test_a_group_of_a_convolution_holds_whole_kernels():
    """32 inputs of a 3x3 kernel share a scale: 288 weights that lie side by side; rounded here channel by channel."""
    torch.manual_seed(0)
    conv = nn.Conv2d(64, 4, 3)
    scheme = Scheme(4, granularity=PerGroup(32))
    plan = sensitivity.held(nn.Sequential(conv), sensitivity.plan_of({"0": scheme}, {"0": ("0",)}))

    near = layers.rounded(conv.weight, plan.layers["0"])

    for channel in range(4):
        for half in (slice(0, 32), slice(32, 64)):
            alone = layers.rounded(conv.weight[channel : channel + 1, half], Scheme(4, granularity=PerTensor()))
            torch.testing.assert_close(near[channel : channel + 1, half], alone)

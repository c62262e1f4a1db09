"""Rewrites keep the function of a network, and lessen what rounding costs: laws, and values worked out by hand."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from quantkit.catalog import METHODS, MODELS
from quantkit.contracts import Plan, Split
from quantkit.errors import CalibrationError, Unsupported
from quantkit.procedures import awq, bias, equalize, graph, layers, norms, smooth
from quantkit.scheme import PerGroup, PerTensor, Scheme

IMAGES = (2, 8, 8)


def split(count, *shape, seed=0):
    values = np.random.default_rng(seed).standard_normal((count, *shape)).astype(np.float32)
    return Split((values,), np.zeros(count), tuple(map(str, range(count))))


def uneven(network, seed=0):
    """Spread the channels of every convolution over four orders of magnitude, as batch norms of depthwise nets do."""
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data = 10 ** (torch.rand(module.num_features, generator=generator) * 4 - 3)
            module.bias.data = torch.randn(module.num_features, generator=generator)
            module.running_mean = torch.randn(module.num_features, generator=generator)
            module.running_var = torch.rand(module.num_features, generator=generator) + 0.5
    return network.eval()


def depthwise(rectifier=nn.ReLU, *, seed=0):
    """An expansion, a depthwise filter and a projection, each with its batch norm."""
    torch.manual_seed(seed)
    unit = nn.Conv2d(2, 12, 1, bias=False), nn.BatchNorm2d(12), rectifier()
    deep = nn.Conv2d(12, 12, 3, padding=1, groups=12, bias=False), nn.BatchNorm2d(12), rectifier()
    end = nn.Conv2d(12, 4, 1, bias=False), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)
    return uneven(nn.Sequential(*unit, *deep, *end))


def answers(network, items):
    return layers.answers(network, items)


def same(rewritten, network, items):
    """Require the function of a network, to 1e-5 of the largest output."""
    expected = answers(network, items)
    torch.testing.assert_close(answers(rewritten, items), expected, rtol=0, atol=1e-5 * float(expected.abs().max()))


def squared_error(network, original, items, plan):
    """Return the mean squared error of the outputs when a plan rounds the network."""
    simulated = layers.simulated(network, plan, layers.input_ranges(network, items))
    return float((answers(simulated, items) - answers(original, items)).square().mean())


# ----------------------------------------------------------------------------------------------------- the graph


def test_folding_keeps_the_function_and_the_names():
    network, items = depthwise(), split(8, *IMAGES)

    folded = graph.folded(network, items.item(0))

    same(folded, network, items)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in folded.modules())
    assert list(layers.weight_layers(folded)) == list(layers.weight_layers(network))
    assert sum(isinstance(m, nn.BatchNorm2d) for m in network.modules()) == 3  # the given one is not changed


def test_pairs_are_followed_through_rectifiers_pooling_and_flattening():
    network, example = depthwise(nn.ReLU6), split(1, *IMAGES).inputs
    pairs = graph.Flow(graph.folded(network, example), example).pairs()

    assert [(p.first, p.second, p.bounded) for p in pairs] == [("0", "3", "2"), ("3", "6", "5"), ("6", "10", "")]


class Branching(nn.Module):
    """`b` reads what `a` gives; or so does a sum, or `a` is used twice, or a GELU lies between."""

    def __init__(self, kind):
        super().__init__()
        self.kind, self.a, self.b = kind, nn.Linear(6, 6), nn.Linear(6, 6)

    def forward(self, x):
        hidden = self.a(self.a(x)) if self.kind == "used twice" else self.a(x)
        hidden = functional.gelu(hidden) if self.kind == "gelu" else functional.relu(hidden)
        out = self.b(hidden)
        return out + hidden if self.kind == "shortcut" else out


@pytest.mark.parametrize("kind", ["shortcut", "used twice", "gelu", "plain"])
def test_a_value_or_weight_that_others_see_is_no_pair(kind):
    network = Branching(kind).eval()
    found = graph.Flow(network, split(1, 6).inputs).pairs()

    assert [(p.first, p.second) for p in found] == ([("a", "b")] if kind == "plain" else [])


def test_a_weight_that_two_layers_share_is_no_pair():
    network = Branching("plain").eval()
    network.b.weight = network.a.weight
    assert graph.Flow(network, split(1, 6).inputs).pairs() == ()


# ------------------------------------------------------------------------------------------ cross-layer equalisation


@pytest.mark.parametrize("rectifier", [nn.ReLU, nn.ReLU6])
def test_equalisation_keeps_the_function(rectifier):
    """On the calibration items, and where every ReLU6 was seen to clip, on any others."""
    network, items = depthwise(rectifier), split(16, *IMAGES)
    wild = Split((items.inputs[0] * 1e3,), items.targets, items.ids)

    same(equalize.equalized(network, items.item(0), items), network, items)
    for others in (items, wild, split(16, *IMAGES, seed=1)):
        same(equalize.equalized(network, items.item(0), wild), network, others)


def test_ranges_of_two_weights_become_equal():
    """That is what the scale is made for; a layer in two pairs settles between them."""
    network, items = depthwise(), split(4, *IMAGES)
    before = graph.folded(network, items.item(0))

    after = equalize.equalized(network, items.item(0), items)

    def unevenness(net, pair):
        first, second = net.get_submodule(pair[0]), net.get_submodule(pair[1])
        return float((equalize.output_ranges(first) / equalize.input_ranges(second)).log().abs().max())

    for pair in (("0", "3"), ("3", "6")):
        assert unevenness(before, pair) > 1
        assert unevenness(after, pair) < 0.01


def test_input_ranges_of_groups_are_those_of_each_channel():
    """Two groups of two inputs: channel 2 is the first input of the second group, which the last three filters read."""
    conv = nn.Conv2d(4, 6, 1, groups=2)
    expected = [conv.weight[:3, 0], conv.weight[:3, 1], conv.weight[3:, 0], conv.weight[3:, 1]]

    found = equalize.input_ranges(conv)

    torch.testing.assert_close(found, torch.stack([part.abs().max() for part in expected]))
    inputs, scale = torch.randn(1, 4, 5, 5), torch.tensor([1.0, 2.0, 3.0, 4.0])
    expected = conv(inputs * scale[:, None, None])
    equalize.multiply_inputs(conv, scale)
    torch.testing.assert_close(conv(inputs), expected)


def test_a_relu6_that_never_clips_becomes_a_relu():
    """Small inputs never reach 6; large ones do, and then each channel keeps a limit of its own."""
    network, items = depthwise(nn.ReLU6), split(16, *IMAGES)
    small = Split((items.inputs[0] * 1e-4,), items.targets, items.ids)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.zeros_(module.running_mean)
            nn.init.constant_(module.bias, 0.1)

    calm = equalize.equalized(network, items.item(0), small)
    wild = equalize.equalized(network, items.item(0), Split((items.inputs[0] * 1e4,), items.targets, items.ids))

    assert type(calm[2]) is nn.ReLU and type(wild[2]) is equalize.Limited
    same(calm, network, small)


def spread(network):
    """Return the same function with channel i of layers 0 and 3 scaled by 10^(i % 5 - 2), taken back behind them."""
    factor = 10.0 ** (torch.arange(12) % 5 - 2)
    for first, second in (("0", "3"), ("3", "6")):
        equalize.divide_outputs(network.get_submodule(first), factor)
        equalize.multiply_inputs(network.get_submodule(second), factor)
    return network


def test_equalisation_undoes_any_other_scaling():
    """The balanced network is the same whichever of the equal networks one starts from."""
    items = split(8, *IMAGES)
    plain = graph.folded(depthwise(), items.item(0))
    other = spread(graph.folded(depthwise(), items.item(0)))
    same(other, plain, items)

    balanced, expected = (equalize.equalized(net, items.item(0), items) for net in (other, plain))

    for name, weight in expected.state_dict().items():
        torch.testing.assert_close(balanced.state_dict()[name], weight, rtol=0.01, atol=1e-6)


def test_one_scale_for_a_weight_ruins_the_other_scaling_and_not_the_balanced_one():
    """Channels lie four orders apart, and 8 bits hold two: the smallest ones would be rounded to zero."""
    items, plan = split(32, *IMAGES), Plan(Scheme(8, granularity=PerTensor()))
    network = spread(graph.folded(depthwise(), items.item(0)))

    plain = squared_error(network, network, items, plan)
    balanced = squared_error(equalize.equalized(network, items.item(0), items), network, items, plan)

    assert balanced < plain / 10


def test_equalisation_refuses_a_network_without_pairs():
    network = nn.Sequential(nn.Linear(6, 6), nn.GELU(), nn.Linear(6, 2)).eval()
    with pytest.raises(Unsupported, match="two layers with nothing but a ReLU"):
        equalize.equalized(network, split(1, 6).inputs, split(4, 6))


# ------------------------------------------------------------------------------------------------- bias correction


def test_means_of_every_layer_agree_after_correction():
    """The definition, checked by hooks of our own: E[y~] = E[y] for every channel of every layer, on the items used."""
    network, items = graph.folded(depthwise(), split(1, *IMAGES).inputs), split(64, *IMAGES)
    plan = Plan(Scheme(4, granularity=PerTensor()))

    rewritten = bias.corrected(network, plan, items)

    expected, found, plain = ({} for _ in range(3))
    for seen, net in (
        (expected, network),
        (plain, layers.simulated(network, plan)),
        (found, layers.simulated(rewritten, plan)),
    ):
        for name in ("0", "3", "6"):
            hook = lambda _, __, out, seen=seen, name=name: seen.update({name: out.mean((0, 2, 3))})  # noqa: E731  (one line in a loop)
            net.get_submodule(name).register_forward_hook(hook)
        answers_at_once(net, items)
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-4, atol=1e-5)
        assert (plain[name] - expected[name]).abs().max() > 100 * (found[name] - expected[name]).abs().max()


def answers_at_once(network, items):
    with torch.inference_mode():
        return network(torch.from_numpy(items.inputs[0]))


def test_the_correction_of_one_layer_is_the_rounding_error_times_the_mean_input():
    """By hand: y~ - y = (W~ - W) x, so the mean is (W~ - W) E[x]. W = [1.0, 0.3] at 2 bits: codes ±1, step 1: [1, 0].

    With E[x] = [2, 10] the shift is -0.3 * 10 = -3; the bias 0.5 becomes 3.5.
    """
    layer = nn.Linear(2, 1)
    layer.weight.data, layer.bias.data = torch.tensor([[1.0, 0.3]]), torch.tensor([0.5])
    items = Split((np.array([[1, 5], [3, 15]], np.float32),), np.zeros(2), ("a", "b"))

    rewritten = bias.corrected(nn.Sequential(layer).eval(), Plan(Scheme(2)), items)

    assert rewritten[0].bias.item() == pytest.approx(3.5, abs=1e-5)
    assert layer.bias.item() == 0.5


def test_a_layer_without_a_bias_gets_one_and_floats_stay():
    network = nn.Sequential(nn.Linear(6, 8, bias=False), nn.ReLU(), nn.Linear(8, 3, bias=False)).eval()

    rewritten = bias.corrected(network, Plan(Scheme(2), {"2": None}), split(32, 6))

    assert rewritten[0].bias is not None and rewritten[2].bias is None
    assert network[0].bias is None
    assert torch.equal(rewritten[0].weight, network[0].weight)  # rounding is the backend's


def test_correction_lessens_the_error_of_the_outputs():
    network, items = graph.folded(depthwise(), split(1, *IMAGES).inputs), split(64, *IMAGES)
    plan = Plan(Scheme(8, granularity=PerTensor(), activations="static"))

    rewritten = bias.corrected(network, plan, items)

    assert squared_error(rewritten, network, items, plan) < squared_error(network, network, items, plan) / 2


def test_correction_needs_items_and_something_to_correct():
    network = nn.Sequential(nn.Linear(6, 2)).eval()
    with pytest.raises(CalibrationError, match="got none"):
        bias.corrected(network, Plan(Scheme(8)), split(0, 6))
    with pytest.raises(Unsupported, match="there are none"):
        bias.corrected(network, Plan(Scheme(8), {"0": None}), split(4, 6))


# ---------------------------------------------------------------------------------------------- SmoothQuant and AWQ


class Normed(nn.Module):
    """A norm with two readers, gate and up of a SwiGLU; one channel of its output is 100 times larger."""

    def __init__(self, norm):
        super().__init__()
        torch.manual_seed(0)
        self.norm, self.gate, self.up, self.down = norm, nn.Linear(32, 24), nn.Linear(32, 24), nn.Linear(24, 32)
        self.norm.weight.data[5] = 100.0

    def forward(self, x):
        hidden = self.norm(x)
        return self.down(functional.silu(self.gate(hidden)) * self.up(hidden))


class PostNorm(nn.Module):
    """BERT's layer: the residual stream itself goes through the norm."""

    def __init__(self):
        super().__init__()
        self.norm, self.linear = nn.LayerNorm(32), nn.Linear(32, 32)

    def forward(self, x):
        hidden = self.norm(x)
        return hidden + self.linear(hidden)


NORMS = {"layer norm": nn.LayerNorm, "rms norm": nn.RMSNorm}
W8A8, W4 = Scheme(8, activations="static"), Scheme(4, granularity=PerGroup(32))
REWRITES = {
    "smooth half": lambda *given: smooth.smoothed(*given, W8A8, alpha=0.5),
    "smooth searched": lambda *given: smooth.smoothed(*given, W8A8),
    "awq": lambda *given: awq.activation_aware(*given, W4),
}


@pytest.mark.parametrize("kind", NORMS)
@pytest.mark.parametrize("rewrite", REWRITES)
def test_moved_scales_keep_the_function(kind, rewrite):
    network, items = Normed(NORMS[kind](32)).eval(), split(16, 5, 32)
    before = {name: value.clone() for name, value in network.state_dict().items()}

    rewritten = REWRITES[rewrite](network, items.item(0), items)

    same(rewritten, network, split(16, 5, 32, seed=1))
    assert not torch.equal(rewritten.norm.weight, network.norm.weight)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


@pytest.mark.parametrize(("rewrite", "scheme"), [("smooth half", W8A8), ("smooth searched", W8A8), ("awq", W4)])
def test_an_outlier_channel_costs_less_after_the_rewrite(rewrite, scheme):
    network, items = Normed(nn.LayerNorm(32)).eval(), split(64, 5, 32)
    plan = Plan(scheme, {"down": None})

    rewritten = REWRITES[rewrite](network, items.item(0), items)

    assert squared_error(rewritten, network, items, plan) < squared_error(network, network, items, plan) / 2


def test_a_searched_scale_is_never_worse_than_none():
    """Of the layers behind the norm, on the items searched with: no scale at all is among the candidates."""
    network, items = Normed(nn.LayerNorm(32)).eval(), split(64, 5, 32)
    network.norm.weight.data[5] = 1.0  # no outlier: hardly anything to gain
    seen = norms.observed(network, ["gate"], items)["gate"]
    weights = [network.gate.weight.detach(), network.up.weight.detach()]
    none = torch.ones(32)

    for scheme, candidates in (
        (W8A8, [none, torch.full((32,), 3.0), torch.rand(32) + 0.1]),
        (W4, [awq.importance(seen.mean, step / awq.GRID) for step in range(awq.GRID)]),
    ):
        chosen = norms.best(seen, weights, candidates, scheme)
        least = norms.output_error(seen, weights, chosen, scheme)
        assert least <= norms.output_error(seen, weights, none, scheme)
        assert least == min(norms.output_error(seen, weights, c, scheme) for c in candidates)


def test_what_was_seen_of_an_input_is_what_the_norm_gives():
    network, items = Normed(nn.LayerNorm(32)).eval(), split(100, 5, 32)  # 100 items are two batches
    with torch.inference_mode():
        rows = network.norm(torch.from_numpy(items.inputs[0])).reshape(-1, 32)

    seen = norms.observed(network, ["gate"], items)["gate"]

    torch.testing.assert_close(seen.low, rows.amin(0))
    torch.testing.assert_close(seen.high, rows.amax(0))
    torch.testing.assert_close(seen.mean, rows.abs().mean(0), rtol=0.1, atol=0)
    assert len(seen.sample) == len(rows)


def test_awq_spares_the_weights_that_read_large_activations():
    """By the paper's argument: the error of a channel is divided by its scale, so a large input gets a large one."""
    means = torch.tensor([1.0, 1.0, 100.0, 1.0])
    scale = awq.importance(means, 0.5)
    assert scale.argmax() == 2
    assert float(scale.max() * scale.min()) == pytest.approx(1.0)
    assert torch.equal(awq.importance(means, 0.0), torch.ones(4))


@pytest.mark.parametrize("network", [PostNorm(), nn.Sequential(nn.Linear(32, 32))], ids=["shortcut", "no norm"])
def test_norms_that_others_read_are_refused(network):
    """A scale would reach the shortcut too."""
    items = split(4, 5, 32)
    with pytest.raises(Unsupported, match="linear layers that alone read it: there are none"):
        awq.activation_aware(network.eval(), items.item(0), items, W4)


def test_a_head_that_shares_its_weight_with_the_embedding_is_left_alone():
    """A scale in the head's weight would reach the embedding."""
    network = nn.Sequential(nn.Embedding(10, 32), nn.LayerNorm(32), nn.Linear(32, 10, bias=False)).eval()
    tokens = Split((np.arange(10)[None],), np.zeros(1), ("a",))
    assert len(graph.Flow(network, tokens.inputs).groups()) == 1

    network[2].weight = network[0].weight
    assert graph.Flow(network, tokens.inputs).groups() == ()


def test_groups_are_norms_and_gated_layers():
    """`down` reads silu(gate) * up: linear in `up`, not in `gate`."""
    network = Normed(nn.RMSNorm(32)).eval()
    found = graph.Flow(network, split(1, 5, 32).inputs).groups()
    assert [(group.source, group.linears) for group in found] == [("norm", ("gate", "up")), ("up", ("down",))]


class Squared(nn.Module):
    """A product of a layer's output with itself is not linear in it, and one with a column of it neither."""

    def __init__(self, kind):
        super().__init__()
        self.kind, self.a, self.b = kind, nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x):
        hidden = self.a(x)
        return self.b(hidden * (hidden if self.kind == "itself" else hidden[..., :1]))


@pytest.mark.parametrize("kind", ["itself", "its column"])
def test_a_product_that_is_not_linear_in_a_layer_is_no_group(kind):
    assert graph.Flow(Squared(kind).eval(), split(1, 8).inputs).groups() == ()


def test_alpha_outside_its_range_is_refused():
    network, items = Normed(nn.LayerNorm(32)).eval(), split(4, 5, 32)
    with pytest.raises(ValueError, match=r"alpha must lie in 0\.\.1: got 1.5"):
        smooth.smoothed(network, items.item(0), items, W8A8, alpha=1.5)


# ------------------------------------------------------------------------------------------------------- the methods

REWRITTEN = [name for name in METHODS.names() if getattr(METHODS.get(name), "steps", ())]


def test_methods_exist():
    assert {"int8_static_bias_corrected", "int8_static_equalized", "int8_static_smoothquant", "int4_awq"} <= set(
        REWRITTEN
    )


@pytest.mark.parametrize("name", REWRITTEN)
def test_methods_refuse_what_they_cannot_serve(name):
    """By the model's card alone: states, recurrent layers, and layers that the rewrite has no place between."""
    method, cards = METHODS.get(name), {n: MODELS.get(n).info for n in MODELS.names()}

    refused = {model for model, info in cards.items() if method.unsupported(info)}

    assert {"pydoc_gpt_cached", "fmnist_lstm", "resemblyzer"} <= refused
    assert ("fmnist_vit" in refused) == ("equalize" in method.steps)
    assert ("fmnist_mobile" in refused) == bool({"smooth", "awq"} & set(method.steps))
    assert method.needs_calibration
    with pytest.raises(CalibrationError, match=f"{name} needs calibration items"):
        method.prepare(nn.Sequential(nn.Linear(2, 2)), (np.zeros((1, 2), np.float32),), None)


@pytest.mark.parametrize("name", REWRITTEN)
def test_methods_prepare_a_copy_with_their_scheme(name):
    method = METHODS.get(name)
    smoothing = {"smooth", "awq"} & set(method.steps)
    network = Normed(nn.LayerNorm(32)).eval() if smoothing else depthwise(nn.ReLU6)
    items = split(16, 5, 32) if smoothing else split(16, *IMAGES)
    before = answers(network, items)

    prepared = method.prepare(network, items.item(0), items)

    assert prepared.plan == Plan(method.scheme) and prepared.calibration is items
    assert prepared.network is not network and not prepared.network.training
    assert torch.equal(answers(network, items), before)
    if "correct" not in method.steps:
        same(prepared.network, network, items)

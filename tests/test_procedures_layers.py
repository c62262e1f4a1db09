"""Simulated quantization: laws of the grids, checked against the NumPy grids and against a backend's own codes."""

import numpy as np
import pytest
import torch
from torch import nn

from quantkit.contracts import Plan, Split
from quantkit.errors import Unsupported
from quantkit.numerics import grids
from quantkit.procedures import layers
from quantkit.scheme import PerChannel, PerChannelGroup, PerGroup, PerTensor, Scheme


@pytest.fixture
def weight():
    return torch.from_numpy(np.random.default_rng(0).standard_normal((12, 5, 3)).astype(np.float32))


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_per_channel_codes_are_those_of_the_grids(weight, bits):
    """The NumPy grids are an independent path: same scale, same codes."""
    scale = grids.choose_symmetric(weight.numpy(), bits=bits, axis=0)
    expected = grids.dequantize(grids.quantize_symmetric(weight.numpy(), scale, bits=bits), scale)

    near = layers.rounded(weight, Scheme(bits, granularity=PerChannel()))

    np.testing.assert_allclose(near.numpy(), expected, atol=1e-6)


@pytest.mark.parametrize(
    "granularity", [PerTensor(), PerChannel(), PerGroup(4), PerGroup(64), PerChannelGroup(5)], ids=str
)
@pytest.mark.parametrize("symmetric", [True, False], ids=["symmetric", "affine"])
def test_error_never_exceeds_half_a_step(weight, granularity, symmetric):
    """At 8 bits the largest step is the whole range over 254 (symmetric) or 255 (affine), whoever shares it."""
    near = layers.rounded(weight, Scheme(8, granularity=granularity, symmetric=symmetric))

    step = 2 * weight.abs().max() / (254 if symmetric else 255)
    assert near.shape == weight.shape
    assert (near - weight).abs().max() <= step / 2 * (1 + 1e-5)
    assert not torch.equal(near, weight)


@pytest.mark.parametrize("granularity", [PerGroup(32), PerChannelGroup(5)], ids=str)
def test_padding_changes_no_code_of_the_others(granularity):
    """12 channels in groups of 5, 15 weights in groups of 32: the last ones share a scale among fewer."""
    weight = torch.linspace(-1, 1, 12 * 15).reshape(12, 15)

    near = layers.rounded(weight, Scheme(8, granularity=granularity))

    if isinstance(granularity, PerGroup):
        alone = torch.stack([layers.rounded(row[None], Scheme(8, granularity=PerTensor()))[0] for row in weight])
    else:
        parts = weight[:5], weight[5:10], weight[10:]
        alone = torch.cat([layers.rounded(part, Scheme(8, granularity=PerTensor())) for part in parts])
    torch.testing.assert_close(near, alone)


def test_nf4_and_palettes_are_the_books_of_the_grids(weight):
    """NF4 with one block: the published levels times the largest magnitude. A palette: the Lloyd-Max levels."""
    nf4 = layers.rounded(weight, Scheme(4, "nf4", PerGroup(64)))
    largest = weight.reshape(12, -1).abs().amax(1)
    levels = torch.from_numpy(grids.nf4_codebook()).float()
    for row, scale in zip(nf4.reshape(12, -1), largest, strict=True):
        assert ((row[:, None] - levels * scale).abs().amin(1) < 1e-6).all()

    lut = layers.rounded(weight, Scheme(2, "lut", PerTensor()))
    book = torch.from_numpy(grids.lloyd_max(weight.numpy(), 4, iterations=100)).float()
    torch.testing.assert_close(lut.unique(), book)


def test_the_gradient_passes_straight_through(weight):
    weight.requires_grad_()
    (layers.rounded(weight, Scheme(4)) * 3).sum().backward()
    assert torch.equal(weight.grad, torch.full_like(weight, 3))


def test_formats_that_are_not_simulated_are_refused_by_name(weight):
    with pytest.raises(Unsupported, match="mxfp4 is not simulated"):
        layers.rounded(weight, Scheme(4, "mxfp4", PerGroup(32)))


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.BatchNorm1d(8), nn.Linear(8, 3)).eval()


def items(count=40):
    values = np.random.default_rng(1).standard_normal((count, 6)).astype(np.float32)
    return Split((values,), np.zeros(count), tuple(map(str, range(count))))


def test_simulation_changes_a_copy_and_only_the_planned_layers():
    original = network()
    before = {name: value.clone() for name, value in original.state_dict().items()}

    copied = layers.simulated(original, Plan(Scheme(4), {"3": None}))

    assert all(torch.equal(value, before[name]) for name, value in original.state_dict().items())
    assert torch.equal(copied[3].weight, original[3].weight)
    assert not torch.equal(copied[0].weight, original[0].weight)
    assert list(layers.weight_layers(original)) == ["0", "3"]  # a norm's vectors are no weights here


def test_static_ranges_clip_and_dynamic_ones_follow():
    """Ten times the calibrated input saturates a static grid; a dynamic one follows the input."""
    plain, data = network(), items()
    ranges = layers.input_ranges(plain, data)
    assert ranges["0"] == (pytest.approx(data.inputs[0].min()), pytest.approx(data.inputs[0].max()))
    far = torch.from_numpy(data.inputs[0] * 10)

    static = layers.simulated(plain, Plan(Scheme(8, activations="static")), ranges)
    dynamic = layers.simulated(plain, Plan(Scheme(8, activations="dynamic")))

    with torch.no_grad():
        expected = plain(far)
        assert (static(far) - expected).norm() > 0.5 * expected.norm()
        assert (dynamic(far) - expected).norm() < 0.05 * expected.norm()


def test_activation_grids_hold_zero_and_half_a_step():
    values = torch.linspace(0.5, 2, 100)
    near = layers.on_grid(values, 0.5, 2.0, 8)  # widened to 0..2
    assert (near - values).abs().max() <= 2 / 255 / 2 + 1e-6
    assert layers.on_grid(torch.zeros(1), -1.0, 3.0, 8).item() == 0.0

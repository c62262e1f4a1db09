"""Number grids against their defining laws and against optima from the literature (Gaussian and uniform data)."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import norm

from quantkit.numerics import fidelity, grids

GAUSSIAN = norm.ppf((np.arange(40_000) + 0.5) / 40_000)  # N(0, 1) without sampling noise
AXIS = np.linspace(-9, 9, 200_001)
MATRICES = arrays(np.float64, (3, 8), elements=st.floats(-1e3, 1e3, width=32))

# Published table of bitsandbytes and QLoRA's appendix E.
NF4 = [
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
]  # fmt: skip


def gaussian_mse(back):
    """Return the integral of (back - x)² over the density of N(0, 1), by the trapezoid rule on AXIS."""
    return float(np.trapezoid((back - AXIS) ** 2 * norm.pdf(AXIS), AXIS))


def symmetric_mse(x, scale, bits):
    back = grids.dequantize(grids.quantize_symmetric(x, scale, bits=bits), scale)
    return float(np.mean((back - x) ** 2))


@given(MATRICES, st.sampled_from([2, 4, 8]), st.sampled_from([None, 0, 1]))
@settings(max_examples=60, deadline=None)
def test_error_never_exceeds_half_a_step(x, bits, axis):
    """The defining property of round-to-nearest, for both grids, on every element."""
    scale = grids.choose_symmetric(x, bits=bits, axis=axis)
    back = grids.dequantize(grids.quantize_symmetric(x, scale, bits=bits), scale)
    assert (np.abs(back - x) <= scale / 2 * (1 + 1e-9)).all()

    scale, zero_point = grids.choose_affine(x, bits=bits, axis=axis)
    back = grids.dequantize(grids.quantize_affine(x, scale, zero_point, bits=bits), scale, zero_point)
    inside = np.abs(back - x) <= scale / 2 * (1 + 1e-9)
    ends = np.abs(back - x) <= scale * (1 + 1e-9)  # a rounded zero_point moves one end by up to half a step
    assert ends.all() and inside[np.abs(x) < scale].all()


@given(MATRICES, st.sampled_from([2, 3, 8]))
@settings(max_examples=40, deadline=None)
def test_symmetric_codes_change_sign_with_the_data(x, bits):
    """quantize(-x) = -quantize(x): the reason for leaving out -2^(bits - 1)."""
    scale = grids.choose_symmetric(x, bits=bits)

    negated = grids.quantize_symmetric(-x, scale, bits=bits)

    assert (negated == -grids.quantize_symmetric(x, scale, bits=bits)).all()


@given(MATRICES, st.sampled_from([1, 4, 8]))
@settings(max_examples=40, deadline=None)
def test_affine_grid_holds_zero_exactly(x, bits):
    """Padding and ReLU produce exact zeros: they must come back as exact zeros."""
    scale, zero_point = grids.choose_affine(x, bits=bits, axis=0)
    codes = grids.quantize_affine(np.zeros_like(x), scale, zero_point, bits=bits)

    assert (grids.dequantize(codes, scale, zero_point) == 0).all()
    assert codes.min() >= 0 and codes.max() <= 2**bits - 1


def test_eight_bits_beat_four_by_the_ratio_of_steps():
    """Uniform data: noise is step²/12 and the steps are 1/7 and 1/127, so 20·log10(127/7) = 25.17 dB."""
    x = np.linspace(-1, 1, 7 * 127 * 64 + 1)
    four, eight = (grids.choose_symmetric(x, bits=b) for b in (4, 8))

    gain = fidelity.sqnr_db(x, grids.dequantize(grids.quantize_symmetric(x, eight, bits=8), eight))
    gain -= fidelity.sqnr_db(x, grids.dequantize(grids.quantize_symmetric(x, four, bits=4), four))

    assert gain == pytest.approx(20 * math.log10(127 / 7), abs=0.01)


def test_scale_has_one_entry_per_kept_index():
    """`axis` is the axis that is kept; zero slices get scale 1."""
    x = np.zeros((2, 3, 4))
    x[1] = 7.0

    assert grids.choose_symmetric(x, bits=4, axis=0).tolist() == [[[1.0]], [[1.0]]]
    assert grids.choose_symmetric(x, bits=4, axis=-1).shape == (1, 1, 4)
    assert grids.choose_affine(x, bits=4)[0].shape == (1, 1, 1)
    assert grids.choose_symmetric_mse(2 * x, bits=4, axis=0).ravel().tolist() == [1.0, 2.0]  # on the grid already


@pytest.mark.parametrize(("bits", "scale", "mse"), [(4, 0.353411, 0.0128894), (8, 0.030870, 8.8308e-5)])
def test_search_finds_the_optimal_symmetric_grid_of_a_gaussian(bits, scale, mse):
    """Optima of the integral over N(0, 1). 40,000 quantiles end at 4.2 sigma, so the search may clip a little early;
    the error is flat at its minimum: 2 % of the scale costs less than 1 % of it, and nothing is below the optimum."""
    found = grids.choose_symmetric_mse(GAUSSIAN, bits=bits)
    codes = grids.quantize_symmetric(AXIS, found, bits=bits)

    assert found.item() == pytest.approx(scale, rel=0.02)
    assert mse * (1 - 1e-4) < gaussian_mse(grids.dequantize(codes, found)) < mse * 1.01


@given(MATRICES, st.sampled_from([2, 4]))
@settings(max_examples=15, deadline=None)
def test_search_never_loses_to_the_largest_magnitude(x, bits):
    """Not clipping is among the candidates; each kept slice is searched on its own."""
    plain, searched = grids.choose_symmetric(x, bits=bits, axis=0), grids.choose_symmetric_mse(x, bits=bits, axis=0)

    for row, a, b in zip(x, plain.ravel(), searched.ravel(), strict=True):
        assert symmetric_mse(row, b, bits) <= symmetric_mse(row, a, bits) * (1 + 1e-12) and b <= a


def test_nf4_is_the_published_table():
    """Derived from normal quantiles; the published float32 values agree to 1.1e-7."""
    assert np.abs(grids.nf4_codebook() - NF4).max() < 1.1e-7


def test_nf4_round_trip_and_its_crossover_with_affine_codes():
    """Gaussian data: NF4 at block 64 errs by .0728 on average; affine int4 wins up to block 64, NF4 from 128 on.
    4,000 · 64 absolute errors have standard error .0001."""
    book, rng = grids.nf4_codebook(), np.random.default_rng(0)
    wins = {}
    for block in (64, 128):
        x = rng.standard_normal((4000, block))
        absmax = np.abs(x).max(axis=1, keepdims=True)
        by_book = book[grids.nearest(x / absmax, book)] * absmax
        scale, zero_point = grids.choose_affine(x, bits=4, axis=0)
        by_step = grids.dequantize(grids.quantize_affine(x, scale, zero_point, bits=4), scale, zero_point)
        wins[block] = np.mean((by_step - x) ** 2) < np.mean((by_book - x) ** 2)
        if block == 64:
            assert np.abs(by_book - x).mean() == pytest.approx(0.0728, abs=4e-4)

    assert wins == {64: True, 128: False}


@pytest.mark.parametrize(
    ("bits", "mse", "above"),
    [
        *((1, 1 - 2 / math.pi, 0.001), (2, 0.117482, 0.001), (3, 0.0345478, 0.001), (4, 0.00950101, 0.001)),
        (6, 0.00064424, 0.01),  # the outermost of 64 levels are means of a dozen of the 40,000 values
    ],
)
def test_lloyd_max_reaches_the_gaussian_optimum(bits, mse, above):
    """Max 1960, table 1; one bit by hand: levels ±sqrt(2/pi) leave 1 - 2/pi. No code book can be below the optimum."""
    book = grids.lloyd_max(GAUSSIAN, 2**bits)

    assert mse * (1 - 1e-4) < gaussian_mse(book[grids.nearest(AXIS, book)]) < mse * (1 + above)


@given(arrays(np.float64, 30, elements=st.floats(-100, 100)), st.integers(1, 8))
@settings(max_examples=40, deadline=None)
def test_lloyd_max_levels_are_the_means_of_their_values(x, levels):
    """Both conditions of Lloyd hold where it stops: values go to the nearest level, levels are their means."""
    book = grids.lloyd_max(x, levels)
    codes = grids.nearest(x, book)

    assert len(book) == levels and (np.diff(book) >= -1e-9).all()
    assert (np.abs(x - book[codes]) <= np.abs(x[:, None] - book).min(axis=1) + 1e-9).all()
    if (np.diff(book) > 1e-6).all():
        for level in set(codes.tolist()):
            assert book[level] == pytest.approx(x[codes == level].mean(), abs=1e-6)


def test_errors_name_what_is_wrong():
    """Every message with a value in it."""
    with pytest.raises(ValueError, match=r"bits must be 2..16: got 1"):
        grids.choose_symmetric([1.0], bits=1)
    with pytest.raises(ValueError, match=r"bits must be 1..16: got 0"):
        grids.choose_affine([1.0], bits=0)
    with pytest.raises(ValueError, match="axis must be inside 1 axes: got 1"):
        grids.choose_symmetric([1.0], bits=4, axis=1)
    with pytest.raises(ValueError, match="got 2 with 1 nan or infinite"):
        grids.choose_affine([1.0, np.nan], bits=4)
    with pytest.raises(ValueError, match="scale must be positive: got 0"):
        grids.quantize_symmetric([1.0], 0.0, bits=4)
    with pytest.raises(ValueError, match=r"levels must be 1..2 for 2 values: got 3"):
        grids.lloyd_max([1.0, 2.0], 3)

"""Ranges from calibration data: hand-worked values, laws of histograms, and the oracles of optimal grids."""

import math

import numpy as np
import pytest
from scipy import stats

from quantkit.errors import CalibrationError
from quantkit.numerics import grids, ranges
from quantkit.numerics.ranges import KINDS, Histogram, Observer


def observed(kind, values, *, pieces=1, bits=8, **options):
    observer = Observer(kind, bits, **options)
    for piece in np.array_split(np.asarray(values), pieces):
        observer.observe(piece)
    return observer.range()


def affine_error(values, low, high, bits):
    """The mean squared error of real codes, by the grids of `numerics.grids`."""
    scale = (high - low) / (2**bits - 1)
    zero = round(-low / scale)
    codes = grids.quantize_affine(values, scale, zero, bits=bits)
    return float(np.mean((grids.dequantize(codes, scale, zero) - values) ** 2))


@pytest.fixture(scope="module")
def normal():
    return np.random.default_rng(0).standard_normal(1_000_000)


def test_extremes_by_hand():
    assert observed("minmax", [[1.0, 3.0], [-0.5, 2.0]]) == (-0.5, 3.0)
    assert observed("minmax", [2.0, 3.0]) == (0.0, 3.0), "0 has to be representable"
    assert observed("minmax", [-0.5, 3.0], symmetric=True) == (-3.0, 3.0)


def test_moving_average_by_hand():
    """Highest: 4, then 4 + (8 - 4)/4 = 5, then 5 + (1 - 5)/4 = 4. Lowest: -1, then -1 + (-3 + 1)/4 = -1.5, -1.125."""
    found = observed("moving_average", [[4.0, -1.0], [8.0, -3.0], [1.0, 0.0]], pieces=3, constant=0.25)

    assert found == (-1.125, 4.0)


def test_moving_average_of_equal_items_is_their_range():
    assert observed("moving_average", [[-1.0, 2.0]] * 50, pieces=50) == pytest.approx((-1.0, 2.0))


@pytest.mark.parametrize("symmetric", [False, True], ids=["affine", "symmetric"])
def test_percentile_leaves_out_what_it_says(normal, symmetric):
    """NumPy's quantiles of all the values at once; a bin is at most 1/2048 of the largest magnitude wide."""
    bin_width = np.abs(normal).max() / 2048
    if symmetric:
        expected = np.quantile(np.abs(normal), 0.99)
        expected = -expected, expected
    else:
        expected = np.quantile(normal, [0.005, 0.995])

    found = observed("percentile", normal, pieces=100, symmetric=symmetric, percentile=99.0)

    np.testing.assert_allclose(found, expected, atol=bin_width)


def test_zeros_count_as_values_of_a_percentile():
    """Of 1,000 values 990 are 0, one is 9 and nine are 1: at 99.8 % one value may lie above, at 99.99 % none."""
    values = np.array([0.0] * 990 + [9.0] + [1.0] * 9)

    assert observed("percentile", values, percentile=99.99) == (0.0, 9.0)
    low, high = observed("percentile", values, percentile=99.8)
    assert low == 0.0
    assert 1.0 < high < 1.01


@pytest.mark.parametrize(("bits", "scale"), [(4, 0.353411), (8, 0.030870)])
def test_least_squares_lands_on_the_optimal_symmetric_scale(normal, bits, scale):
    """Of N(0,1): the minimum of 2·sum over codes of the integral of (x - code·scale)²·pdf, found by scipy elsewhere.

    The minimum is flat: half a per cent of the scale moves the error by less than 1e-4 of it at 4 bits.
    """
    low, high = observed("mse", normal, pieces=100, bits=bits, symmetric=True)

    assert high / (2 ** (bits - 1) - 1) == pytest.approx(scale, rel=5e-3)
    assert low == -high


def test_least_squares_affine_lies_between_the_two_optimal_grids_of_a_gaussian(normal):
    """16 levels, zero among them: no better than the best 16 (.0115429), no worse than 15 around zero (.0128894)."""
    error = affine_error(normal, *observed("mse", normal, pieces=100, bits=4), bits=4)

    assert 0.0115429 * 0.995 < error < 0.0128894


@pytest.mark.parametrize("law", ["normal", "relu", "laplace", "shifted"])
@pytest.mark.parametrize("bits", [4, 8])
def test_least_squares_never_loses_to_extremes_and_matches_a_plain_search(law, bits):
    """An independent search on the values themselves, both ends in steps of 1/40, finds at most 1 % less."""
    draw = np.random.default_rng(1).standard_normal(10_000)
    values = {"normal": draw, "relu": np.maximum(draw, 0), "shifted": np.exp(draw) - 0.3}.get(law)
    values = np.random.default_rng(1).laplace(size=10_000) if values is None else values
    low, high = min(values.min(), 0), values.max()
    shares = np.arange(2, 41) / 40
    plain = min(affine_error(values, a * low, b * high, bits) for a in (shares if low else [1.0]) for b in shares)

    error = affine_error(values, *observed("mse", values, pieces=10, bits=bits), bits=bits)

    assert error <= affine_error(values, low, high, bits) * (1 + 1e-9)
    assert error <= plain * 1.01


def test_least_squares_of_uniform_values_is_the_full_range_but_half_a_step():
    """With the end at h the error is h·(h/15)²/12 + (1 - h)³/3, least where 1 - h = h/30: h = 30/31."""
    values = np.random.default_rng(0).random(100_000)

    assert observed("mse", values, pieces=10, bits=4) == pytest.approx((0.0, 30 / 31), abs=5e-3)


def test_squared_error_is_that_of_the_values():
    """A histogram finer than the step foretells the error of real codes on the values it counted, within 1 %."""
    values = np.random.default_rng(2).laplace(size=50_000)
    histogram = Histogram()
    histogram.add(values)
    scale, low, high = 0.05, -40 * 0.05, 215 * 0.05

    (error,) = ranges.squared_error(*histogram.occupied(), np.array([scale]), np.array([low]), np.array([high]))

    assert error / len(values) == pytest.approx(affine_error(values, low, high, 8), rel=0.01)


def test_entropy_clips_a_lonely_outlier_and_keeps_a_full_range():
    """One value in 100,001 four times as far out as the others carries no information; of even values, all do."""
    even = np.random.default_rng(0).uniform(-1, 1, 100_000)
    spread = observed("entropy", even, pieces=10)
    assert spread == pytest.approx((-1.0, 1.0), abs=0.02)

    low, high = observed("entropy", np.append(even, 4.0), pieces=10)

    assert low == pytest.approx(-1.0, abs=0.02)
    assert 1.0 <= high < 1.3


def test_divergence_is_scipys():
    """Two codes over four bins: 4 and 2 become 3 each, the empty bin stays empty, 5 outside join the last count."""
    kept = np.array([4.0, 2.0, 0.0, 3.0])

    found = ranges._divergence(kept, 5.0, levels=2)

    assert found == pytest.approx(stats.entropy([4, 2, 0, 8], [3, 3, 0, 3]), rel=1e-12)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "moving_average"])
def test_order_and_batches_do_not_matter(kind):
    """Bins are powers of two wide and merge in pairs, so growing later or earlier ends in the same counts."""
    values = np.random.default_rng(0).standard_normal(5_000) * np.logspace(-6, 3, 5_000)

    rising, falling = (observed(kind, part, pieces=50) for part in (values, values[::-1]))

    assert rising == falling == observed(kind, values)


def test_float32_values_fall_into_the_bins_of_float64():
    values = np.random.default_rng(0).standard_normal(10_000).astype(np.float32)
    single, double = Histogram(), Histogram()
    single.add(values)
    double.add(values.astype(np.float64))

    np.testing.assert_array_equal(single.counts, double.counts)
    assert single.counts.sum() + single.zeros == len(values)


def test_bins_hold_their_values_after_growing():
    """Every value lies within the edges of the bin that counts it: -3 alone below zero, 0.5 and 1000 above."""
    histogram = Histogram()
    for value in (0.5, -3.0, 0.0, 1000.0):
        histogram.add([value])
    edges, counts = histogram.occupied()

    for value in (0.5, -3.0, 1000.0):
        assert counts[np.searchsorted(edges, value, side="right") - 1] == 1
    assert counts.sum() == 3
    assert histogram.zeros == 1
    assert math.log2(histogram.width).is_integer()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("symmetric", [False, True], ids=["affine", "symmetric"])
@pytest.mark.parametrize("factor", [1.0, 1e-35, 1e35])
def test_every_range_contains_zero_and_lies_inside_the_extremes(kind, symmetric, factor):
    values = np.random.default_rng(3).laplace(size=3_000) * factor
    extreme = np.abs(values).max()

    low, high = observed(kind, values, pieces=3, symmetric=symmetric)

    assert -extreme * 1.01 <= low < 0 < high <= extreme * 1.01  # a grid's zero point moves the ends by half a step
    assert low == -high or not symmetric


@pytest.mark.parametrize("kind", KINDS)
def test_zeros_and_single_values_have_a_range_too(kind):
    assert observed(kind, np.zeros(10)) == (0.0, 0.0)
    low, high = observed(kind, [0.0, 5.0])
    assert low == 0.0
    assert high == pytest.approx(5.0, rel=1e-2)


def test_sixteen_bits_leave_no_rounding_to_trade_for_clipping(normal):
    """At 65,536 codes clipping one value costs more than all rounding: the range stays that of the extremes."""
    values = normal[:10_000]

    assert observed("mse", values, bits=16) == pytest.approx((values.min(), values.max()), rel=0.01)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Observer("median", 8), "ranges must be one of minmax, .*: got 'median'"),
        (lambda: Observer("mse", 1), r"bits must be 2\.\.16 for mse ranges: got 1"),
        (lambda: Observer("entropy", 16), r"bits must be 2\.\.8 for entropy ranges: got 16"),
        (lambda: Observer("moving_average", 8, constant=0.0), "constant must be above 0 and at most 1: got 0.0"),
        (lambda: Observer("percentile", 8, percentile=50), "percentile must be above 50 and at most 100: got 50"),
        (lambda: Observer("mse", 8).observe([]), "values must be at least one: got an empty array"),
        (lambda: Observer("mse", 8).observe([1.0, math.nan]), "nan or inf in 1 of 2 values"),
        (lambda: Observer("minmax", 8).observe([math.inf]), "nan or inf in 1 of 1 values"),
        (lambda: Observer("mse", 8).range(), "got 0 values, expected at least 1"),
    ],
)
def test_messages(make, message):
    with pytest.raises((ValueError, CalibrationError), match=message):
        make()

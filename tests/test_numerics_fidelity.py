"""Laws of the fidelity figures; values by hand or from an independent implementation."""

import math

import numpy as np
import pytest
from scipy.stats import entropy

from quantkit.numerics import blocks, fidelity

ALL = [fidelity.sqnr_db, fidelity.cosine, fidelity.top1_agreement, fidelity.kl_divergence]


def pair(shape, noise=0.1):
    rng = np.random.default_rng(0)
    reference = rng.standard_normal(shape)
    return reference, reference + noise * rng.standard_normal(shape)


def test_ten_times_the_noise_costs_twenty_decibels():
    """Noise power grows by 10² = 100 and 10·log10(100) = 20."""
    reference, candidate = pair((8, 50))

    near = fidelity.sqnr_db(reference, candidate)
    far = fidelity.sqnr_db(reference, reference + 10 * (candidate - reference))

    assert near - far == pytest.approx(20.0, abs=1e-9)


def test_sqnr_has_the_two_infinite_ends():
    """No noise is +inf, also for zeros; noise on nothing is -inf."""
    assert fidelity.sqnr_db([1.0, 2.0], [1.0, 2.0]) == math.inf
    assert fidelity.sqnr_db([0.0], [0.0]) == math.inf
    assert fidelity.sqnr_db([0.0, 0.0], [0.0, 1.0]) == -math.inf


def test_cosine_ignores_the_length_of_each_item():
    """Item 1 is turned by 45 degrees (1/sqrt(2)), item 2 only scaled (1): mean .853553."""
    reference = [[[1.0], [0.0]], [[2.0], [2.0]]]
    candidate = [[[3.0], [3.0]], [[9.0], [9.0]]]

    assert fidelity.cosine(reference, candidate) == pytest.approx((1 / math.sqrt(2) + 1) / 2, abs=1e-12)


@pytest.mark.parametrize("length", [1e-200, 1e200], ids="{:g}".format)
def test_cosine_survives_squares_outside_of_float64(length):
    """(1e±200)² is 0 or infinite in float64; the angle is 45 degrees all the same."""
    assert fidelity.cosine([[length, 0.0]], [[length, length]]) == pytest.approx(1 / math.sqrt(2), abs=1e-12)


def test_cosine_of_zero_items():
    """Two zeros agree (1), a zero against something keeps no direction (0)."""
    assert fidelity.cosine([[0.0, 0.0]], [[0.0, 0.0]]) == 1.0
    assert fidelity.cosine([[0.0, 0.0]], [[0.0, 3.0]]) == 0.0


def test_top1_counts_positions_and_breaks_ties_downwards():
    """Four positions: same, other, a tie that goes to class 0 (same), and a tie against class 1 (other): 2/4."""
    reference = [[[9.0, 1.0], [9.0, 1.0]], [[5.0, 5.0], [5.0, 5.0]]]
    candidate = [[[2.0, 1.0], [1.0, 2.0]], [[7.0, 6.0], [6.0, 7.0]]]

    assert fidelity.top1_agreement(reference, candidate) == 0.5


def test_kl_divergence_equals_scipy_entropy():
    """Independent implementation: scipy.stats.entropy(p, q) of explicit softmax, position by position."""
    reference, candidate = pair((4, 3, 7), noise=1.0)
    p, q = (np.exp(x) / np.exp(x).sum(axis=-1, keepdims=True) for x in (reference, candidate))

    assert fidelity.kl_divergence(reference, candidate) == pytest.approx(entropy(p, q, axis=-1).mean(), rel=1e-12)


def test_kl_divergence_ignores_a_shift_and_survives_huge_logits():
    """Softmax does not see a constant; with logits 1e4 apart p = (1, 0), ln q = (-1e4, 0) and KL = 1e4."""
    reference, candidate = pair((5, 6))

    assert fidelity.kl_divergence(reference, reference + 7.0) == pytest.approx(0.0, abs=1e-14)
    assert fidelity.kl_divergence([[1e4, 0.0]], [[0.0, 1e4]]) == pytest.approx(1e4, rel=1e-12)
    assert fidelity.kl_divergence(reference, candidate) > 0


@pytest.mark.parametrize("figure", ALL, ids=lambda f: f.__name__)
def test_block_size_does_not_matter(figure, monkeypatch):
    """Large arrays are read in blocks; the result is the same to rounding."""
    reference, candidate = pair((11, 3, 5))
    whole = figure(reference, candidate)
    monkeypatch.setattr(blocks, "BLOCK", 7)

    assert figure(reference, candidate) == pytest.approx(whole, rel=1e-12)


@pytest.mark.parametrize("figure", ALL, ids=lambda f: f.__name__)
def test_half_precision_is_summed_in_double(figure):
    """300² overflows float16; the figures of the same numbers in float64 are equal."""
    reference = (pair((6, 40))[0] * 300).astype(np.float16)
    candidate = np.nextafter(reference, np.float16(np.inf))

    assert figure(reference, candidate) == figure(reference.astype(np.float64), candidate.astype(np.float64))


@pytest.mark.parametrize("figure", ALL, ids=lambda f: f.__name__)
def test_errors_name_what_is_wrong(figure):
    """Shape, nan, infinity and nothing at all."""
    with pytest.raises(ValueError, match=r"one shape: got \(2, 3\) and \(2, 4\)"):
        figure(np.ones((2, 3)), np.ones((2, 4)))
    with pytest.raises(ValueError, match="finite: got 1 nan or infinite in a block of 6"):
        figure(np.ones((2, 3)), np.array([[1.0, np.nan, 1.0], [1.0, 1.0, 1.0]]))
    with pytest.raises(ValueError, match="finite: got 6"):
        figure(np.full((2, 3), np.inf), np.ones((2, 3)))
    with pytest.raises(ValueError, match=r"hold values: got shape \(0, 3\)"):
        figure(np.ones((0, 3)), np.ones((0, 3)))

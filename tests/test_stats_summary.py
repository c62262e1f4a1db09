"""Order statistics, multiplicity, sample size and the Pareto front: small rooms, values by hand and laws."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import norm

from quantkit.stats import multiplicity, pareto, sample_size, summary

P_VALUES = st.lists(st.floats(0, 1), min_size=1, max_size=8)


def test_summary_by_hand():
    """0..10 without 5, plus 100: sorted 0 1 2 3 4 6 7 8 9 10 100; p50 is the sixth, 6; p90 the tenth, 10.
    Distances from 6: 6 5 4 3 2 0 1 2 3 4 94, sorted 0 1 2 2 3 3 4 4 5 6 94, so mad 3."""
    found = summary.summarize([100, 0, 1, 2, 3, 4, 6, 7, 8, 9, 10])

    assert found == summary.Summary(count=11, p50=6.0, p90=10.0, p99=None, mad=3.0, min=0.0)


def test_p99_needs_a_hundred_values():
    """0..99: the 99th percentile lies at position .99 · 99 = 98.01."""
    assert summary.summarize(np.arange(99)).p99 is None
    assert summary.summarize(np.arange(100)).p99 == pytest.approx(98.01)


def test_summary_refuses_what_has_no_quantile():
    """Nothing, nan, and q outside 0..1."""
    with pytest.raises(ValueError, match=r"at least 1 numbers: got shape \(0,\)"):
        summary.summarize([])
    with pytest.raises(ValueError, match="got 1 nan or infinite of 2"):
        summary.summarize([1.0, float("nan")])
    with pytest.raises(ValueError, match=r"q must be in 0..1: got 1.5"):
        summary.quantile([1.0], 1.5)


@given(P_VALUES, st.floats(0.001, 0.999))
def test_holm_rejects_what_the_step_down_rejects(p, alpha):
    """Independent implementation: walk up the sorted p-values until the first p > alpha / remaining."""
    rejected = [False] * len(p)
    for step, i in enumerate(sorted(range(len(p)), key=lambda i: p[i])):
        if p[i] * (len(p) - step) > alpha:
            break
        rejected[i] = True

    assert (multiplicity.holm(p) <= alpha).tolist() == rejected


@given(P_VALUES)
def test_adjusting_keeps_the_order_and_never_helps(p):
    """Raw <= Benjamini-Hochberg <= Holm <= 1, and a smaller p stays the smaller one."""
    p = np.array(p)
    bh, holm = multiplicity.benjamini_hochberg(p), multiplicity.holm(p)

    assert (p <= bh + 1e-15).all() and (bh <= holm + 1e-12).all() and (holm <= 1).all()
    order = np.argsort(p)
    assert (np.diff(holm[order]) >= 0).all() and (np.diff(bh[order]) >= 0).all()


def test_multiplicity_ends():
    """Nothing to adjust stays nothing; numbers that are no probabilities are refused."""
    assert multiplicity.holm([]).size == multiplicity.benjamini_hochberg([]).size == 0
    with pytest.raises(ValueError, match=r"p-values must be in 0..1: got 0.5..1.5"):
        multiplicity.holm([0.5, 1.5])


def test_planning_factor_is_two_quantiles_squared():
    """(z(.95) + z(.8))² = (1.64485 + .84162)² = 6.1826."""
    assert sample_size.planning_factor(0.05, 0.8) == pytest.approx((norm.ppf(0.95) + norm.ppf(0.8)) ** 2, rel=1e-12)
    assert round(sample_size.planning_factor(0.05, 0.8), 2) == 6.18


def test_sample_sizes_of_the_literature():
    """psi 4 %, one point: 6.1826 · .04 / .0001 = 2473.02, so 2,474; 1,000 items at psi 4..6 % defend 1.6..1.9."""
    assert sample_size.items_needed(0.04, 0.01) == 2474
    assert [round(100 * sample_size.detectable_drop(1000, psi), 1) for psi in (0.04, 0.06)] == [1.6, 1.9]


@given(st.floats(0, 1), st.floats(0.001, 0.5), st.sampled_from([0.01, 0.05]), st.sampled_from([0.8, 0.9]))
def test_planned_items_defend_the_margin_and_one_less_does_not(psi, margin, alpha, power):
    """`detectable_drop` is the inverse of `items_needed`."""
    items = sample_size.items_needed(psi, margin, alpha, power)

    assert sample_size.detectable_drop(items, psi, alpha, power) <= margin * (1 + 1e-9)
    if items > 1:
        assert sample_size.detectable_drop(items - 1, psi, alpha, power) >= margin * (1 - 1e-9)


def test_without_disagreement_the_rule_of_three_plans():
    """(1 - delta)^n <= .05: n = ln .05 / ln .99 = 298.07; about 3 / delta."""
    assert sample_size.items_needed(0.0, 0.01) == 299
    assert 0.99**299 < 0.05 < 0.99**298


def test_sample_size_errors():
    """Each argument outside its range."""
    with pytest.raises(ValueError, match=r"psi must be a share in 0..1: got 1.2"):
        sample_size.items_needed(1.2, 0.01)
    with pytest.raises(ValueError, match="margin must be between 0 and 1, both excluded: got 0"):
        sample_size.items_needed(0.1, 0.0)
    with pytest.raises(ValueError, match="items must be at least 1: got 0"):
        sample_size.detectable_drop(0, 0.1)


@given(arrays(np.float64, st.tuples(st.integers(1, 12), st.just(3)), elements=st.integers(0, 3)))
def test_front_is_what_nobody_dominates(points):
    """Independent implementation: all pairs, in plain Python; small integers give many ties."""
    signs = (1, -1, 1)
    cost = [[s * v for s, v in zip(signs, row, strict=True)] for row in points.tolist()]
    expected = [not any(all(b <= a for a, b in zip(x, y, strict=True)) and y != x for y in cost) for x in cost]

    assert pareto.front(points, ("lower", "higher", "lower")).tolist() == expected


def test_front_ends_and_errors():
    """No choice, no front; directions must fit; a missing number is not the best one."""
    assert pareto.front([], ("lower", "higher")).tolist() == []
    with pytest.raises(ValueError, match=r"\[n, 2\], one column per direction: got shape \(1, 3\)"):
        pareto.front([[1, 2, 3]], ("lower", "higher"))
    with pytest.raises(ValueError, match="'lower' or 'higher': got 'up'"):
        pareto.front([[1, 2]], ("lower", "up"))
    with pytest.raises(ValueError, match="nan: got 1"):
        pareto.front([[1, np.nan]], ("lower", "higher"))

"""McNemar, Tango and the estimated p-value against independent implementations; error rate and power."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.stats import binomtest, multinomial

from quantkit.stats import paired_binary
from quantkit.stats.sample_size import items_needed

COUNTS = st.tuples(st.integers(0, 12), st.integers(0, 12), st.integers(1, 60))


def best_gained(lost, gained, items, drop):
    """Return the likelihood's best share of gained items by search: independent of Tango's closed form."""

    def loss(q):
        chances = np.array([q + drop, q, 1 - 2 * q - drop]) + 1e-300
        return -np.dot([lost, gained, items - lost - gained], np.log(chances))

    bounds = (max(0.0, -drop), (1 - drop) / 2)
    return minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-12}).x


@given(st.integers(0, 30), st.integers(0, 30))
def test_worse_is_mcnemars_exact_test(lost, gained):
    """Independent implementation: scipy's binomial test of lost against gained."""
    expected = binomtest(lost, lost + gained, 0.5, alternative="greater").pvalue if lost + gained else 1.0

    assert paired_binary.p_worse(lost, gained) == pytest.approx(expected, rel=1e-9)


@given(COUNTS, st.sampled_from([-0.2, -0.01, 0.01, 0.05, 0.3]))
@settings(deadline=None)
def test_score_uses_the_best_share_under_the_null(counts, drop):
    """Tango's closed form against a numerical maximum of the trinomial likelihood."""
    lost, gained, rest = counts
    items = lost + gained + rest
    q = best_gained(lost, gained, items, drop)
    expected = (lost - gained - items * drop) / math.sqrt(items * (2 * q + drop * (1 - drop)))

    assert float(paired_binary.score(lost, gained, items, drop)) == pytest.approx(expected, rel=1e-4, abs=1e-4)


@given(COUNTS, st.floats(0.001, 0.5))
def test_score_changes_sign_when_the_systems_swap(counts, drop):
    """A drop of d from A to B is a drop of -d from B to A. At 0 the square is McNemar's (lost - gained)² / psi·n."""
    lost, gained, rest = counts
    items = lost + gained + rest
    there, back = (
        float(paired_binary.score(*c, items, d)) for c, d in (((lost, gained), drop), ((gained, lost), -drop))
    )

    assert there == pytest.approx(-back, rel=1e-6, abs=1e-6)
    square = (lost - gained) ** 2 / max(1, lost + gained)
    assert float(paired_binary.score(lost, gained, items, 0.0)) ** 2 == pytest.approx(square, rel=1e-9)


@pytest.mark.parametrize(("lost", "gained"), [(0, 0), (1, 0), (2, 3), (0, 4)])
def test_not_inferior_is_the_chance_of_data_as_good(lost, gained):
    """Independent implementation: sum the trinomial over all 91 outcomes of 12 items that score no higher."""
    items, margin = 12, 0.2
    q = best_gained(lost, gained, items, margin)
    outcomes_ = [(b, c) for b in range(items + 1) for c in range(items + 1 - b)]
    observed = float(paired_binary.score(lost, gained, items, margin))
    as_good = [o for o in outcomes_ if float(paired_binary.score(*o, items, margin)) <= observed + 1e-9]
    expected = sum(
        multinomial.pmf([b, c, items - b - c], items, [q + margin, q, 1 - 2 * q - margin]) for b, c in as_good
    )

    assert paired_binary.p_not_inferior(lost, gained, items, margin) == pytest.approx(expected, rel=1e-4)


def test_false_passes_stay_below_alpha_for_every_disagreement():
    """Enumerates all outcomes of 30 items at a true drop of exactly the margin, .15, for psi from .15 to .65. The
    nuisance is estimated, not maximized over, so a tenth of alpha more is granted."""
    items, margin, alpha = 30, 0.15, 0.05
    pairs = np.array([(b, c) for b in range(items + 1) for c in range(items + 1 - b)])
    passed = np.array([[*p] for p in pairs if paired_binary.p_not_inferior(*map(int, p), items, margin) < alpha])
    counts = np.column_stack([passed, items - passed.sum(axis=1)])
    sizes = [
        multinomial.pmf(counts, items, [q + margin, q, 1 - 2 * q - margin]).sum() for q in np.linspace(0, 0.25, 11)
    ]

    assert 0.01 < max(sizes) <= 1.1 * alpha


def test_the_planned_number_of_items_decides_with_the_planned_power():
    """psi 4 %, no drop, 2,474 items: a pass in 80 % of 300 simulations, give or take three standard errors (7 %)."""
    items = items_needed(0.04, 0.01)
    draws = np.random.default_rng(0).multinomial(items, [0.02, 0.02, 0.96], 300)

    passed = [paired_binary.p_not_inferior(int(b), int(c), items, 0.01) < 0.05 for b, c, _ in draws]

    assert np.mean(passed) == pytest.approx(0.8, abs=0.07)


@given(COUNTS, st.sampled_from([0.01, 0.05, 0.2]))
@settings(max_examples=20, deadline=None)
def test_interval_is_where_the_test_stops_refusing(counts, alpha):
    """Just above the upper end the p-value is below alpha, just below it is not; swapping mirrors the interval."""
    lost, gained, rest = counts
    items = lost + gained + rest
    low, high = paired_binary.drop_interval(lost, gained, items, alpha)

    assert low <= (lost - gained) / items <= high
    assert paired_binary.drop_interval(gained, lost, items, alpha) == (-high, -low)
    if high < 0.999:
        assert paired_binary.p_not_inferior(lost, gained, items, high + 1e-6) <= alpha + 1e-4
        assert paired_binary.p_not_inferior(lost, gained, items, high - 1e-6) >= alpha - 1e-4

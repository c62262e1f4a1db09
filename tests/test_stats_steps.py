"""A step between two pieces of a series: values by hand, laws, and chances by simulation."""

import math

import numpy as np
import pytest
from scipy import stats

from quantkit.stats.interval import ratio_of_medians
from quantkit.stats.steps import step, surviving, typical


def test_the_size_is_a_ratio_of_geometric_means():
    """Before 1 and 4 (geometric mean 2), after 3 and 12 (6): three times as much."""
    assert step([1.0, 4.0], [3.0, 12.0], noise=0.01).size.value == pytest.approx(3.0)


def test_without_prior_knowledge_it_is_the_two_sample_t_test():
    """An independent implementation, on logarithms; eight runs have five places for a step with two on either side."""
    rng = np.random.default_rng(0)
    before, after = np.exp(rng.normal(0, 0.1, 4)), np.exp(rng.normal(0.3, 0.1, 4))
    expected = stats.ttest_ind(np.log(after), np.log(before))

    found = step(before, after)

    assert found.p == pytest.approx(5 * expected.pvalue)
    interval = expected.confidence_interval(0.95)
    assert math.log(found.size.low) == pytest.approx(interval.low)
    assert math.log(found.size.high) == pytest.approx(interval.high)


def test_known_noise_counts_as_four_runs_more():
    """Runs that agree exactly: the variance is 4·noise² over (2 + 4) degrees; error noise·sqrt(4/6)·sqrt(1/2 + 1/2)."""
    found = step([1.0, 1.0], [1.1, 1.1], noise=0.03)

    t = math.log(1.1) / (0.03 * math.sqrt(4 / 6))
    assert found.p == pytest.approx(2 * stats.t.sf(t, 2))


def test_known_noise_only_ever_widens():
    """Runs that vary by more than was known keep their own variance."""
    rng = np.random.default_rng(0)
    before, after = np.exp(rng.normal(0, 0.2, 6)), np.exp(rng.normal(0, 0.2, 6))

    assert step(before, after, noise=0.01).size == step(before, after, noise=0.0).size
    assert step(before, after, noise=1.0).size.high > step(before, after).size.high


def test_one_noisy_run_proves_nothing():
    found = step([1.0, 1.01, 0.99], [2.0], noise=0.01)

    assert found.p == 1
    assert (found.size.low, found.size.high) == (0.0, math.inf)


def test_what_does_not_vary_steps_at_any_difference():
    assert step([100.0], [101.0]).p == 0
    assert step([100.0], [100.0]).p == 1


@pytest.mark.parametrize(
    ("before", "message"),
    [([], "before must be one row"), ([0.0], "positive"), ([1.0, math.nan], "finite"), ([-1.0], "positive")],
)
def test_values_that_make_no_sense(before, message):
    with pytest.raises(ValueError, match=message):
        step(before, [1.0])


def test_negative_noise():
    with pytest.raises(ValueError, match="noise must be"):
        step([1.0], [1.0], noise=-1)


def test_a_typical_value_is_that_of_the_speed_up():
    """The same value as the bootstrap's estimate of the ratio of medians."""
    rng = np.random.default_rng(3)
    rounds, over = (np.exp(rng.normal(0, 0.05, (7, 1)) + rng.normal(0, 0.05, (7, 30))).tolist() for _ in range(2))

    assert typical(rounds, over).value == pytest.approx(ratio_of_medians(rounds, over).value)


def test_a_typical_values_interval_holds_the_truth_as_often_as_it_says():
    """Seven rounds from a known level, 2,000 times: at most 5 % of the intervals miss it (three deviations: 6.5 %)."""
    rng = np.random.default_rng(4)
    missed = sum(typical(np.exp(rng.normal(0, 0.02, (7, 1))).tolist()).excludes(1.0) for _ in range(2_000))

    assert 0.02 < missed / 2_000 < 0.065


def test_the_interval_of_a_typical_value_by_hand():
    """Rounds 1, 2, 4: logarithms 0, 1, 2 times ln 2, deviation ln 2; t(2) at 95 % is 4.3027."""
    found = typical([[1.0], [2.0], [4.0]])

    reach = 4.302652729911275 * math.sqrt(math.pi / 2) * math.log(2) / math.sqrt(3)
    assert (found.value, found.high) == pytest.approx((2.0, 2 * math.exp(reach)))


@pytest.mark.parametrize("rounds", [[[1.0]], [], [[1.0], [0.0]], [[1.0], []]])
def test_rounds_that_make_no_sense(rounds):
    with pytest.raises(ValueError, match="round"):
        typical(rounds)


def test_steps_that_are_not_real_are_dropped_and_their_pieces_joined():
    """Two levels, cut into four pieces at random places: only the true step is left, judged on all runs of both."""
    rng = np.random.default_rng(1)
    values = np.exp(np.r_[rng.normal(0, 0.01, 12), rng.normal(0.1, 0.01, 12)])
    pieces = range(0, 3), range(3, 12), range(12, 19), range(19, 24)

    found = surviving(values, pieces, noise=0.01)

    assert [(s.position, s.runs) for s in found] == [(12, (12, 12))]


def test_false_steps_are_rarer_than_alpha_wherever_they_are_looked_for():
    """Equal runs, cut at the place where the step looks largest: at most 5 % of 2,000 series at alpha 5 %.

    The count is binomial; three deviations above its mean of 100 are 129.
    """
    rng = np.random.default_rng(2)
    alarms = 0
    for _ in range(2_000):
        values = np.exp(rng.normal(0, 0.02, 12))
        alarms += min(step(values[:cut], values[cut:]).p for cut in range(2, 11)) <= 0.05

    assert alarms <= 129

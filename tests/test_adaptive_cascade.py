"""The cascade: who has the last word, and thresholds whose guarantee is checked against a known truth."""

import math
from itertools import pairwise

import numpy as np
import pytest
from scipy.stats import binom, multinomial

from quantkit.adaptive import cascade
from quantkit.adaptive.cascade import NEVER, Evidence, Requirement
from quantkit.errors import CalibrationError, InvalidSetting


def population(n, *, seed, flaw=0.5):
    """Return evidence of a full precision that is right on 90 % and a cheap one that errs where it is unsure."""
    rng = np.random.default_rng(seed)
    confidence = rng.random((2, n))
    full = rng.random(n) < 0.9
    flipped = rng.random(n) < flaw * (1 - confidence[0]) ** 2
    return Evidence(confidence, np.stack([full ^ flipped, full]), (1.0, 4.0))


def loss(evidence, values):
    found = cascade.apply(evidence, values)
    return (found.lost - found.gained) / evidence.right.shape[1]


def test_apply_agrees_with_deciding_item_by_item():
    """Two independent implementations of the same rule, three precisions."""
    rng = np.random.default_rng(0)
    seen = Evidence(rng.random((3, 500)), rng.random((3, 500)) < 0.8, (1.0, 2.0, 5.0))
    values = (0.7, 0.4)

    found = cascade.apply(seen, values)

    one_by_one = [cascade.decide(column, values) for column in seen.confidence.T]
    assert found.chosen.tolist() == one_by_one
    assert found.cost_s == pytest.approx(np.mean([(1.0, 3.0, 8.0)[k] for k in one_by_one]))
    right = [seen.right[k, i] for i, k in enumerate(one_by_one)]
    assert found.accuracy == pytest.approx(np.mean(right))
    assert found.lost - found.gained == sum(seen.right[2]) - sum(right)


def test_a_precision_that_is_never_trusted_costs_nothing():
    seen = population(200, seed=0)

    found = cascade.apply(seen, (NEVER,))

    assert (found.cost_s, found.lost, found.gained, set(found.chosen)) == (4.0, 0, 0, {1})


def test_guarded_items_go_to_full_precision_and_cost_it_alone():
    seen = population(200, seed=0)
    guarded = np.arange(200) < 50

    found = cascade.apply(Evidence(seen.confidence, seen.right, seen.costs, guarded), (0.0,))

    assert (found.chosen == guarded).all()
    assert found.cost_s == pytest.approx((50 * 4.0 + 150 * 1.0) / 200)


@pytest.mark.parametrize("gained", [0.0, 0.01, 0.05], ids="{:.0%} gained".format)
@pytest.mark.parametrize("bet", [0.1, 0.5, 0.9])
def test_a_loss_at_the_limit_is_passed_no_more_often_than_alpha(gained, bet):
    """All outcomes of 60 items are summed exactly; the true mean loss is the limit itself."""
    n, limit, alpha = 60, 0.05, 0.05
    lost = limit + gained
    passed = 0.0
    for a in range(n + 1):
        for b in range(n + 1 - a):
            if cascade.p_loss(a, b, n, limit, bet) <= alpha:
                passed += multinomial.pmf([a, b, n - a - b], n, [lost, gained, 1 - lost - gained])

    assert passed <= alpha


def test_the_p_value_worked_out_by_hand():
    """Bet 1/2, limit 1/5: a lost item multiplies by 1 - .5·.8 = .6, an equal one by 1.1, a gained one by 1.6."""
    p = cascade.p_loss(lost=1, gained=2, n=33, loss=0.2, bet=0.5)

    assert p == pytest.approx(1 / (0.6 * 1.1**30 * 1.6**2))
    assert cascade.p_loss(lost=20, gained=0, n=33, loss=0.2, bet=0.5) == 1.0


def test_the_guarantee_holds_on_a_known_truth():
    """150 validation sets of 1,500: the true loss (of 100,000 items) is broken in 5 % of them at most.

    The limit lies where only part of the items may be trusted to the cheap precision, so that it can be broken.
    """
    truth, limit, trials = population(100_000, seed=1), 0.01, 150
    broken, escalated = 0, []
    assert loss(truth, (0.0,)) > 2 * limit

    for trial in range(trials):
        found = cascade.calibrate(population(1_500, seed=100 + trial), Requirement(limit), seed=trial)
        done = cascade.apply(truth, found.values)
        broken += (done.lost - done.gained) / 100_000 > limit
        escalated.append(done.chosen.mean())

    assert broken <= binom.ppf(0.999, trials, 0.05)
    assert np.median(escalated) < 0.8, "it would be easy to keep the limit by never trusting the cheap precision"


def test_the_same_for_a_required_accuracy():
    truth, trials = population(100_000, seed=1), 150
    needed = truth.right[1].mean() - 0.03
    broken = 0

    for trial in range(trials):
        found = cascade.calibrate(population(1_000, seed=500 + trial), Requirement(None, needed), seed=trial)
        broken += found.certified and cascade.apply(truth, found.values).accuracy < needed

    assert broken <= binom.ppf(0.999, trials, 0.05)


def test_an_equal_cheap_precision_is_trusted_with_everything():
    seen = population(2_000, seed=3, flaw=0.0)

    found = cascade.calibrate(seen, Requirement(0.01))

    assert cascade.apply(seen, found.values).cost_s < 1.05
    assert found.disagreement == 0.0


def test_a_useless_cheap_precision_is_not_asked():
    """It guesses and is sure of it: nothing can be certified, and full precision alone is left."""
    rng = np.random.default_rng(0)
    seen = Evidence(rng.random((2, 1_000)), np.stack([rng.random(1_000) < 0.5, np.ones(1_000, bool)]), (1.0, 4.0))

    found = cascade.calibrate(seen, Requirement(0.01))

    assert found.levels == ((NEVER,),)


def test_a_cheap_precision_that_is_slower_is_not_asked():
    seen = population(1_000, seed=3, flaw=0.0)

    found = cascade.calibrate(Evidence(seen.confidence, seen.right, (5.0, 4.0)), Requirement(0.01))

    assert found.values == (NEVER,)


def test_the_middle_precision_serves_where_the_cheapest_fails():
    """Cheapest: a coin. Middle: as good as full. The thresholds skip the first and trust the second."""
    rng = np.random.default_rng(0)
    full = rng.random(2_000) < 0.9
    seen = Evidence(rng.random((3, 2_000)), np.stack([rng.random(2_000) < 0.5, full, full]), (1.0, 2.0, 8.0))

    found = cascade.calibrate(seen, Requirement(0.01))

    chosen = cascade.apply(seen, found.values).chosen
    assert (chosen == 1).mean() > 0.9
    assert found.values[0] == NEVER


def test_levels_go_from_full_precision_to_the_values_taken_each_cheaper_than_the_last():
    seen = population(3_000, seed=4)

    found = cascade.calibrate(seen, Requirement(0.02))

    costs = [cascade.apply(seen, values).cost_s for values in found.levels]
    assert found.levels[0] == (NEVER,) and found.levels[-1] == found.values and len(costs) > 3
    assert all(later < earlier + 0.2 for earlier, later in pairwise(costs[1:]))
    assert costs[-1] == min(costs)


def test_an_accuracy_that_full_precision_lacks_is_not_certified():
    found = cascade.calibrate(population(1_000, seed=0), Requirement(None, accuracy=0.95))

    assert not found.certified and found.values == (NEVER,)


def test_the_best_bet_grows_fastest():
    """With shares 1/100 lost and none gained and limit 5 %, growth is .01·ln(1 - .95b) + .99·ln(1 + .05b): calculus

    puts its top where .0095/(1 - .95b) = .0495/(1 + .05b): b = .04/.0475 = .842.
    """
    bet = cascade.best_bet(lost=99_99, gained=0, n=999_998, loss=0.05)

    assert bet == pytest.approx(0.842, abs=0.02)


@pytest.mark.parametrize(
    "fields", [{"loss": 0.1, "accuracy": 0.9}, {"loss": None}, {"loss": 0.0}, {"alpha": 1.0}], ids=str
)
def test_senseless_requirements_are_refused(fields):
    with pytest.raises(InvalidSetting, match=r"either|between"):
        Requirement(**fields)


def test_too_few_items_are_refused():
    with pytest.raises(CalibrationError, match="at least 100 validation items: got 99"):
        cascade.calibrate(population(99, seed=0), Requirement())


def test_evidence_that_does_not_fit_is_refused():
    seen = population(10, seed=0)
    with pytest.raises(CalibrationError, match="3 costs"):
        Evidence(seen.confidence, seen.right, (1.0, 2.0, 3.0))
    with pytest.raises(CalibrationError, match="finite"):
        Evidence(np.full((2, 10), math.nan), seen.right, (1.0, 2.0))

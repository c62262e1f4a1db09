"""Input guard, load and feedback: pure functions, so each law is checked on the state itself."""

import math

import numpy as np
import pytest
from scipy.stats import binom

from quantkit.adaptive import feedback, inputs, load
from quantkit.adaptive.confidence import KINDS, kind
from quantkit.adaptive.feedback import Audit
from quantkit.adaptive.load import Observation, Policy
from quantkit.contracts import Split
from quantkit.errors import CalibrationError, InvalidSetting, UnknownName


def points(n, *, seed, scale=1.0):
    values = np.random.default_rng(seed).standard_normal((n, 3, 32)).astype(np.float32) * scale
    return Split((values,), np.zeros(n, int), tuple(map(str, range(n))))


def test_false_alarms_stay_below_the_rate():
    """Split conformal holds on average over calibration sets: 40 sets, 200 fresh items each, rate 5 %."""
    alarms = 0
    for trial in range(40):
        like = inputs.guard(points(120, seed=trial), rate=0.05, seed=trial)
        fresh = points(200, seed=1_000 + trial)
        alarms += sum(like.alarm(fresh.item(i)) for i in range(200))

    # A threshold is shared by 200 items: the rate of one set is Beta(3, 58), deviation .028.
    assert alarms / 8_000 <= 0.05 + 3 * 0.028 / math.sqrt(40)
    assert alarms > 0


@pytest.mark.parametrize(
    "changed",
    [lambda x: x * 20, lambda x: x + 9, lambda x: x * 0, lambda x: np.sort(x, axis=-1), lambda x: x * np.nan],
    ids=["scaled", "shifted", "empty", "smoothed", "nan"],
)
def test_what_differs_from_calibration_raises_the_alarm(changed):
    like = inputs.guard(points(2_000, seed=0), rate=0.01)

    assert np.mean([like.alarm((changed(points(50, seed=1).item(i)[0]),)) for i in range(50)]) > 0.9


def test_token_sequences_that_are_much_shorter_raise_the_alarm():
    """Padding is 0: ten tokens of 64 where calibration had 50 to 64."""
    rng = np.random.default_rng(0)
    rows = rng.integers(1, 500, (400, 64)) * (np.arange(64) < rng.integers(50, 65, 400)[:, None])
    like = inputs.guard(Split((rows,), np.zeros(400), tuple(map(str, range(400)))), rate=0.05)

    assert like.alarm((rows[:1] * (np.arange(64) < 10),))


def test_a_guard_needs_enough_items_for_its_rate():
    """1 % needs 99 held-out items, hence 198: with 98 even the largest of all scores is too small a quantile."""
    inputs.guard(points(198, seed=0), rate=0.01)
    with pytest.raises(CalibrationError, match="needs 198 items: got 196"):
        inputs.guard(points(196, seed=0), rate=0.01)
    with pytest.raises(InvalidSetting, match="got 0"):
        inputs.guard(points(10, seed=0), rate=0.0)


@pytest.mark.parametrize("name", KINDS)
def test_confidence_does_not_depend_on_an_offset_and_lies_in_0_to_1(name):
    logits = np.random.default_rng(0).standard_normal((100, 10)) * 5

    found = kind(name)(logits)

    assert ((found >= 0) & (found <= 1)).all()
    assert kind(name)(logits + 100.0) == pytest.approx(found)
    one_by_one = [kind(name)(logits[i : i + 1])[0] for i in range(100)]
    assert one_by_one == pytest.approx(found), "the few-classes way and NumPy's agree"


@pytest.mark.parametrize("rows", [1, 2])
def test_nan_gives_no_confidence(rows):
    assert np.isnan(kind("margin")(np.full((rows, 3), np.nan))).all()


def test_an_unknown_confidence_is_refused():
    with pytest.raises(UnknownName, match="Known: margin, max_softmax"):
        kind("entropy")


POLICY = Policy(target_s=0.1, high=1.0, low=0.5, dwell_s=1.0)
SERVICE = (0.01, 0.002)  # seconds of a request at levels 0 and 1


def run_load(depths, *, every_s=0.01, policy=POLICY, service=SERVICE, arrivals=1.0):
    """Return the times of all switches and the level at each step."""
    state, switches, seen = load.State(), [], []
    for i, depth in enumerate(depths):
        new = load.step(state, Observation(i * every_s, depth, arrivals, service), policy)
        if new.level != state.level:
            switches.append(i * every_s)
        state = new
        seen.append(state.level)
    return switches, seen


@pytest.mark.parametrize("level", [0, 1])
def test_a_load_that_swings_inside_the_band_never_switches(level):
    """The band of level 0 is 5 to 10 waiting requests of 10 ms: swinging from 5 to 10 for 100 s changes nothing."""
    depths = [5 + 5 * (i % 2) for i in range(10_000)]
    state = load.State(level=level)

    for i, depth in enumerate(depths):
        assert load.step(state, Observation(i * 0.01, depth, 1.0, SERVICE), POLICY) is state


def test_there_is_at_most_one_switch_in_a_dwell_time_whatever_the_load_does():
    """Depths jump between 0 and 1,000 at every step, which begs for a switch each time."""
    rng = np.random.default_rng(0)
    switches, _ = run_load(rng.choice([0, 1_000], 5_000))

    assert len(switches) > 10
    assert np.diff(switches).min() >= POLICY.dwell_s


def test_load_raises_the_level_and_its_end_lowers_it():
    _, levels = run_load([1] * 10 + [50] * 200 + [1] * 200)

    assert (levels[9], levels[10], levels[209], levels[-1]) == (0, 1, 1, 0)


def test_arrivals_that_the_slower_level_could_not_serve_keep_the_level_up():
    """95 requests a second of 10 ms would keep level 0 busy for 95 % of the time: it is not gone back to."""
    _, kept = run_load([50] * 5 + [1] * 500, arrivals=95.0)
    _, eased = run_load([50] * 5 + [1] * 500, arrivals=50.0)

    assert (kept[-1], eased[-1]) == (1, 0)


def test_the_floor_limits_the_levels():
    assert [load.levels(3, Policy(0.1, floor=floor)) for floor in (0, 1, 2, 7)] == [3, 2, 1, 1]
    assert load.levels(3, None) == 1
    _, levels = run_load([10_000] * 1_000, service=SERVICE)
    assert max(levels) == 1, "two levels of service times: there is no third"


@pytest.mark.parametrize("count", [1, 2, 7, 8, 9, 63])
def test_parts_add_up_and_are_as_few_as_the_sizes_allow(count):
    sizes = (1, 2, 8)

    assert sum(load.parts(count, sizes)) == count
    assert len(load.parts(count, sizes)) == count // 8 + count % 8 // 2 + count % 2


def test_a_senseless_policy_is_refused():
    with pytest.raises(InvalidSetting, match="0 < low < high"):
        Policy(0.1, high=0.5, low=0.5)


def audited(disagreements, audit, *, level=8, top=8):
    state, levels = feedback.State(level), []
    for x in disagreements:
        state = feedback.step(state, bool(x), audit, top)
        levels.append(state.level)
    return state, levels


def test_the_likelihood_ratio_has_mean_one_at_the_allowed_share_and_less_below():
    for ratio in feedback.RATIOS:
        hit, miss = feedback._ratio(True, 0.02, ratio), feedback._ratio(False, 0.02, ratio)
        assert 0.02 * hit + 0.98 * miss == pytest.approx(1.0)
        assert 0.01 * hit + 0.99 * miss < 1.0


def test_without_drift_alarms_are_rare():
    """Sums grow by 1 a request on average, so by Markov a run of 200 reaches 2,000 with a chance of at most 10 %."""
    rng, audit = np.random.default_rng(0), Audit(1.0, allowed=0.02, run_length=2_000.0)
    alarms = sum(audited(rng.random(200) < 0.02, audit)[0].alarms > 0 for _ in range(200))

    assert alarms <= binom.ppf(0.999, 200, 200 / 2_000)


def test_a_drift_after_a_long_good_time_tightens_the_thresholds():
    """5,000 audited requests in order, then ten times the allowed share: the level is halved within 200."""
    rng, audit = np.random.default_rng(0), Audit(1.0, allowed=0.02)
    drifted = np.concatenate([rng.random(5_000) < 0.01, rng.random(200) < 0.2])

    state, levels = audited(drifted, audit)

    assert levels[4_999] == 8 and state.alarms >= 1 and state.level <= 4
    assert state.audited == 5_200 and state.disagreed == drifted.sum()


def test_thresholds_relax_one_level_at_a_time_never_past_what_was_certified():
    state, levels = audited([False] * 2_000, Audit(1.0, patience=100), level=3, top=8)

    assert levels[98] == 3 and levels[99] == 4 and levels[199] == 5
    assert max(np.diff(levels)) == 1 and state.level == 8


def test_hits_alone_alarm_when_the_mean_of_the_sums_reaches_the_bound():
    """After n hits a sum is r + r² + ... + rⁿ. For n = 5, r = 1.5, 2, 4, 8: 19.8, 62, 1,364, 37,448: mean 9,723."""
    audit = Audit(1.0, allowed=0.01, run_length=10_000, patience=10)

    five, _ = audited([True] * 5, audit)
    six, levels = audited([True] * 6, audit)

    assert sum(five.sums) / 4 == pytest.approx((19.78125 + 62 + 1_364 + 37_448) / 4)
    assert (five.alarms, six.alarms, six.level, six.patience, levels[4]) == (0, 1, 4, 20, 8)


def test_thresholds_do_not_relax_while_more_than_allowed_disagrees():
    """One of 50 where one of 100 is allowed: no alarm within 300 requests, but no relaxation either."""
    hits = [i % 50 == 0 for i in range(300)]

    state, levels = audited(hits, Audit(1.0, allowed=0.01, patience=100), level=3)

    assert (state.alarms, set(levels)) == (0, {3})
    assert audited(hits, Audit(1.0, allowed=0.02, patience=100), level=3)[0].level == 6


def test_patience_doubles_with_every_alarm_up_to_a_limit():
    audit = Audit(1.0, allowed=0.01, patience=10)
    state, levels = audited([True] * 100, audit)

    assert levels[5::6][:5] == [4, 2, 1, 0, 0]
    assert state.patience == 10 * feedback.LONGEST


def test_allowed_disagreement_is_an_upper_bound():
    """The bound of Clopper and Pearson: that many or fewer have a chance of 5 % at the bound itself."""
    assert binom.cdf(7, 500, feedback.allowed(7, 500)) == pytest.approx(0.05)
    assert feedback.allowed(7, 500, loss=0.5) == 0.5
    assert feedback.allowed(5, 5) == 1.0


def test_wilson_contains_the_share_and_narrows():
    narrow, wide = feedback.wilson(900, 1_000), feedback.wilson(9, 10)

    assert wide[0] < narrow[0] < 0.9 < narrow[1] < wide[1]
    assert feedback.wilson(0, 0) == (0.0, 1.0)


def test_a_senseless_audit_is_refused():
    with pytest.raises(InvalidSetting, match="allowed"):
        Audit(allowed=0.0)

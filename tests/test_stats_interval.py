"""Intervals: values by hand, coverage by simulation. Tolerances of simulations are three standard errors."""

import math
import time

import numpy as np
import pytest

from quantkit.stats import interval, latency, resample
from quantkit.stats.interval import Estimate


def arm(rng, rounds=7, values=12, between=0.03, within=0.03):
    """Return latencies around 1 ms: a factor per process, a factor per call."""
    process = np.exp(rng.normal(0, between, (rounds, 1)))
    return list(1e-3 * process * np.exp(rng.normal(0, within, (rounds, values))))


def share_needed(confidence, simulations):
    return confidence - 3 * math.sqrt(confidence * (1 - confidence) / simulations)


def test_speed_up_is_the_geometric_mean_of_the_rounds():
    """Ratios of medians 4/2 = 2 and 16/2 = 8: sqrt(2 · 8) = 4. Outliers do not move a median."""
    found = interval.ratio_of_medians([[4, 4, 900], [16, 16, 1]], [[2, 2, 2], [2, 2, 2]])

    assert found.value == pytest.approx(4.0)


@pytest.mark.parametrize(("prediction", "factor"), [(False, 1.0), (True, math.sqrt(2))])
def test_interval_of_two_rounds_by_hand(prediction, factor):
    """Logs ln 4 ± ln 2 without noise inside. Two draws with replacement: median ln 4 - ln 2, ln 4, ln 4 + ln 2 with
    chances 1/4, 1/2, 1/4: the central 68 % reach from the first to the last, so half of it is ln 2; times
    sqrt(2 / (2 - 1)); t(1) at .75 is 1: ln 4 ± sqrt(2) ln 2, and a repeat sqrt(2) wider."""
    found = interval.ratio_of_medians([[4.0], [16.0]], [[2.0], [2.0]], confidence=0.5, prediction=prediction)

    assert math.log(found.high / found.value) == pytest.approx(factor * math.sqrt(2) * math.log(2))
    assert math.log(found.value / found.low) == pytest.approx(math.log(found.high / found.value), rel=1e-9)


def test_swapping_the_arms_inverts_the_estimate():
    """Slower by the factor by which the other is faster; without noise inside rounds the draws are the same."""
    slow, fast = [[4.0], [5.0], [6.0]], [[2.0], [2.2], [2.1]]

    one, other = interval.ratio_of_medians(slow, fast), interval.ratio_of_medians(fast, slow)

    assert (1 / other.value, 1 / other.high, 1 / other.low) == pytest.approx((one.value, one.low, one.high))


def test_a_clock_without_noise_gives_an_interval_without_width():
    """Simulated targets rely on it."""
    found = interval.ratio_of_medians([[3.0] * 4] * 3, [[2.0] * 5] * 3)

    assert (found.low, found.value, found.high) == pytest.approx((1.5, 1.5, 1.5))


def test_drift_that_both_arms_share_cancels():
    """The machine slows down by half in each round; paired by round, the ratio is 2 in every one."""
    drift = [1.0, 1.5, 2.25, 3.375]

    found = interval.ratio_of_medians([[2 * d] for d in drift], [[d] for d in drift])

    assert found.low == pytest.approx(2.0) and found.high == pytest.approx(2.0)


def test_speed_interval_covers_and_predicts_a_repeat():
    """Processes differ by 3 %, calls by 3 %: at 90 % both kinds of interval must hold in 90 % of the simulations."""
    rng, simulations, covered, repeated = np.random.default_rng(0), 120, 0, 0
    for _ in range(simulations):
        first = interval.ratio_of_medians(reference := arm(rng), candidate := arm(rng), confidence=0.9)
        wide = interval.ratio_of_medians(reference, candidate, confidence=0.9, prediction=True)
        logs = [math.log(np.median(r) / np.median(c)) for r, c in zip(arm(rng), arm(rng), strict=True)]
        covered += not first.excludes(1.0)
        repeated += not wide.excludes(math.exp(np.mean(logs)))

    assert min(covered, repeated) / simulations >= share_needed(0.9, simulations)


def test_more_calls_in_the_same_processes_do_not_buy_certainty():
    """The process is the unit: ten times the calls leave the spread between processes, so at most a third is gained."""
    few = interval.ratio_of_medians(*(arm(np.random.default_rng(s), values=20) for s in (1, 2)))
    many = interval.ratio_of_medians(*(arm(np.random.default_rng(s), values=200) for s in (1, 2)))

    assert math.log(many.high / many.low) > 0.67 * math.log(few.high / few.low)


def test_seven_rounds_of_a_hundred_calls_take_milliseconds():
    """A report makes hundreds of these. The bound is ten times what an idle core needs."""
    rng = np.random.default_rng(0)
    reference, candidate = arm(rng, values=100), arm(rng, values=100)
    start = time.perf_counter()
    first = interval.ratio_of_medians(reference, candidate)
    elapsed = time.perf_counter() - start

    assert elapsed < 0.05 and interval.ratio_of_medians(reference, candidate) == first


@pytest.mark.parametrize(
    ("values", "chances"),
    [([1.0, 2.0, 4.0], {1.0: 7 / 27, 2.0: 13 / 27, 4.0: 7 / 27}), ([0.0, 1.0], {0.0: 0.25, 0.5: 0.5, 1.0: 0.25})],
    ids=["odd", "even"],
)
def test_resampled_medians_have_their_exact_chances(values, chances):
    """Of 27 draws of three, seven have the smallest at least twice; of 4 draws of two, two are mixed. n = 20,000."""
    picks, rng = np.zeros((200, 100), np.intp), np.random.default_rng(0)
    found = resample.medians((np.array(values),), picks, rng)

    for value, chance in chances.items():
        assert np.mean(found == value) == pytest.approx(chance, abs=3 * math.sqrt(chance * (1 - chance) / found.size))


def test_resampled_medians_of_unequal_rounds_agree_with_drawing_all_values():
    """Independent implementation: draw n values with replacement and take the median."""
    rng = np.random.default_rng(0)
    rounds = (rng.standard_normal(9), rng.standard_normal(24) + 50)
    picks = np.repeat([0, 1], 4000)[None, :]

    found = resample.medians(rounds, picks, rng)[0]

    for values, ours in zip(rounds, (found[:4000], found[4000:]), strict=True):
        drawn = np.median(rng.choice(values, (4000, len(values))), axis=1)
        assert ours.mean() == pytest.approx(drawn.mean(), abs=4 * drawn.std() / math.sqrt(2000))
        assert ours.std() == pytest.approx(drawn.std(), rel=0.1)


def test_paired_bootstrap_covers_a_skewed_difference(monkeypatch):
    """Exponential differences with true mean 1, 40 items: a 90 % interval must hold it 90 % of the time."""
    monkeypatch.setattr(resample, "MOST", 499)
    monkeypatch.setattr(resample, "LEAST", 499)
    rng, simulations, covered = np.random.default_rng(0), 150, 0
    for _ in range(simulations):
        base = rng.standard_normal(40)
        found = interval.paired_bootstrap(base, base + rng.exponential(1.0, 40), confidence=0.9)
        covered += not found.excludes(1.0)

    assert covered / simulations >= share_needed(0.9, simulations)


def test_a_long_tail_pulls_the_interval_to_its_own_side():
    """Skewed upwards, the mean of a sample is more often far below the truth than far above: more room upwards. An
    interval of fixed standard error would be even. Hall 1988: skew shifts t by skew · (2 z² + 1) / (6 sqrt(n)). The
    skew of these 30 numbers is 1.51 and z 1.645: .295, so 1.94 upwards to 1.35 downwards, 1.44 to 1."""
    difference = -np.log1p(-(np.arange(30) + 0.5) / 30)  # quantiles of the exponential law

    found = interval.paired_bootstrap(np.zeros(30), difference, confidence=0.9)

    assert (found.high - found.value) / (found.value - found.low) == pytest.approx(1.44, abs=0.2)


def test_pairing_removes_what_items_share():
    """Items differ by 100, the candidate by .1 ± .01: unpaired it would be 40 wide, paired below .02."""
    rng = np.random.default_rng(0)
    base = 100 * rng.standard_normal(50)

    found = interval.paired_bootstrap(base, base + 0.1 + 0.01 * rng.standard_normal(50))

    assert found.low < 0.1 < found.high and found.high - found.low < 0.02


def test_simultaneous_confidence_multiplies_back():
    """m independent intervals at c^(1/m) all hold with chance c."""
    assert interval.simultaneous(0.9, 8) ** 8 == pytest.approx(0.9)
    assert interval.simultaneous(0.9, 1) == 0.9


@pytest.mark.parametrize(
    ("value", "low", "high", "verdict"),
    [
        (1.50, 1.200, 1.80, "faster"),
        (0.70, 0.600, 0.80, "slower"),
        (1.50, 0.900, 2.40, "inconclusive"),  # not significant
        (1.01, 1.005, 1.02, "inconclusive"),  # significant, but within the noise floor
        (0.985, 0.98, 0.99, "inconclusive"),  # 1 / 1.02 = .9804
        (0.97, 0.96, 0.98, "slower"),
    ],
)
def test_speed_needs_significance_and_an_effect_above_the_floor(value, low, high, verdict):
    """Both conditions, in both directions."""
    assert latency.speed_verdict(Estimate(value, low, high, 0.95), floor=0.02) == verdict


def test_interval_errors():
    """Each message says what was got."""
    with pytest.raises(ValueError, match="2 rounds or more, in pairs: got 1 and 1"):
        interval.ratio_of_medians([[1.0]], [[1.0]])
    with pytest.raises(ValueError, match="in pairs: got 2 and 3"):
        interval.ratio_of_medians([[1.0]] * 2, [[1.0]] * 3)
    with pytest.raises(ValueError, match="candidate round 1 must hold positive seconds: got 0"):
        interval.ratio_of_medians([[1.0], [1.0]], [[1.0], [0.0]])
    with pytest.raises(ValueError, match=r"reference round 0 must be one row of at least 1 numbers: got shape \(0,\)"):
        interval.ratio_of_medians([[], [1.0]], [[1.0], [1.0]])
    with pytest.raises(ValueError, match="confidence must be between 0 and 1, both excluded: got 95"):
        interval.ratio_of_medians([[1.0], [1.0]], [[1.0], [1.0]], confidence=95)
    with pytest.raises(ValueError, match="paired item by item: got 2 and 3 items"):
        interval.paired_bootstrap([1.0, 2.0], [1.0, 2.0, 3.0])
    with pytest.raises(ValueError, match="comparisons must be at least 1: got 0"):
        interval.simultaneous(0.95, 0)
    with pytest.raises(ValueError, match="floor must be a relative effect >= 0: got -1"):
        latency.speed_verdict(Estimate(1.0, 1.0, 1.0, 0.95), floor=-1)


def test_disturbed_rounds_do_not_move_the_speed_up():
    """Two of seven processes lose a third of their speed to something else: the median of rounds stays at 2."""
    reference = [[2.0] * 9] * 7
    candidate = [[1.0] * 9] * 5 + [[1.5] * 9] * 2

    assert interval.ratio_of_medians(reference, candidate).value == pytest.approx(2.0)


def test_drift_between_runs_is_added_in_quadrature():
    """Nothing varies within the run: the reach is t(6) at .975, 2.4469, times the drift of 1 %."""
    rounds = [[1.0] * 3] * 7
    found = interval.ratio_of_medians(rounds, rounds, drift=0.01)

    assert math.log(found.high) == pytest.approx(2.446912 * 0.01)

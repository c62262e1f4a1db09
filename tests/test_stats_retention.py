"""Paired quality verdicts: laws, values by hand, error rates by simulation."""

import math
from dataclasses import replace

import numpy as np
import pytest

from quantkit.stats import resample
from quantkit.stats.paired_score import Contrast
from quantkit.stats.retention import compare, decide


def outcomes(both, lost, gained, neither):
    """Return reference and candidate outcomes with these counts."""
    reference = np.repeat([1.0, 1.0, 0.0, 0.0], [both, lost, gained, neither])
    return reference, np.repeat([1.0, 0.0, 1.0, 0.0], [both, lost, gained, neither])


def binary(both, lost, gained, neither, margin=0.01, **options):
    return compare(*outcomes(both, lost, gained, neither), outcome="binary", better="higher", margin=margin, **options)


def scores(n=60, drop=0.0, noise=0.02, seed=0):
    """Return losses around 3 nats and a candidate that is worse by `drop`, relative, give or take `noise`."""
    rng = np.random.default_rng(seed)
    reference = rng.gamma(9, 1 / 3, n)
    return reference, reference + 3 * drop + 3 * noise * rng.standard_normal(n)


def test_figures_of_right_and_wrong_items_by_hand():
    """100 items, 80 kept, 10 lost, 5 gained, 5 never right: reference 90 %, candidate 85 %; drop (10 - 5) / 100;
    retention 85/90; errors 15/10; psi 15/100; detectable sqrt(6.1826 · .15 / 100) = .0963."""
    found = binary(80, 10, 5, 5)

    assert (found.reference, found.candidate, found.items) == (0.9, 0.85, 100)
    assert found.drop == 0.05 and found.disagreements == 0.15
    assert found.retention == pytest.approx(85 / 90) and found.error_growth == 1.5
    assert found.detectable == pytest.approx(0.0963, abs=5e-5)


@pytest.mark.parametrize(
    ("items", "verdict"), [(5, "inconclusive"), (298, "inconclusive"), (299, "pass"), (10_000, "pass")]
)
def test_equal_outcomes_pass_from_299_items_on(items, verdict):
    """Rule of three at one point: .99^298 = .0500 (5.004 %) is not below alpha, .99^299 = .0495 is."""
    found = binary(items - 1, 0, 0, 1)

    assert found.verdict == verdict
    assert found.items_needed == (None if verdict == "pass" else 299)
    assert found.drop_high == pytest.approx(1 - 0.05 ** (1 / items), abs=1e-6)


def test_drop_is_a_regression_only_when_proven_and_above_the_margin():
    """40 lost, 10 gained of 1,000 is 3 points; within a margin of 5 it passes, at 2 it is a regression; the same share
    of 20 items proves nothing."""
    assert binary(900, 40, 10, 50, margin=0.02).verdict == "regression"
    assert binary(900, 40, 10, 50, margin=0.05).verdict == "pass"
    assert binary(18, 1, 0, 1, margin=0.02).verdict == "inconclusive"


def test_lower_is_better_reads_ones_as_errors():
    """Outcomes turned round, direction turned round: the same drop, tests and error growth; means are raw."""
    reference, candidate = outcomes(80, 10, 5, 5)

    right = compare(reference, candidate, outcome="binary", better="higher", margin=0.05)
    wrong = compare(1 - reference, 1 - candidate, outcome="binary", better="lower", margin=0.05)

    for name in ("drop", "drop_low", "drop_high", "p_worse", "p_not_inferior", "error_growth", "verdict"):
        assert getattr(right, name) == getattr(wrong, name)
    assert wrong.reference == pytest.approx(0.1) and wrong.retention == pytest.approx(0.1 / 0.15)


def test_error_growth_and_retention_are_left_out_where_undefined():
    """A faultless reference has no errors to grow; nothing right gives no ratio."""
    assert binary(9, 1, 0, 0).error_growth is None
    assert binary(0, 5, 0, 5).retention is None


def test_items_needed_follow_the_distance_to_what_is_to_be_refused():
    """psi .04 of 100: drop 0, one point away: 6.1826 · .04 / .0001 = 2,474. Drop 2 points at margin 1: the drop itself
    must be told from 0: 6.1826 · .04 / .0004 = 618.3."""
    assert binary(90, 2, 2, 6).items_needed == 2474
    assert binary(90, 3, 1, 6).items_needed == 619


@pytest.mark.parametrize(
    ("drop", "verdict"), [(0.0, "pass"), (0.05, "regression"), (0.01, "inconclusive")], ids=["same", "worse", "margin"]
)
def test_score_verdicts(drop, verdict):
    """400 items with 2 % noise know the drop to .1 %: none passes, 5 % regresses; 1 % is right on the margin (its
    noise, drawn with seed 3, leaves it within two standard errors)."""
    reference, candidate = scores(400, drop, seed=3)

    found = compare(reference, candidate, outcome="score", better="lower", margin=0.01)

    assert found.verdict == verdict
    assert found.drop == pytest.approx(candidate.mean() / reference.mean() - 1)
    assert found.retention == pytest.approx(reference.mean() / candidate.mean())
    assert found.drop_low < found.drop < found.drop_high
    assert found.error_growth is None and found.disagreements is None
    assert (found.drop_high < 0.01) == (verdict == "pass")


def test_score_interval_has_the_width_of_the_normal_law():
    """Large sample, normal noise of 2 % around a drop of 0: ±1.645 · .02 · 3 / mean / sqrt(n), known to some 5 %."""
    reference, candidate = scores(2000, 0.0)
    spread = np.std(candidate - reference) / reference.mean() / math.sqrt(2000)

    found = compare(reference, candidate, outcome="score", better="lower", margin=0.01)

    assert found.drop_high - found.drop_low == pytest.approx(2 * 1.645 * spread, rel=0.08)


def test_score_verdict_does_not_depend_on_unit_or_sign():
    """Bits instead of nats changes nothing; a log-likelihood (negative, higher is better) is the same loss."""
    reference, candidate = scores(100, 0.004)

    nats = compare(reference, candidate, outcome="score", better="lower", margin=0.01)
    bits = compare(reference / math.log(2), candidate / math.log(2), outcome="score", better="lower", margin=0.01)
    likelihood = compare(-reference, -candidate, outcome="score", better="higher", margin=0.01)

    for other in (bits, likelihood):
        for name in ("drop", "drop_low", "drop_high", "p_worse", "p_not_inferior", "detectable"):
            assert getattr(other, name) == pytest.approx(getattr(nats, name), rel=1e-6), name
    assert likelihood.retention is None and bits.retention == pytest.approx(nats.retention)


def test_proportional_scores_are_known_exactly():
    """Every item 2 % worse: the drop is .02 without any interval; margins on either side decide at once."""
    reference, _ = scores(50)

    strict, loose = (
        compare(reference, 1.02 * reference, outcome="score", better="lower", margin=m) for m in (0.01, 0.03)
    )

    assert (strict.drop, strict.drop_low, strict.drop_high) == pytest.approx((0.02, 0.02, 0.02), abs=1e-9)
    assert (strict.verdict, loose.verdict) == ("regression", "pass")


@pytest.mark.parametrize(("items", "verdict"), [(5, "inconclusive"), (29, "inconclusive"), (30, "pass")])
def test_equal_scores_pass_from_30_items_on(items, verdict):
    """Five equal items say nothing about the sixth."""
    reference, _ = scores(items)

    found = compare(reference, reference, outcome="score", better="lower", margin=0.01)

    assert found.verdict == verdict and found.p_worse == 1.0
    assert (found.items_needed is None) == (verdict == "pass")


def test_sign_flips_of_few_changed_items_are_exact():
    """Three of 40 items worse by the same: all three signs must be plus, 1/8. 9,999 flips know it to ±.01 (3 sd)."""
    loss = np.zeros(40)
    loss[:3] = 0.1

    assert Contrast(loss, np.ones(40), seed=0).p_worse() == pytest.approx(1 / 8, abs=0.01)


def test_no_number_of_resamples_proves_that_something_is_impossible():
    """All 60 items are worse by the same: no flip of 9,999 gets there, and p is 1 / 10,000, not 0."""
    assert Contrast(np.full(60, 0.1), np.ones(60), seed=0).p_worse() == pytest.approx(1e-4)


def test_score_false_passes_stay_near_alpha(monkeypatch):
    """True drop at the margin, 60 items: at most 5 % of 300 simulations pass, plus three standard errors (3.8 %)."""
    monkeypatch.setattr(resample, "MOST", 399)
    monkeypatch.setattr(resample, "LEAST", 399)
    passed = 0
    for seed in range(300):
        reference, candidate = scores(60, 0.0, seed=seed)
        candidate = candidate + 0.01 * 3.0  # the population mean of the reference is 3
        passed += Contrast(candidate - reference, reference, seed).tails()(0.01)[0] < 0.05

    assert 0 < passed / 300 <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 300)


def test_a_matrix_is_decided_with_holms_p_values():
    """p .03 and .04 pass alone; together they become .06 and .06 and do not. .001 becomes .003 and still passes."""
    base = binary(1900, 20, 20, 60)
    three = [replace(base, p_not_inferior=p, verdict="pass", items_needed=None) for p in (0.03, 0.001, 0.04)]

    decided = decide(three, alpha=0.05)

    assert [r.verdict for r in decided] == ["inconclusive", "pass", "inconclusive"]
    assert [r.p_not_inferior for r in decided] == pytest.approx([0.06, 0.003, 0.06])
    assert decided[0].items_needed > base.items and decided[1].items_needed is None
    assert decide([]) == () and decide([base])[0] == base


def test_a_matrix_can_turn_a_regression_inconclusive():
    """12 lost, 3 gained of 300: exact p = (1 + 15 + 105 + 455) / 2^15 = .0176 alone, .0527 among three such."""
    found = binary(250, 12, 3, 35, margin=0.01)
    assert found.verdict == "regression" and found.p_worse == pytest.approx(576 / 2**15)

    decided = decide([found] * 3)

    assert {r.verdict for r in decided} == {"inconclusive"}
    assert decided[0].p_worse == pytest.approx(3 * 576 / 2**15)


def test_errors_are_one_clear_line():
    """What, got, expected."""
    ones = np.ones(4)
    ask = {"outcome": "binary", "better": "higher", "margin": 0.01}
    cases = [
        (ones, ones[:3], {}, "paired item by item: got 4 and 3 items"),
        (ones, [1, 1, 1, math.nan], {}, "candidate must be finite: got 1 nan or infinite of 4"),
        ([], [], {}, r"reference must be one row of at least 1 numbers: got shape \(0,\)"),
        (ones, 0.5 * ones, {}, "binary outcomes must be 0 or 1: got 0.5 in candidate"),
        (ones, ones, {"margin": 1.0}, "margin must be between 0 and 1, both excluded: got 1.0"),
        (ones, ones, {"alpha": 0.0}, "alpha must be between 0 and 1, both excluded: got 0.0"),
        (ones, ones, {"better": "up"}, "got 'binary' and 'up'"),
        (0 * ones, ones, {"outcome": "score"}, "reference mean other than 0: got 0"),
    ]
    for reference, candidate, change, message in cases:
        with pytest.raises(ValueError, match=message):
            compare(reference, candidate, **(ask | change))
    with pytest.raises(ValueError, match="alpha must be between"):
        decide([], alpha=2.0)

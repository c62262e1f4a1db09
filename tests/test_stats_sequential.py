"""The sequential speed verdict: its error rate over all looks, what it says on exact data, its schedule."""

import numpy as np
import pytest

from quantkit.stats.sequential import Rule, look


def rounds(rng, count, effect=0.0, spread=0.01):
    """Blocks of a simulated clock: each load draws a factor, each call a little noise."""
    factors = 1e-3 * np.exp(rng.normal(0, spread, (count, 2)))
    calls = [[f * np.exp(rng.normal(0, 0.01, 10)) for f in row] for row in factors]
    return [row[0] for row in calls], [row[1] * (1 + effect) for row in calls]


def decided(rng, rule, effect=0.0):
    """Return the verdict of a whole comparison, and the blocks that it took."""
    reference, candidate = rounds(rng, rule.schedule[-1], effect)
    for count in rule.schedule:
        found = look(reference[:count], candidate[:count], rule)
        if found.verdict != "inconclusive":
            break
    return found.verdict, count


@pytest.mark.slow
def test_all_looks_together_keep_the_error_rate():
    """No floor: any interval without 1 is a verdict. 10 % of 150 are 15; 24 or more have a chance of 1 %."""
    rule = Rule(alpha=0.1, floor=0.0, tolerance=0.004, first=8, looks=6)
    rng = np.random.default_rng(5)

    wrong = sum(decided(rng, rule)[0] in ("faster", "slower") for _ in range(150))

    assert wrong < 24


@pytest.mark.parametrize(("effect", "verdict"), [(0.05, "slower"), (-0.05, "faster"), (0.0, "same")])
def test_effects_are_found_within_few_blocks(effect, verdict):
    rng = np.random.default_rng(1)

    found = [decided(rng, Rule(), effect) for _ in range(8)]

    assert {what for what, _ in found} == {verdict}
    assert np.median([count for _, count in found]) <= 61


@pytest.mark.parametrize(
    ("ratio", "verdict"),
    [(1.0, "same"), (1.009, "same"), (1.011, "slower"), (0.98, "faster"), (0.995, "same")],
)
def test_without_noise_the_floor_alone_decides(ratio, verdict):
    assert look([[1.0]] * 4, [[ratio]] * 4, Rule(floor=0.01, tolerance=0.02)).verdict == verdict


def test_an_effect_that_wide_intervals_leave_open_is_inconclusive():
    reference, candidate = rounds(np.random.default_rng(2), 4, 0.02, spread=0.05)

    assert look(reference, candidate, Rule(first=4)).verdict == "inconclusive"


def test_the_schedule_grows_and_each_look_has_its_share_of_alpha():
    rule = Rule(alpha=0.02, first=2, growth=1.1, looks=5)

    assert rule.schedule == (2, 3, 4, 5, 6), "at least one block more each time"
    assert rule.confidence == pytest.approx(1 - 0.02 / 5)


@pytest.mark.parametrize(
    "wrong",
    [{"alpha": 0}, {"floor": -0.1}, {"floor": 0.02, "tolerance": 0.02}, {"first": 1}, {"growth": 1.0}, {"looks": 0}],
)
def test_numbers_that_make_no_sense_are_refused(wrong):
    with pytest.raises(ValueError, match="got"):
        Rule(**wrong)

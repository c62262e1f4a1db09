"""From stored results to words: verdicts and the table."""

from dataclasses import replace

import numpy as np
import pytest

from quantkit.conclude.compare import checked_margin, comparisons, pair_of
from quantkit.conclude.report import table
from quantkit.conclude.wording import state_lines
from quantkit.errors import InvalidSetting, NoBaseline
from quantkit.records import Case, Measurement, Result
from quantkit.units import Unit


def result(method="int8_static", *, right=2_000, of=2_000, latency_s=0.002, reference_s=0.004, **changes):
    """A result whose first `right` items are right, timed in 7 rounds with 1 % of noise."""
    baseline = method == "fp32"
    outcomes = np.repeat([1.0, 0.0], [right, of - right])
    quality = {"name": "top1_accuracy", "outcome": "binary", "better": "higher", "margin": 0.01}
    context = {
        "baseline": baseline, "quality": quality, "data": {"sha256": {"d": "1"}}, "items": of, "threads": 1,
        "simulated": False, "scheme": method, "left_in_float": [], "notes": [], "answers": method,
    } | ({} if baseline else {"baseline_key": "fp32"})  # fmt: skip
    values = {
        "case": Case("m", method, "b", "cpu"),
        "status": "ok",
        "outcomes": tuple(outcomes.tolist()),
        "latencies_s": _rounds(latency_s, seed=1),
        "reference_latencies_s": () if baseline else _rounds(reference_s, seed=2),
        "context": context,
        "measurements": {"quality": Measurement("quality", Unit.SHARE, "higher", tuple(outcomes.tolist()))},
    }
    return Result(**(values | changes))


def _rounds(middle, seed):
    return tuple(map(tuple, middle * (1 + 0.01 * np.random.default_rng(seed).standard_normal((7, 50)))))


@pytest.mark.parametrize(
    ("right", "verdict"),
    [(1_900, "pass"), (1_895, "pass"), (1_700, "regression"), (1_882, "inconclusive")],
    ids=["equal", "quarter point", "ten points", "nine tenths of a point"],
)
def test_quality_verdicts(right, verdict):
    """Margin one point on 2,000 items: 0.25 points lost is proved small, 10 is a loss, 0.9 is neither."""
    (pair,) = comparisons([result("fp32", right=1_900), result(right=right)])

    assert pair.verdict == verdict


@pytest.mark.parametrize(
    ("latency_s", "speed"),
    [(0.002, "faster"), (0.008, "slower"), (0.004, "inconclusive"), (0.00396, "inconclusive")],
)
def test_speed_is_silent_below_the_floor(latency_s, speed):
    (pair,) = comparisons([result("fp32"), result(latency_s=latency_s)])

    assert pair.speed == speed
    assert pair.speedup.value == pytest.approx(0.004 / latency_s, rel=0.01)
    assert pair.speedup.low < pair.speedup.value < pair.speedup.high


@pytest.mark.parametrize(("floor", "speed"), [(None, "faster"), (0.005, "faster"), (0.2, "inconclusive")])
def test_speed_is_silent_below_the_measured_floor_of_the_machine(floor, speed):
    """A candidate 11 % faster, on a machine whose equal sides differ by that much or not."""
    candidate = result(latency_s=0.0036)
    candidate.context["state"] = {"noise_floor": floor}

    assert comparisons([result("fp32"), candidate])[0].speed == speed


def test_more_comparisons_make_every_interval_wider():
    """Ten candidates in a family hold 95 % together, so each alone holds more."""
    one = comparisons([result("fp32"), result()])[0].speedup
    many = comparisons([result("fp32"), *(result(f"x{i}") for i in range(10))])[0].speedup

    assert many.high - many.low > one.high - one.low


def test_without_a_baseline_there_is_no_verdict():
    (pair,) = comparisons([result()])

    assert pair.verdict == "unavailable"
    assert "no baseline" in pair.reason


@pytest.mark.parametrize(
    ("changes", "reason"),
    [({"of": 1_000, "right": 900}, "2000 items cannot be paired"), ({"data": "other"}, "another version of the data")],
)
def test_items_that_are_not_the_same_are_not_paired(changes, reason):
    candidate = result(**{k: v for k, v in changes.items() if k != "data"})
    if "data" in changes:
        candidate.context["data"] = {"sha256": {"d": "2"}}

    (pair,) = comparisons([result("fp32"), candidate])

    assert pair.verdict == "unavailable"
    assert reason in pair.reason


def test_a_case_is_not_judged_against_another_baseline():
    """Full precision was measured again with other weights: the old candidate has nothing to do with it."""
    newer = result("fp32", right=1_900)
    newer.context["answers"] = "other weights"

    (pair,) = comparisons([newer, result(right=1_900)])

    assert pair.verdict == "unavailable"
    assert "another baseline" in pair.reason


def test_one_round_gives_no_interval_and_no_traceback():
    once = result(latencies_s=((0.1,) * 9,), reference_latencies_s=((0.2,) * 9,))

    (pair,) = comparisons([result("fp32"), once])

    assert pair.speedup is None
    assert pair.speed_reason


@pytest.mark.parametrize("margin", [0.0, 1.0, -0.1, float("nan")])
def test_a_margin_that_makes_no_sense_is_refused(margin):
    with pytest.raises(InvalidSetting, match="between 0 and 1"):
        checked_margin(margin)


def test_any_two_cases_of_one_model_compare():
    pair = pair_of(result("a", right=1_900), result("b", right=1_900))

    assert pair.verdict == "pass"
    assert pair.speedup is None
    assert "not timed in the same rounds" in pair.speed_reason
    with pytest.raises(NoBaseline, match="different models"):
        pair_of(result(), result(case=Case("n", "fp32", "b", "cpu")))


def test_the_table_shows_what_happened_to_every_case():
    failed = Result(Case("m", "half", "b", "cpu"), "failed", "crashed: killed by SIGABRT", context={})

    text = table([result("fp32", right=1_900), result(right=1_700), failed])

    assert "half b: failed: crashed: killed by SIGABRT" in text
    assert "regression" in text
    assert "+10.00 pt" in text
    assert "2.00 [" in text
    assert "p50 / p90 / p99 ms" in text


def test_p99_needs_a_hundred_values():
    """7 rounds of 50 values give a p99; 3 rounds of 10 do not."""
    many = Measurement("latency", Unit.SECOND, "lower", tuple(np.linspace(0.001, 0.002, 350)))
    few = Measurement("latency", Unit.SECOND, "lower", tuple(np.linspace(0.001, 0.002, 30)))
    row = [table([result("fp32", measurements={"latency": m})]).splitlines()[-1] for m in (many, few)]

    assert "1.99" in row[0]
    assert "1.99" not in row[1]


def test_a_tainted_result_keeps_its_figures_and_its_quality_and_loses_its_speed():
    """Twice as fast, but another process ran meanwhile: quality passes, nothing is said of speed."""
    tainted = {"status": "tainted", "reason": "other processes used 0.97 cores (limit 0.25); 2 of 7 rounds"}

    results = [result("fp32", right=1_900), result(right=1_900, **tainted)]
    (pair,) = comparisons(results)

    assert (pair.verdict, pair.speed) == ("pass", "inconclusive")
    assert pair.speedup.value == pytest.approx(2, rel=0.01)
    assert pair.speed_reason == f"tainted: {tainted['reason']}"
    assert f"int8_static b: tainted: {tainted['reason']}" in table(results)
    assert "~2.0" in table(results)
    assert state_lines(results)[0].startswith("1 of 2 timed results are tainted")
    assert pair_of(results[1], results[0]).speed == "inconclusive"


def test_disturbed_rounds_that_were_kept_are_said():
    trials = [{"disturbed": []}, {"disturbed": ["other processes used 1.55 cores (limit 0.25)"]}]
    noisy = result()
    noisy = replace(noisy, context=noisy.context | {"state": {"trials": trials}})

    assert state_lines([result("fp32"), noisy])[0].startswith(
        "1 of 2 timed results hold rounds that something disturbed"
    )


def test_conditions_that_held_are_said_once():
    held = {"state": {"conditions": ["on battery power", "niceness 10"]}}
    results = [result("fp32"), result()]
    results = [replace(one, context=one.context | held) for one in results]

    assert state_lines(results) == ["the machine while timing: on battery power, niceness 10"]
    assert state_lines([result()]) == []

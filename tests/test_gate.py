"""The gate's words: what may be called a regression, what is a pass, and what is refused by name with a next step."""

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from quantkit.conclude.compare import DRIFT, LEAST_FLOOR
from quantkit.conclude.gate import CHECKS, Limits
from quantkit.conclude.gate_asked import limits
from quantkit.conclude.gate_figures import HOURS
from quantkit.conclude.gating import against, within
from quantkit.errors import InvalidSetting, NoBaseline
from quantkit.records import Case, Measurement, Result
from quantkit.units import Unit
from tests.gate_stand import MACHINE, MIB, stored, two_runs
from tests.test_conclude import result

ALONE = {name: Limits(checks=(name,), named=frozenset({name})) for name in CHECKS}
QUALITY = ALONE["quality"]


def only(gate):
    """The one check of a gate that has one."""
    (check,) = gate.checks
    return check


@pytest.mark.parametrize(
    ("rights", "failed", "verdict", "status"),
    [
        ([1_900, 1_899], 0, "pass", 0),
        ([1_900, 1_700], 0, "regression", 1),
        ([1_900, 1_882], 0, "inconclusive", 3),
        ([1_882, 1_700], 0, "regression", 1),
        ([1_900], 1, "inconclusive", 3),
        ([], 0, "nothing", 3),
    ],
)
def test_the_gate_says_one_word(rights, failed, verdict, status):
    family = [result("fp32", right=1_900), *(result(f"x{i}", right=right) for i, right in enumerate(rights))]
    family += [Result(Case("m", f"y{i}", "b", "cpu"), "failed", "crashed") for i in range(failed)]

    decided = within(family, QUALITY)

    assert (decided.verdict, decided.exit_status) == (verdict, status)
    assert decided.lines


def test_a_gate_never_passes_what_it_cannot_judge():
    """One case kept its quality, the other was measured on other items: that is not a pass."""
    family = [result("fp32", right=1_900), result("good", right=1_900), result("other", right=900, of=1_000)]

    decided = within(family, QUALITY)

    assert (decided.verdict, decided.exit_status) == ("inconclusive", 3)
    assert "cannot be paired; measure both" in decided.lines[0]


def test_an_older_run_is_a_baseline_case_by_case():
    """The same case lost ten points since: a regression, whatever full precision does."""
    check = only(against([result(right=1_700)], [result(right=1_900)], QUALITY))

    assert check.word == "regression"
    assert check.change.value == pytest.approx(0.1)
    with pytest.raises(NoBaseline, match="none of these cases"):
        against([result()], [result("other")], QUALITY)


def test_small_data_that_gave_the_same_answers_pass():
    """120 items cannot prove a margin of one point, but nothing changed: same answers, same outputs bit for bit."""
    now, then = (result(right=100, of=120, sample=(0.5, -1.25)) for _ in range(2))
    other = replace(now, sample=(0.5, -1.25000001))

    assert only(against([now], [then], QUALITY)).word == "pass"
    assert only(against([other], [then], QUALITY)).word == "inconclusive"


@pytest.mark.parametrize(
    ("now_s", "word"), [(0.0020, "pass"), (0.0019, "pass"), (0.0021, "pass"), (0.0025, "regression")]
)
def test_without_noise_the_slowdown_is_the_ratio(now_s, word):
    """2 ms became 1.9, 2, 2.1, 2.5 ms; the limit is a tenth more."""
    check = only(against(*map(_list, two_runs(now={"latency_s": now_s}, then={"latency_s": 0.002})), ALONE["latency"]))

    assert check.word == word
    assert check.change.value == pytest.approx(now_s / 0.002 - 1)
    assert check.change.low == pytest.approx(check.change.high)


def _list(one):
    return [one]


def test_full_precision_of_both_runs_is_the_yardstick():
    """The machine is half as fast as in the older run, with the candidate as with full precision: no slowdown."""
    now, then = two_runs(
        now={"latency_s": 0.004, "reference_s": 0.008}, then={"latency_s": 0.002, "reference_s": 0.004}
    )

    check = only(against([now], [then], ALONE["latency"]))

    assert check.word == "pass"
    assert check.change.value == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize(
    ("yardstick", "drift", "slow", "word"),
    [("fp32", DRIFT, 1.0, "pass"), ("fp32", DRIFT, 1.08, "inconclusive"), ("fp32", DRIFT, 1.2, "regression"),
     ("new", HOURS, 1.0, "inconclusive"), ("new", HOURS, 1.15, "inconclusive"), ("new", HOURS, 1.5, "regression")],
)  # fmt: skip
def test_what_two_runs_of_a_real_machine_can_say(yardstick, drift, slow, word):
    """Seven rounds without noise leave the drift between runs: t(6) · sqrt(2) · drift to either side, in the logarithm.

    With full precision as the yardstick ± 5.2 %, so an unchanged speed passes at 10 %; without one ± 17 %.
    """
    now, then = two_runs(now={"latency_s": 0.002 * slow, "baseline_key": yardstick}, then={"latency_s": 0.002})
    for one in (now, then):
        one.context["simulated"] = False

    check = only(against([now], [then], ALONE["latency"]))

    reach = stats.t.ppf(0.975, 6) * math.sqrt(2) * drift
    assert check.word == word
    assert check.change.low == pytest.approx(slow * math.exp(-reach) - 1, rel=1e-6)
    assert check.change.high == pytest.approx(slow * math.exp(reach) - 1, rel=1e-6)
    assert ("quantkit latency" in check.todo) == (word != "pass")


def test_two_noisy_runs_of_the_same_speed_are_no_regression_and_a_quarter_more_is():
    """40 pairs of runs whose levels drift by 1.5 % and whose processes scatter by 2 %."""
    rng = np.random.default_rng(5)

    def run(level, key):
        rounds = level * np.exp(0.015 * rng.standard_normal() + 0.02 * rng.standard_normal((7, 1)))
        noisy = rounds * (1 + 0.01 * rng.standard_normal((7, 20)))
        reference = np.full((7, 20), 0.004)
        made = stored(answers=key, exact=False)
        return replace(made, latencies_s=tuple(map(tuple, noisy)), reference_latencies_s=tuple(map(tuple, reference)))

    same = [only(against([run(0.002, "b")], [run(0.002, "a")], ALONE["latency"])).word for _ in range(40)]
    slow = [only(against([run(0.0025, "b")], [run(0.002, "a")], ALONE["latency"])).word for _ in range(40)]

    assert same.count("regression") == 0
    assert slow.count("regression") >= 38
    assert slow.count("pass") == 0


def test_below_the_noise_floor_nothing_is_called_slower():
    """A limit of one per cent does not make a machine see one per cent."""
    asked = Limits(slowdown=0.01, checks=("latency",))
    slow = 1 + LEAST_FLOOR * 0.9

    assert only(against(*map(_list, two_runs(now={"latency_s": 0.002 * slow})), asked)).word == "inconclusive"


@pytest.mark.parametrize(
    ("peaks", "word"),
    [([100] * 7, "pass"), ([100, 101, 99, 100, 102, 100, 98], "pass"), ([130] * 7, "regression"),
     ([60, 100, 180, 90, 150, 120, 70], "inconclusive")],
)  # fmt: skip
def test_memory_is_compared_by_medians_over_processes(peaks, word):
    """100 MiB before; the limit is 15 % more. Processes that disagree by a factor of three decide nothing."""
    check = only(against(*map(_list, two_runs(now={"peaks": [p * MIB for p in peaks]})), ALONE["memory"]))

    assert check.word == word
    assert check.change.value == pytest.approx(np.median(peaks) / 100 - 1)
    assert check.items == 7


@pytest.mark.parametrize(
    ("size", "word"), [(1_000_000, "pass"), (1_019_000, "pass"), (1_021_000, "regression"), (1, "pass")]
)
def test_size_is_exact(size, word):
    check = only(against(*map(_list, two_runs(now={"size": size})), ALONE["size"]))

    assert check.word == word
    assert check.change.low == check.change.value == check.change.high == pytest.approx(size / 1e6 - 1)


def test_an_unchanged_artifact_passes_whatever_the_machine_did():
    """Equal keys mean the same artifact run by the same code: what differs is the machine's."""
    now = stored(latency_s=0.003, peaks=[150 * MIB] * 7, answers="same")

    decided = against([now], [stored(answers="same")], Limits())

    assert decided.verdict == "pass"
    assert [check.name for check in decided.checks] == list(CHECKS)


def test_another_machine_keeps_quality_and_size_and_refuses_time_and_memory():
    """Both are said, with what differs; unknown is no pass, until it is no longer asked for."""
    moved = MACHINE | {"id": "m2", "processor": "Q", "versions": {"torch": "2.14.0"}}
    now, then = two_runs(now={"fingerprint": moved})

    decided = against([now], [then], Limits())

    words = {check.name: check.word for check in decided.checks}
    assert words == {"latency": "refused", "memory": "refused", "size": "pass", "quality": "pass"}
    assert decided.verdict == "inconclusive"
    said = next(check for check in decided.checks if check.name == "latency")
    assert "another machine (processor P there, Q here; torch 2.13.0 there, 2.14.0 here)" in said.said
    assert "--checks quality,size" in said.todo
    assert against([now], [then], Limits(checks=("quality", "size"))).verdict == "pass"


REFUSED = {
    "other data": ({}, {"data": "2"}, "of other data (d 1 there, d 2 here)", "measure the baseline again with these"),
    "fewer items": ({"of": 1_000, "right": 950}, {}, "1000 items here, 2000 in the baseline", "--profile and --items"),
    "other items": ({"item_ids": "f" * 64}, {}, "other names", "measure the baseline again"),
    "other weights": ({"model": {"sha256": ["b" * 64]}}, {}, "of other weights", "no loss by quantization"),
    "judged otherwise": ({}, {"quality": "nats"}, "judged otherwise (top1_accuracy", "measure the baseline again"),
}


@pytest.mark.parametrize(("changes", "later", "said", "todo"), REFUSED.values(), ids=REFUSED)
def test_quality_of_something_else_is_refused_by_name(changes, later, said, todo):
    common = {"right": 1_900, "item_ids": "e" * 64, "model": {"sha256": ["a" * 64]}}
    now, then = two_runs(then=common, now=common | changes)
    if "data" in later:
        now.context["data"] = {"sha256": {"d": later["data"]}}
    if "quality" in later:
        now.context["quality"] = now.context["quality"] | {"name": later["quality"]}

    decided = against([now], [then], QUALITY)

    check = only(decided)
    assert (check.word, decided.verdict) == ("refused", "nothing")
    assert said in check.said
    assert todo in check.todo


@pytest.mark.parametrize("name", ["latency", "memory", "size", "quality"])
@pytest.mark.parametrize("where", ["now", "then"])
def test_a_stored_nan_is_refused_and_named(name, where):
    bad = {"now": None, "then": None}
    now, then = two_runs()
    one = now if where == "now" else then
    nan = float("nan")
    if name == "latency":
        broken = replace(one, latencies_s=((nan,) * 5, *one.latencies_s[1:]))
    elif name == "quality":
        broken = replace(one, outcomes=(nan, *one.outcomes[1:]))
    else:
        metric = {"memory": "peak_memory", "size": "artifact_size"}[name]
        values = (nan, *one.measurements[metric].values[1:])
        broken = replace(one, measurements=one.measurements | {metric: Measurement(metric, Unit.BYTE, "lower", values)})
    bad |= {"now": now, "then": then, where: broken}

    check = only(against([bad["now"]], [bad["then"]], ALONE[name]))

    assert check.word == "refused"
    assert "nan" in check.said
    assert "--fresh" in check.todo


def test_results_older_than_their_baseline_are_refused_unless_that_is_meant():
    """Swapped files would call a regression an improvement."""
    now, then = two_runs(now={"right": 1_900}, then={"right": 1_700})
    now, then = replace(now, created="2026-11-20T10:00:00+00:00"), replace(then, created="2026-11-22T10:00:00+00:00")

    check = only(against([now], [then], QUALITY))

    assert check.word == "refused"
    assert "before its baseline" in check.said
    assert "--accept-older" in check.todo
    assert only(against([now], [then], replace(QUALITY, accept_older=True))).word == "pass"
    assert only(against([then], [now], QUALITY)).word == "regression"


def test_what_did_not_change_has_no_order():
    """A copied results file holds older measurements of what did not change."""
    now, then = (stored(answers="same", created=f"2026-11-2{day}T10:00:00+00:00") for day in (0, 2))

    assert only(against([now], [then], QUALITY)).word == "pass"


def test_a_case_that_the_baseline_does_not_have_is_judged_against_its_own_full_precision():
    then = stored("fp32", right=1_900)
    now = [stored("fp32", right=1_900), stored("good", right=1_900), stored("bad", right=1_700)]

    checks = {check.case.method: check for check in against(now, [then], QUALITY).checks}

    assert {method: check.word for method, check in checks.items()} == {
        "fp32": "pass",
        "good": "pass",
        "bad": "regression",
    }
    assert "judged against full precision of its own run" in checks["bad"].said


def test_support_that_was_lost_and_cases_that_failed_are_no_pass():
    now, then = two_runs()
    gone = Result(now.case, "unsupported", "needs an older library")

    assert "it ran in the baseline and is unsupported now" in against([gone], [then], QUALITY).lines[0]
    assert against([gone], [then], QUALITY).exit_status == 3
    assert against([Result(now.case, "failed", "crashed")], [then], QUALITY).exit_status == 3


def test_a_case_that_is_gone_is_no_pass_unless_that_is_meant():
    """To delete the method that lost would be the easiest way through a gate."""
    now, then = two_runs()
    lost = replace(then, case=Case("m", "gone", "b", "cpu"))

    decided = against([now], [then, lost], QUALITY)

    assert (decided.verdict, decided.exit_status) == ("inconclusive", 3)
    assert decided.lines[0].startswith("m-gone-b-cpu: run: refused: the baseline has figures of it, and it was not")
    assert "--accept-missing" in decided.lines[0]
    meant = against([now], [then, lost], replace(QUALITY, accept_missing=True))
    assert (meant.verdict, meant.exit_status) == ("pass", 0)
    assert "1 case of the baseline not measured here" in meant.lines
    failed = Result(lost.case, "failed", "crashed")
    assert against([now], [then, failed], QUALITY).verdict == "pass"


def at(one, commit):
    return replace(one, fingerprint=MACHINE | {"revision": {"commit": commit * 40, "dirty": False}})


def test_results_of_several_commits_are_counted_and_named():
    """Five cases: one is of the newest commit, one of none, and three of three others."""
    run = [
        replace(at(stored(f"x{i}"), commit), created=f"2026-11-2{5 - i}T10:00:00+00:00")
        for i, commit in enumerate("abcd")
    ]
    run.append(replace(stored("x4"), created="2026-11-20T10:00:00+00:00"))

    said = against(run, [at(replace(one, created=""), "e") for one in run], QUALITY).lines

    (note,) = [line for line in said if "other commits" in line]
    assert note.startswith("4 of 5 cases here, measured at other commits than its newest: ")
    assert all(commit * 10 in note for commit in "bcd")
    assert "a" * 10 not in note
    assert "and 1 more" in note
    alike = against([at(one, "f") for one in run], [at(one, "e") for one in run], QUALITY)
    assert not any("other commits" in line for line in alike.lines)
    old = replace(stored("fp32"), created="2026-11-20T10:00:00+00:00")
    assert "1 of 2 cases here" in "".join(within([run[0], old], QUALITY).lines)


def test_full_precision_that_changed_is_not_told_to_use_more_bits():
    """Its model, its data or the toolchain changed: the commits and the libraries are named."""
    now, then = (
        stored("fp32", right=right, size=size, answers=str(right))
        for right, size in ((1_700, 2_000_000), (1_900, 10**6))
    )
    newer = MACHINE | {"versions": {"torch": "2.14.0"}, "revision": {"commit": "b" * 40}}
    now, then = replace(now, fingerprint=newer), at(then, "a")

    checks = against([now], [then], Limits(checks=("quality", "size"))).checks

    assert [check.word for check in checks] == ["regression", "regression"]
    for check in checks:
        assert check.todo.startswith("this is full precision: see what changed in the model, its data or the toolchain")
        assert f"git diff {'a' * 10} {'b' * 10}" in check.todo
        assert "torch 2.13.0 there, 2.14.0 here" in check.todo
        assert "bits" not in check.todo
        assert "wider" not in check.todo


def test_the_level_of_the_intervals_is_said_once():
    """Quality at one side 5 %, so 90 % in all; without any interval nothing is said."""
    now, then = two_runs(now={"right": 1_890, "peaks": [p * MIB for p in (90, 100, 110, 95, 105, 100, 98)]})

    assert (
        against([now], [then], Limits()).lines[-1] == "intervals: quality 90 % (5 % to each side), memory at least 95 %"
    )
    assert not any("intervals" in line for line in against([now], [then], ALONE["size"]).lines)


@pytest.mark.parametrize(("here", "there"), [(False, False), (False, True), (True, False)])
def test_without_timing_the_next_step_names_rounds(here, there):
    """Both runs with --rounds 0 have the same rounds already."""
    none = Measurement.unavailable("latency", Unit.SECOND, "lower", "not asked for (--rounds 0)")
    now, then = (
        one if timed else replace(one, latencies_s=(), measurements=one.measurements | {"latency": none})
        for one, timed in zip(two_runs(), (here, there), strict=True)
    )

    todo = only(against([now], [then], ALONE["latency"])).todo

    where = {(False, False): "both runs", (False, True): "this run", (True, False): "the baseline"}[here, there]
    assert todo == f"measure {where} with --rounds of 2 or more"


def test_a_disturbed_run_keeps_its_quality_and_its_time_is_refused():
    now, then = two_runs(now={"latency_s": 0.004})
    now = replace(now, status="tainted", reason="load 9 in 5 of 7 rounds")

    words = {check.name: check.word for check in against([now], [then], Limits()).checks}

    assert (words["quality"], words["latency"]) == ("pass", "refused")


def test_what_neither_run_measured_is_noted_and_refused_only_where_asked_for():
    """--rounds 0 in both: quality and size decide, and the reader is told; a limit by name insists."""
    runs = [[replace(r, measurements={k: m for k, m in r.measurements.items() if k in ("artifact_size", "quality")})]
            for r in two_runs()]  # fmt: skip

    decided = against(*runs, Limits())

    assert decided.verdict == "pass"
    assert "latency was measured in neither run and was not gated" in decided.lines
    assert against(*runs, limits(True, slowdown=0.1)).verdict == "inconclusive"


def test_a_regression_says_which_commits_lie_between():
    now, then = two_runs(now={"right": 1_700}, then={"right": 1_900})
    for one, commit in ((now, "b" * 40), (then, "a" * 40)):
        object.__setattr__(one, "fingerprint", MACHINE | {"revision": {"commit": commit, "dirty": False}})

    decided = against([now], [then], QUALITY)

    assert only(decided).todo.startswith(f"see what changed: git diff {'a' * 10} {'b' * 10} (in the repository of ")
    assert f"this run is commit {'b' * 10}" in decided.notes[0]


def test_within_one_run_speed_memory_and_size_are_gated_where_asked_for():
    """A candidate twice as slow as full precision is a finding, not a regression, until a limit is named."""
    run = [stored("fp32", latency_s=0.004), stored("slow", latency_s=0.008)]

    assert within(run, limits(False)).verdict == "pass"
    decided = within(run, limits(False, slowdown=0.5, size=0.1))
    assert decided.verdict == "regression"
    assert "latency: regression: +100.0%" in decided.lines[0]
    assert "quantkit latency m-fp32-b-cpu m-slow-b-cpu" in decided.lines[0]


@pytest.mark.parametrize(
    ("asked", "checks"),
    [({"older": True}, CHECKS), ({"older": False}, ("quality",)), ({"older": False, "size": 0.1}, ("quality", "size")),
     ({"older": True, "checks": "size, quality"}, ("quality", "size")),
     ({"older": True, "checks": "size", "slowdown": 0.2}, ("latency", "size"))],
)  # fmt: skip
def test_which_checks_are_asked(asked, checks):
    assert limits(**asked).checks == checks


@pytest.mark.parametrize(
    "asked",
    [{"slowdown": 0.0}, {"memory": float("nan")}, {"size": -1.0}, {"checks": "sizes"}, {"checks": ","}, {"margin": 2}],
)
def test_senseless_limits_are_refused(asked):
    with pytest.raises(InvalidSetting):
        limits(True, **asked)

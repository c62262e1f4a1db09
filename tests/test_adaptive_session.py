"""The session on a told model and a told clock: every decision and every counter can be worked out by hand."""

import json
import re
import threading

import numpy as np
import pytest

from quantkit.adaptive.cascade import NEVER
from quantkit.adaptive.feedback import Audit
from quantkit.adaptive.inputs import Guard
from quantkit.adaptive.ladder import Precision
from quantkit.adaptive.load import Policy
from quantkit.adaptive.session import AdaptiveSession, Rules
from quantkit.errors import InvalidSetting
from tests.adaptive_stand import Clock, Told, item, ladder


def session(rules=None, *, clock=None, **told):
    clock = clock or Clock()
    rules = rules or Rules([(NEVER,), (0.9,), (0.6,)])
    return AdaptiveSession(ladder(clock, **told), rules, clock, example=item())


def far(limit):
    """Return a guard that finds labels above a limit strange: the only feature it looks at is the largest value."""
    return Guard((0.0,) * 5, (1e9, 1.0, 1e9, 1e9, 1e9), limit, 0.01)


def test_a_sure_answer_is_taken_and_an_unsure_one_goes_up():
    made = session()

    sure, unsure = made.answer(item(1, 0.7)), made.answer(item(1, 0.5))

    assert (sure.precision, sure.reason, sure.latency_s) == ("cheap", "cascade", 0.001)
    assert (unsure.precision, unsure.reason, unsure.latency_s) == ("full", "cascade", pytest.approx(0.011))
    assert sure.confidence == pytest.approx(0.7) and sure.output.shape == (1, 2)


def test_the_cheap_precision_is_not_asked_where_nothing_is_certified():
    made = session(Rules([(NEVER,)]))

    assert made.answer(item(0, 1.0)).latency_s == 0.01
    assert made.counters.read()["calls"] == {"cheap": 0, "full": 1}


def test_nan_is_unsure():
    assert session().answer(item(0, np.nan)).precision == "full"


def test_a_strange_request_goes_to_full_precision_at_once():
    made = session(Rules([(NEVER,), (0.0,)], guard=far(5.0)))

    strange = made.answer((np.array([[0, 9.0]]),))

    assert (strange.precision, strange.reason, strange.latency_s) == ("full", "out of calibration", 0.01)
    assert made.counters.read()["out_of_calibration"] == 1


def test_three_precisions_are_climbed_in_turn():
    """Asked: 10 % sure, 70 % sure, always. Thresholds .9 and .6: the middle one has the last word."""
    clock = Clock()
    steps = [Precision(name, {1: Told(clock, s, sure=sure)}) for name, s, sure in
             (("a", 1.0, 0.1), ("b", 2.0, 0.7), ("c", 4.0, 1.0))]  # fmt: skip
    made = AdaptiveSession(steps, Rules([(NEVER, NEVER), (0.9, 0.6)]), clock, example=item())

    found = made.answer(item())

    assert (found.precision, found.latency_s) == ("b", 3.0)
    assert made.counters.read()["escalations"] == 1


def test_counters_add_up():
    made = session(Rules([(NEVER,), (0.6,)], guard=far(5.0), audit=Audit(share=0.3)))
    rng = np.random.default_rng(5)  # the session draws its audits with seed 0

    for margin in rng.random(300):
        made.answer(item(0, margin))
    for _ in range(7):
        made.answer((np.array([[0, 9.0]]),))

    seen = made.counters.read()
    assert seen["requests"] == 307 == sum(seen["answers"].values())
    assert seen["out_of_calibration"] == 7
    assert seen["calls"]["cheap"] == 300
    assert seen["escalations"] == seen["answers"]["full"] - 7
    again = seen["calls"]["full"] - seen["answers"]["full"]  # audits of cheap answers
    assert 0 < again <= seen["audited"] and seen["disagreed"] == 0
    assert seen["agreement"]["value"] == 1.0 and 0.9 < seen["agreement"]["low"] < 1.0
    assert seen["latency_s"]["p50"] == pytest.approx(0.011, abs=0.0101)


def test_an_audited_request_gets_the_answer_of_full_precision():
    made = session(Rules([(NEVER,), (0.0,)], audit=Audit(share=1.0)), wrong=lambda row: True)

    found = made.answer(item(1, 0.8))

    assert found.audited and found.precision == "cheap" and found.output.argmax() == 1
    assert made.counters.read()["disagreed"] == 1


def test_drift_tightens_the_thresholds_and_the_end_of_it_relaxes_them():
    """The cheap precision goes wrong on everything: after audits only full precision is left. Then it is mended."""
    broken = [False]
    rules = Rules([(NEVER,), (0.9,), (0.5,), (0.0,)], audit=Audit(share=0.5, allowed=0.02, patience=20))
    made = session(rules, wrong=lambda row: broken[0])
    margins = np.random.default_rng(5).random(4_000)

    for margin in margins[:400]:
        made.answer(item(0, margin))
    assert made.counters.read()["threshold_level"] == 3

    broken[0] = True
    for margin in margins[400:800]:
        made.answer(item(0, margin))
    seen = made.counters.read()
    assert seen["threshold_level"] <= 1 and seen["alarms"] >= 2

    broken[0] = False
    for margin in margins[800:]:
        made.answer(item(0, margin))
    assert made.counters.read()["threshold_level"] == 3


POLICY = Policy(target_s=0.05, dwell_s=0.5)


def test_a_long_queue_keeps_answers_from_full_precision_and_its_end_gives_it_back():
    """40 unsure requests of 11 ms each wait 440 ms, far over 50 ms: the cheap answer has the last word."""
    made = session(Rules([(NEVER,), (0.9,)], policy=POLICY))
    futures = [made.submit(item(0, 0.5)) for _ in range(40)]
    while made.serve():
        pass
    found = [future.result() for future in futures]

    assert found[0].precision == "full", "before anything was served nothing is known of the time it takes"
    assert {(one.precision, one.reason) for one in found[1:]} == {("cheap", "load")}
    assert found[1].wait_s == pytest.approx(0.011) and found[1].latency_s == pytest.approx(0.012)
    assert made.counters.read()["capped"] == 39 and made.counters.read()["load_level"] == 1

    made._target.now += 10.0
    assert made.answer(item(0, 0.5)).precision == "full"
    assert made.counters.read()["load_switches"] == 2


def test_the_floor_holds_under_any_load():
    made = session(Rules([(NEVER,), (0.9,)], policy=Policy(0.001, floor=1)))
    futures = [made.submit(item(0, 0.5)) for _ in range(100)]
    while made.serve():
        pass

    assert {future.result().precision for future in futures} == {"full"}


def test_a_strange_request_goes_to_full_precision_under_load_too():
    made = session(Rules([(NEVER,), (0.9,)], guard=far(5.0), policy=POLICY))
    futures = [made.submit(item(0, 0.5)) for _ in range(30)] + [made.submit((np.array([[0, 9.0]]),))]
    while made.serve():
        pass

    assert futures[-1].result().precision == "full" and futures[-2].result().precision == "cheap"


def test_an_oscillating_load_switches_no_more_than_once_in_a_dwell_time():
    """Bursts of 30 and calm times with a request each 100 ms in turn; every change is seen by its counter."""
    clock = Clock()
    made = session(Rules([(NEVER,), (0.9,)], policy=POLICY), clock=clock)
    changes, before = [], 0
    for i in range(1_000):
        for _ in range(30 if i % 10 == 0 else 1):
            made.submit(item(0, 0.5))
        while made.serve():
            now = made.counters.read()["load_switches"]
            changes += [clock.now] * (now - before)
            before = now
        clock.now += 0.1

    assert len(changes) >= 20
    assert np.diff(changes).min() >= POLICY.dwell_s * 0.9  # noted one service time after the switch


def test_waiting_requests_are_answered_in_the_batches_they_fill():
    """11 requests, sizes 1 and 4: batches of 4, 4 and three single ones; only the unsure ones go up."""
    made = session(Rules([(NEVER,), (0.6,)]), sizes=(1, 4))
    margins = [0.9, 0.1, 0.9, 0.9, 0.1, 0.1, 0.1, 0.1, 0.9, 0.1, 0.9]
    futures = [made.submit(item(i % 2, margin)) for i, margin in enumerate(margins)]

    sizes = [made.serve() for _ in range(6)]

    assert sizes == [4, 4, 1, 1, 1, 0]
    found = [future.result() for future in futures]
    assert [one.precision for one in found] == ["cheap" if margin > 0.6 else "full" for margin in margins]
    assert [int(one.output.argmax()) for one in found] == [i % 2 for i in range(11)]
    cheap, full = made._precisions
    assert (cheap.sessions[4].calls, cheap.sessions[1].calls) == (2, 3)
    assert (full.sessions[4].calls, full.sessions[1].calls) == (1, 2)


def test_a_thread_serves_what_many_threads_submit():
    made, found = session(), []

    def ask(label):
        found.extend((label, made.submit(item(label, 0.7)).result(timeout=20)) for _ in range(50))

    with made.serving():
        askers = [threading.Thread(target=ask, args=(i % 2,)) for i in range(4)]
        for asker in askers:
            asker.start()
        for asker in askers:
            asker.join()

    assert len(found) == 200 and all(answer.output.argmax() == label for label, answer in found)
    assert made.counters.read()["requests"] == 200


def test_what_waits_is_served_before_the_thread_ends():
    made = session()
    futures = [made.submit(item()) for _ in range(20)]
    with made.serving():
        pass

    assert all(future.done() for future in futures)


def test_an_error_of_the_runtime_comes_out_of_the_future_and_the_next_request_is_served():
    def fail_on_label_one(row):
        if row[0] == 1:
            raise RuntimeError("out of memory")
        return False

    made = session(wrong=fail_on_label_one)
    bad, good = made.submit(item(1, 0.9)), made.submit(item(0, 0.9))
    made.serve(), made.serve()

    with pytest.raises(RuntimeError, match="out of memory"):
        bad.result()
    assert good.result().precision == "cheap"
    assert made.counters.read()["failed"] == 1


def test_a_cancelled_request_is_not_served():
    made = session()
    future = made.submit(item())
    future.cancel()

    assert made.serve() == 1
    assert made.counters.read()["requests"] == 0


def test_counters_as_json_and_in_prometheus_form():
    made = session()
    empty = json.loads(made.counters.json())
    made.answer(item(0, 0.9))
    lines = made.counters.prometheus().splitlines()

    assert empty["latency_s"] == {"p50": None, "p90": None, "p99": None}
    assert "quantkit_adaptive_requests_total 1" in lines
    assert 'quantkit_adaptive_answers_total{precision="cheap"} 1' in lines
    assert 'quantkit_adaptive_latency_seconds{quantile="0.99"} 0.001' in lines
    sample = re.compile(r'[a-z_]+(\{[a-z]+="[^"]*"\})? (NaN|[-+0-9.e]+)')
    assert all(sample.fullmatch(line) for line in lines if not line.startswith("#"))
    typed = [line.split()[2] for line in lines if line.startswith("# TYPE")]
    assert len(typed) == len(set(typed)) == len([line for line in lines if line.startswith("# HELP")])


def test_another_shape_is_refused_before_it_waits():
    with pytest.raises(ValueError, match=r"got .*3.*expected .*1, 2"):
        session().submit((np.zeros((1, 3)),))


def test_what_does_not_fit_together_is_refused():
    clock = Clock()
    cheap, full = ladder(clock)
    with pytest.raises(InvalidSetting, match="2 or more precisions"):
        AdaptiveSession([full], Rules([()]), clock, example=item())
    with pytest.raises(InvalidSetting, match="1 thresholds for 2 precisions"):
        AdaptiveSession([cheap, full], Rules([(0.1, 0.2)]), clock, example=item())
    batched = Precision("batched", {4: full.sessions[1]})
    with pytest.raises(InvalidSetting, match="batch sizes"):
        AdaptiveSession([cheap, batched], Rules([(0.1,)]), clock, example=item())


def test_outputs_that_are_no_class_scores_are_refused():
    clock = Clock()
    cheap, full = ladder(clock)
    full.sessions[1].fetch = lambda fed: np.zeros((1, 1))
    made = AdaptiveSession([cheap, full], Rules([(NEVER,)]), clock, example=item())

    with pytest.raises(InvalidSetting, match=r"2 or more classes: got \[1, 1\]"):
        made.answer(item())


def test_a_sequence_is_decided_by_its_last_position():
    """Scores [1, 2, 2]: the first position is sure and the last one is not, so that full precision is asked."""
    clock = Clock()
    cheap, full = ladder(clock)
    cheap.sessions[1].fetch = lambda fed: np.array([[[9.0, 0.0], [0.1, 0.0]]])
    made = AdaptiveSession([cheap, full], Rules([(0.5,)]), clock, example=item())

    assert made.answer(item()).precision == "full"


def test_the_same_seed_audits_the_same_requests():
    def audited(seed):
        clock = Clock()
        rules = Rules([(NEVER,), (0.0,)], audit=Audit(share=0.2))
        made = AdaptiveSession(ladder(clock), rules, clock, example=item(), seed=seed)
        return [made.answer(item(0, 0.9)).audited for _ in range(100)]

    assert audited(1) == audited(1) != audited(2)


def test_closing_frees_every_artifact():
    made = session(sizes=(1, 4))
    made.close()

    assert all(one.closed for precision in made._precisions for one in precision.sessions.values())

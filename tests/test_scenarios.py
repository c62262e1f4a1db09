"""Load scenarios: LoadGen's numbers against our own arithmetic, arrivals against theory, and every refusal."""

import importlib.util
import json
import math
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from quantkit import cli
from quantkit.catalog import TARGETS
from quantkit.contracts import Split
from quantkit.errors import CaseFailed, CorruptFile, InvalidSetting, UnknownName
from quantkit.records import Case
from quantkit.scenarios import command, inside, loadgen, log, search, table
from quantkit.scenarios.load import Load, LoadResult, short
from quantkit.scenarios.store import Loads
from quantkit.stats import early_stopping

CASE = Case("tiny_plane", "int8_static", "grid", "cpu")
needs_loadgen = pytest.mark.skipif(importlib.util.find_spec("mlperf_loadgen") is None, reason="extra loadgen")


@pytest.mark.parametrize("percentile", [0.9, 0.95, 0.97, 0.99])
@pytest.mark.parametrize("over", [0, 1, 7, 100])
def test_queries_needed_are_those_of_the_binomial_distribution(over, percentile):
    """SciPy's own distribution: enough with n queries, not with n - 1."""
    n = early_stopping.queries_needed(over, percentile)

    assert stats.binom(n, 1 - percentile).cdf(over) <= 0.01 < stats.binom(n - 1, 1 - percentile).cdf(over)


def test_without_misses_it_is_a_power():
    """0.99^n <= 0.01 from n = ln 0.01 / ln 0.99 = 458.2 on; 0.9^n from 43.7 on."""
    assert early_stopping.queries_needed(0, 0.99) == math.ceil(math.log(0.01) / math.log(0.99)) == 459
    assert early_stopping.queries_needed(0, 0.9) == 44


def test_the_estimate_is_an_order_statistic_that_holds():
    """Law: with n queries and the t-th largest as bound, t misses among n are allowed, t + 1 are not."""
    x = np.random.default_rng(0).permutation(np.arange(1.0, 2_001.0))
    found = early_stopping.estimate(x, 0.99)
    misses = int((x >= found).sum())

    assert early_stopping.queries_needed(misses, 0.99) <= 2_000 < early_stopping.queries_needed(misses + 1, 0.99)
    assert early_stopping.estimate(x[:661], 0.99) is None
    assert early_stopping.estimate(x[:662], 0.99) == x[:662].max()


@pytest.mark.parametrize("over", [-1])
def test_a_count_below_zero_is_refused(over):
    with pytest.raises(ValueError, match="over must be 0 or more: got -1"):
        early_stopping.queries_needed(over, 0.9)


def lines(**facts):
    """Write facts as LoadGen 6 does: a line of JSON each, after a mark."""
    made = [
        {"key": key, "value": value, "metadata": {"is_error": key == "error_runtime"}} for key, value in facts.items()
    ]
    return "\n".join([*(f":::MLLOG {json.dumps(one)}" for one in made), "something else"])


def test_what_loadgen_wrote_is_read():
    text = lines(
        result_validity="INVALID",
        early_stopping_met=False,
        early_stopping_result=" * Only processed 20 queries.\n * Need to process at least 64 queries",
        result_invalid_reason="Reduce target QPS to improve latency.",
        **{"result_50.00_percentile_latency_ns": 2_000_000, "result_99.90_percentile_latency_ns": 5_000_000},
    )
    found = log.facts(text)

    assert log.percentiles(found) == pytest.approx({"p50": 0.002, "p99.9": 0.005})
    assert log.reasons(found) == (
        "Reduce target QPS to improve latency.",
        "early stopping: Only processed 20 queries. Need to process at least 64 queries",
    )


def test_in_multi_stream_latencies_are_those_of_queries():
    found = {"result_50.00_percentile_latency_ns": 1, "result_50.00_percentile_per_query_latency_ns": 8_000_000}

    assert log.percentiles(found) == pytest.approx({"p50": 0.008})


def test_a_log_without_a_result_is_a_failure_that_says_what_loadgen_said():
    with pytest.raises(CaseFailed, match="without a result: Too many outstanding queries"):
        log.facts(lines(error_runtime="Too many  outstanding\nqueries"))


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ({"scenario": "servr"}, "no scenario named 'servr'. Known: single_stream"),
        ({"duration_s": 0.0}, "--duration must be a positive number: got 0"),
        ({"duration_s": math.nan}, "--duration"),
        ({"latency_s": -1.0}, "--latency"),
        ({"rate": math.inf}, "--rate"),
        ({"rate": 1e9}, "more than 5,000,000 queries: lower either"),
        ({"queries": 0}, "--queries"),
        ({"workers": 0}, "--workers"),
        ({"samples_per_query": -8}, "--samples-per-query"),
        ({"percentile": 1.0}, "--percentile must be 0.5 to 0.999"),
        ({"percentile": 99.0}, "--percentile"),
        ({"seed": -1}, "--seed"),
    ],
    ids=str,
)
def test_senseless_numbers_are_refused(numbers, message):
    with pytest.raises((InvalidSetting, UnknownName)) as caught:
        Load(**{"scenario": "server"} | numbers)

    assert message in str(caught.value)


def test_the_numbers_are_mlperfs_where_nothing_is_said():
    assert [Load(s).judged for s in ("single_stream", "multi_stream", "server")] == [0.9, 0.99, 0.99]
    assert [Load(s).least_queries for s in ("single_stream", "multi_stream", "server", "offline")] == [64, 662, 662, 1]


def ran(rate, valid, item_s=0.001, **more):
    return LoadResult(
        CASE, Load("server", rate=rate), valid, () if valid else ("too slow",), 700, 700, rate or 1.0,
        {"p50": 0.001, "p90": 0.002, "p99": 0.003, "p99.9": 0.004}, 0.001, item_s=item_s, **more,
    )  # fmt: skip


@pytest.mark.parametrize("limit", [30.0, 480.0, 500.0, 501.0, 7_000.0])
def test_the_search_ends_within_5_percent_below_the_limit(limit):
    found = search.highest(lambda rate: ran(rate or 500.0, (rate or 500.0) <= limit))

    assert found.valid
    assert found.load.rate <= limit <= found.load.rate * 1.05
    assert len(found.tried) <= search.MOST


def test_a_search_on_a_noisy_machine_returns_a_rate_that_was_valid():
    """Near its limit a rate passes by chance; what is returned did pass, and the search ends."""
    rng = np.random.default_rng(0)
    for _ in range(50):
        found = search.highest(lambda rate: ran(rate or 500.0, rng.random() < 1 / (1 + ((rate or 500.0) / 900) ** 8)))
        passed = [run["rate"] for run in found.tried if run["valid"]]
        assert found.valid == bool(passed)
        assert found.load.rate == (max(passed) if passed else min(run["rate"] for run in found.tried))
        assert len(found.tried) <= search.MOST


def test_a_rate_that_failed_while_the_machine_was_disturbed_is_tried_again_and_then_believed():
    """Three runs at most; a run that passed, or failed undisturbed, is the last."""
    noise, valid, failed = (
        ran(1.0, False, disturbed=("others",)),
        ran(1.0, True, disturbed=("others",)),
        ran(1.0, False),
    )

    for runs, last in (([noise, valid], valid), ([noise, failed], failed), ([noise] * 3, noise), ([failed], failed)):
        left = list(runs)
        assert command.undisturbed(lambda left=left: left.pop(0)) is last
        assert not left
    assert "server: disturbed: others" in table.text([noise])


def test_a_bound_below_one_answer_is_given_up_at_once():
    """One answer takes 20 ms, the bound is 10 ms: no rate keeps it."""
    found = search.highest(lambda rate: ran(rate or 25.0, False, item_s=0.020))

    assert not found.valid
    assert len(found.tried) == 1
    assert found.reasons[0] == "one answer alone takes 20 ms, more than the bound: no rate keeps it"


def test_a_server_that_is_always_too_slow_ends_as_invalid():
    found = search.highest(lambda rate: ran(rate or 500.0, False))

    assert not found.valid
    assert found.load.rate == min(run["rate"] for run in found.tried) < 500 / 32


def test_a_record_survives_the_results_file(home):
    store, record = Loads(home / "results.db"), ran(50.0, True, key="k", latencies_s=(0.1, 0.2), over=3)
    store.keep(replace(record, key="old"))
    store.keep(record)

    assert store.kept("k") == record
    assert store.kept("none") is None
    assert store.newest_loads() == [record]
    assert store.newest() == [], "no result of the other kind"


def test_a_damaged_record_is_refused(home):
    store = Loads(home / "results.db")
    store.keep(ran(50.0, True, key="k"))
    with store._connection() as connection:
        connection.execute("UPDATE loads SET payload = replace(payload, '700', '701')")

    with pytest.raises(CorruptFile, match="hash of a load result"):
        store.kept("k")


def test_a_results_file_of_an_older_quantkit_has_no_loads(home):
    Loads(home / "results.db")
    with Loads(home / "results.db")._connection() as connection:
        connection.execute("DROP TABLE loads")

    assert Loads(home / "results.db", write=False).newest_loads() == []


def test_the_table_says_what_mlperf_would_report():
    single = replace(ran(None, True), load=Load("single_stream"), estimate_s=0.00234)
    text = table.text([single, ran(400.0, True, tried=({"rate": 400.0},)), ran(800.0, False)])

    assert "p90 <= 2.34 ms" in text
    assert "highest: 400/s, p99 within 10 ms" in text
    assert "not at 800/s: p99 within 10 ms" in text
    assert "server: too slow" in text
    assert "no MLPerf results: those take 600 s a run" in text
    assert "latencies_s" not in json.dumps(short(single)).replace('"latencies_s": []', "")


class Recording:
    """A session that keeps a state and writes down what is asked of it."""

    def __init__(self):
        self.calls = []

    def feed(self, inputs):
        return tuple(x.item() for x in inputs)

    def reset(self):
        self.calls.append("reset")

    def run(self, fed):
        self.calls.append(fed)


def test_an_item_of_a_stepwise_model_is_answered_from_its_first_position_on():
    """Two items of two positions: an answer forgets the one before, then takes (token, position) in order."""
    session, target = Recording(), TARGETS.get("cpu")
    split = Split((np.array([[5, 6], [7, 8]]),), np.zeros(2), ("a", "b"))

    answer = inside.answerer(session, target, split, stepwise=True)
    answer(1), answer(0)

    assert session.calls == ["reset", (7, 0), (8, 1), "reset", (5, 0), (6, 1)]


# With LoadGen itself


def sleeper(seconds):
    """Return an answer that takes a fixed time and leaves the processor alone."""

    def answer(index):
        end = time.perf_counter() + seconds
        time.sleep(max(0.0, seconds - 2e-4))
        while time.perf_counter() < end:
            pass

    return answer


def drive(tmp_path, load, answers, item_s=1e-3, items=16, trace=True):
    found, spans = loadgen.drive(answers, items, load, tmp_path, item_s=item_s, trace=trace)
    samples = []
    if trace:
        events = [
            line.rstrip(",") for line in (tmp_path / loadgen.TRACE).read_text().splitlines() if '"Sample"' in line
        ]
        for event in (json.loads(line) for line in events if '"ph":"b"' in line):
            samples.append((event["ts"] * 1e-6, event["args"]["complete_ns"] * 1e-9, event["args"]["sample_idx"]))
    return found, spans, np.array(sorted(samples))


@needs_loadgen
@pytest.mark.parametrize("scenario", ["single_stream", "multi_stream"])
def test_loadgens_own_estimate_is_the_one_of_our_arithmetic(tmp_path, scenario):
    """From the latencies that LoadGen traced, our rule gives LoadGen's number to the nanosecond."""
    rng = np.random.default_rng(0)
    load = Load(scenario, duration_s=0.05, queries=700, samples_per_query=2, percentile=0.9)
    found, _, samples = drive(tmp_path, load, [lambda index: time.sleep(rng.exponential(2e-4))], item_s=1e-5)

    latencies = samples[:, 1]
    if scenario == "multi_stream":
        starts, query = np.unique(samples[:, 0], return_inverse=True)
        latencies = np.zeros(len(starts))
        np.maximum.at(latencies, query, samples[:, 1])
    key = "early_stopping_latency_ss" if scenario == "single_stream" else "early_stopping_latency_ms"
    assert len(latencies) == found["result_query_count"] >= 700
    assert early_stopping.estimate(latencies, 0.9) == pytest.approx(found[key] * 1e-9, abs=2e-9)


@needs_loadgen
@pytest.mark.parametrize(("scenario", "least"), [("single_stream", 64), ("multi_stream", 662)])
def test_loadgen_asks_for_as_many_queries_as_we_do(tmp_path, scenario, least):
    """It is written in its own words when there are too few."""
    load = Load(scenario, duration_s=0.01, queries=5, samples_per_query=1)
    found, _, _ = drive(tmp_path, load, [lambda index: time.sleep(0.01)], item_s=0.01, trace=False)

    assert f"Need to process at least {least} queries" in log.reasons(found)[0]
    assert Load(scenario).least_queries == least


@needs_loadgen
@pytest.mark.parametrize(("over", "valid"), [(0, True), (1, True), (40, False)])
def test_loadgens_verdict_on_a_server_is_that_of_the_binomial_distribution(tmp_path, over, valid):
    """1,500 queries allow 6 past the bound at the 99th percentile; each slow answer holds up a worker of its own."""
    seen = iter(range(10**6))
    answer = lambda index: time.sleep(0.3 if next(seen) < over else 0.0)  # noqa: E731
    load = Load("server", duration_s=0.01, queries=1_500, rate=3_000.0, latency_s=0.2, workers=over + 1)
    found, _, samples = drive(tmp_path, load, [answer] * load.workers)

    missed = int((samples[:, 1] > load.latency_s).sum())
    assert found["result_overlatency_query_count"] == missed >= over
    assert found["early_stopping_met"] == (len(samples) >= early_stopping.queries_needed(missed, 0.99)) == (missed <= 6)
    assert (found["result_validity"] == "VALID") == valid


@needs_loadgen
def test_arrivals_are_a_poisson_process(tmp_path):
    """Gaps are exponential: mean and variance within four standard errors, uncorrelated, and the KS test agrees."""
    rate, count = 4_000.0, 4_000
    _, _, samples = drive(tmp_path, Load("server", duration_s=0.5, queries=count, rate=rate), [lambda index: None])
    gaps = np.diff(samples[:, 0]) * rate

    assert len(gaps) >= count - 1
    assert abs(gaps.mean() - 1) < 4 / math.sqrt(len(gaps))
    assert abs(gaps.var() - 1) < 4 * math.sqrt(8 / len(gaps))
    assert abs(np.corrcoef(gaps[1:], gaps[:-1])[0, 1]) < 4 / math.sqrt(len(gaps))
    assert stats.kstest(gaps, "expon").pvalue > 1e-3


@needs_loadgen
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the C++ library's generator differs elsewhere")
def test_arrivals_come_from_the_seed(tmp_path):
    """Mersenne twister, seed 7: -ln(1 - u) / rate with u of 64 random bits, as libstdc++ makes it; here by NumPy."""
    rate = 1_000.0
    _, _, samples = drive(
        tmp_path, Load("server", duration_s=0.1, queries=100, rate=rate, seed=7), [lambda index: None]
    )
    twister = np.random.MT19937()
    twister._legacy_seeding(7)
    bits = twister.random_raw(2 * len(samples)).reshape(-1, 2).astype(float)
    gaps = -np.log1p(-(bits[:, 0] + bits[:, 1] * 2.0**32) / 2.0**64) / rate

    # LoadGen puts the first query at zero
    assert np.diff(samples[:, 0]) == pytest.approx(gaps[: len(samples) - 1], abs=3e-9)


@needs_loadgen
@pytest.mark.parametrize("scenario", ["single_stream", "multi_stream", "server", "offline"])
def test_our_own_times_lie_inside_loadgens(tmp_path, scenario):
    """It starts its clock before we see a query and stops it after we said that it is answered."""
    load = Load(scenario, duration_s=0.05, queries=30, rate=500.0 if scenario == "server" else None)
    found, spans, samples = drive(tmp_path, load, [sleeper(5e-4)], item_s=5e-4)

    ours = np.sort(spans[:, 1] - spans[:, 0])
    assert (np.sort(samples[:, 1]) >= ours - 1e-9).all()
    assert ours.min() >= 5e-4
    record = inside.concluded(CASE, load, found, spans, 5e-4, 1.0)
    assert record.samples == len(spans) == found["result_query_count"] * {"multi_stream": 8}.get(scenario, 1) or (
        scenario == "offline"
    )
    assert len(record.latencies_s) == (record.queries if scenario != "offline" else record.samples)
    assert record.mean_s >= np.mean(record.latencies_s) - 1e-9 or scenario == "offline"


@needs_loadgen
def test_offline_asks_for_all_at_once(tmp_path):
    load = Load("offline", duration_s=0.1, queries=200)
    found, spans, samples = drive(tmp_path, load, [sleeper(1e-3)], item_s=1e-3)

    assert found["result_query_count"] == 1
    assert len(np.unique(samples[:, 0])) == 1
    assert len(spans) >= 200
    assert set(samples[:, 2]) <= set(range(16))


@needs_loadgen
def test_two_workers_answer_side_by_side(tmp_path):
    """Law: the answers of one worker never overlap; with two, some of a waiting queue do."""
    inside_now, most = [], []

    def answer(index):
        inside_now.append(index)
        most.append(len(inside_now))
        time.sleep(1e-3)
        inside_now.pop()

    drive(tmp_path, Load("offline", duration_s=0.02, queries=50, workers=2), [answer, answer], item_s=1e-3, trace=False)
    assert max(most) == 2
    most.clear()
    drive(tmp_path, Load("offline", duration_s=0.02, queries=50), [answer], item_s=1e-3, trace=False)
    assert max(most) == 1


@needs_loadgen
def test_an_answer_that_fails_is_one_line(tmp_path):
    def answer(index):
        raise ZeroDivisionError("the session broke")

    with pytest.raises(CaseFailed, match="an answer failed under load: ZeroDivisionError: the session broke"):
        drive(tmp_path, Load("single_stream", duration_s=0.02, queries=10), [answer], item_s=1e-3, trace=False)


@needs_loadgen
@pytest.mark.slow
def test_waiting_is_what_queueing_theory_says(tmp_path):
    """M/D/1 at half load: Pollaczek-Khinchine gives a mean wait of rate·E[S²] / (2·(1 - rho)), S/2 for equal answers.

    S is what each answer really took here; where the machine's other work shows in it, nothing can be said. Four
    standard errors, from the means of 20 batches, since neighbours wait together.
    """
    told, count = 2.5e-3, 3_000
    load = Load("server", duration_s=1.0, queries=count, rate=0.5 / told, latency_s=1.0, seed=3)
    found, spans, samples = drive(tmp_path, load, [sleeper(told)], item_s=told)

    took = spans[:, 1] - np.maximum(spans[:, 0], np.concatenate([[0.0], spans[:-1, 1]]))
    if took.mean() > 1.1 * told or took.std() > 0.3 * told:
        pytest.skip(f"not a quiet machine: answers of {told * 1e3} ms took {took.mean() * 1e3:.2f} ms")
    theory = load.rate * np.mean(took**2) / (2 * (1 - load.rate * took.mean()))
    waits = samples[:, 1] - took
    batches = waits[: len(waits) // 20 * 20].reshape(20, -1).mean(axis=1)
    assert abs(waits.mean() - theory) < 4 * batches.std(ddof=1) / math.sqrt(20)
    assert found["result_mean_latency_ns"] * 1e-9 == pytest.approx(samples[:, 1].mean(), abs=1e-8)


def lindley(gaps, service):
    """Return each arrival's wait in a queue of one server: W' = max(0, W + S - gap)."""
    waits = [0.0]
    for gap in gaps:
        waits.append(max(0.0, waits[-1] + service - gap))
    return np.array(waits)


def test_the_oracle_itself_keeps_the_formula():
    """400,000 arrivals of a Poisson process by NumPy, half load: a mean wait of half the service time, within 2 %."""
    gaps = np.random.default_rng(0).exponential(2.0, 400_000)

    assert lindley(gaps, 1.0).mean() == pytest.approx(0.5, rel=0.02)


# The command


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A cache that the tests below share: the artifact is built once."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture
def shared(plugins, home, built, monkeypatch):
    """An empty results file and the shared cache."""
    monkeypatch.setenv("QUANTKIT_HOME", str(built))
    return home


@needs_loadgen
def test_a_case_is_put_under_load_and_kept(capsys, shared):
    asked = ["load", CASE.id, "--scenario", "single_stream,offline", "--duration", "0.2", "--format", "json"]
    assert cli.main(asked) == 0
    first = json.loads(capsys.readouterr().out)
    assert cli.main(asked) == 0
    assert json.loads(capsys.readouterr().out) == first, "what is stored is not measured again"
    assert cli.main(["load"]) == 0
    shown = capsys.readouterr().out

    assert [one["load"]["scenario"] for one in first] == ["single_stream", "offline"]
    assert all(one["valid"] and one["fingerprint"]["id"] for one in first)
    assert "p90 <= " in shown
    assert "items/s" in shown

    arguments = ["--scenario", "server", "--rate", "300", "--latency", "0.0001", "--duration", "0.2"]
    assert cli.main(["load", CASE.id, *arguments]) == 1, "past its bound"
    said = capsys.readouterr().out
    assert "INVALID" in said
    assert "Reduce target QPS to improve latency" in said


def test_a_scenario_that_fails_costs_no_other_its_outcome(capsys, shared, monkeypatch):
    """The server ran, offline was killed: the row is shown, the reason said, the status that of an error."""

    def once(shop, case, built, load, bench):
        if case.method == "fp32" or load.scenario == "offline":
            raise CaseFailed("killed by SIGKILL")
        return ran(100.0, True)

    monkeypatch.setattr(command, "once", once)
    monkeypatch.setattr("quantkit.extras.missing", lambda extra: None)
    other = CASE.id.replace("int8_static", "fp32")
    assert cli.main(["load", other, CASE.id, "--scenario", "server,offline", "--rate", "100"]) == 2

    said = capsys.readouterr()
    assert "100/s, p99 within 10 ms" in said.out
    assert [line for line in said.err.splitlines() if line.startswith("failed")] == [
        f"failed    {other}: killed by SIGKILL", f"failed    {CASE.id}: killed by SIGKILL",
    ]  # fmt: skip
    assert cli.main(["load", other, "--scenario", "offline"]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == "quantkit: killed by SIGKILL"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["tiny_plane"], "a case is MODEL-METHOD-BACKEND-TARGET"),
        (["tiny_plan-int8_static-grid-cpu"], "Did you mean 'tiny_plane'?"),
        (["tiny_plane-int8_static-grid-simulated"], "load needs a real clock"),
        (["tiny_plane-int8_static-grid-ane"], "needs macOS on Apple silicon"),
        ([CASE.id, "--scenario", "serve"], "no scenario named 'serve'"),
        ([CASE.id, "--scenario", "offline", "--rate", "5"], "--rate belongs to scenario server"),
        ([CASE.id, "--scenario", "server", "--rate", "0.001"], "queries take 662,000 s, the time limit is 600 s"),
        (["--scenario", "server"], "--scenario server needs a case"),
        (
            [CASE.id, "--scenario", "server", "--samples-per-query", "5"],
            "--samples-per-query belongs to scenario multi",
        ),
        ([CASE.id, "--duration", "-1"], "--duration must be a positive number"),
        ([CASE.id, "--threads", "0"], "--threads must be at least 1"),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_a_senseless_question_is_one_line(capsys, plugins, home, monkeypatch, arguments, message):
    if arguments[0].endswith("ane") and sys.platform == "darwin":
        pytest.skip("there it makes sense")
    assert cli.main(["load", *arguments]) == 2

    said = capsys.readouterr().err
    assert message in said
    assert said.startswith("quantkit: ")
    assert said.count("\n") == 1


def test_nothing_stored_is_exit_3(capsys, plugins, home):
    Loads(home / "results.db")

    assert cli.main(["load"]) == 3
    assert "no case was put under load yet" in capsys.readouterr().err


def test_without_loadgen_the_pip_command_is_said(capsys, plugins, home, monkeypatch):
    monkeypatch.setattr("quantkit.extras.importlib.util.find_spec", lambda name: None)

    assert cli.main(["load", CASE.id]) == 2
    assert "pip install 'quantkit[loadgen]'" in capsys.readouterr().err


def test_an_interrupted_search_goes_on_where_it_was(capsys, shared, monkeypatch):
    """Two runs are done, the third is interrupted: the same command runs the third and the rest only."""
    asked = []

    def once(shop, case, built, load, bench):
        asked.append(load.rate)
        if len(asked) == 3:
            raise KeyboardInterrupt
        return ran(load.rate or 500.0, (load.rate or 500.0) <= 700.0)

    monkeypatch.setattr(command, "once", once)
    arguments = ["load", CASE.id, "--scenario", "server", "--format", "json"]
    monkeypatch.setattr("quantkit.extras.missing", lambda extra: None)
    assert cli.main(arguments) == 130
    assert asked == [None, 1_000.0, pytest.approx(math.sqrt(500 * 1_000))]
    assert cli.main(arguments) == 0

    (found,) = json.loads(capsys.readouterr().out)
    assert asked[3] == asked[2], "the one that was interrupted"
    assert None not in asked[3:]
    assert found["load"]["rate"] <= 700 <= found["load"]["rate"] * 1.05
    assert Loads(shared / "results.db").parts(found["key"]) == {}

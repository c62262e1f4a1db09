"""The whole story on a toy toolchain: real processes, real files, a model that takes milliseconds."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from quantkit.contracts import LayerReport, Plan
from quantkit.errors import StorageError
from quantkit.pipeline import inside, keys
from quantkit.pipeline.crew import Crew
from quantkit.pipeline.execute import Run, execute, store_refusals
from quantkit.pipeline.plan import Planned, baseline_of, plan
from quantkit.pipeline.settings import Settings
from quantkit.pipeline.store import Store
from quantkit.records import Case
from quantkit.scheme import PerGroup, Scheme

PLUGINS = Path(__file__).parent / "plugins"
SETTINGS = Settings.of("fast", rounds=3, items=400, time_limit_s=20.0)


def case(method="int8_static", target="cpu"):
    return Case("tiny_plane", method, "grid", target)


@pytest.fixture
def run(plugins, home):
    said = []
    with Crew(2) as crew:
        made = Run(SETTINGS, Store(home / "results.db"), crew, said.append)
        made.said = said
        yield made


def test_a_case_becomes_a_result_with_its_baseline(run):
    baseline, found = execute([case()], run)

    assert (baseline.case, found.case) == (baseline_of(case()), case())
    assert found.status == "ok"
    assert len(found.outcomes) == 400
    assert [len(found.latencies_s), len(found.reference_latencies_s)] == [3, 3]
    assert found.measurements["coverage"].values == (1.0,)
    assert found.measurements["bits_per_weight"].values == (8.0,)
    assert found.measurements["quality"].values == found.outcomes
    assert found.measurements["peak_memory"].values[0] > 2**20
    assert {r.case for r in run.store.newest()} == {case(), baseline_of(case())}
    assert run.store.newest()[0].to_json() == run.store.find(run.store.newest()[0].key).to_json()


def test_what_is_stored_is_not_measured_again_unless_asked(run):
    first = execute([case()], run)
    run.said.clear()

    assert execute([case()], run) == first
    assert run.said == []

    run.fresh = True
    again = execute([case()], run)
    assert [one.key for one in again] == [one.key for one in first]
    assert all(one.latencies_s != two.latencies_s for one, two in zip(first, again))
    work = [f"{word} {one.case.id}" for one in again for word in ("built    ", "evaluated")]
    assert [sum(told.startswith(line) for told in run.said) for line in work] == [1] * 4, "made anew, and once"


def test_what_cannot_run_any_more_does_not_stand_as_measured(run):
    """It ran on this very machine with these very libraries; what another machine measured is left alone."""
    (ran,) = [one for one in execute([case()], run) if one.case == case()]
    elsewhere = replace(ran, case=case("int8_weight_only"), fingerprint={"id": "another"})
    run.store.add(elsewhere)
    refused = [Planned(one, reason="broken now") for one in (case(), elsewhere.case)]

    store_refusals(refused, run.store)

    found = {one.case: one.status for one in run.store.newest()}
    assert (found[case()], found[elsewhere.case]) == ("unsupported", "ok")


def test_other_settings_are_another_result(run):
    key = keys.result_key(case(), SETTINGS)

    assert key != keys.result_key(case(), Settings.of("fast", rounds=4, items=400, time_limit_s=20.0))
    assert key != keys.result_key(case("fp32"), SETTINGS)
    assert keys.artifact_key(case("fp32"), SETTINGS) == keys.artifact_key(
        case("fp32"), Settings.of("fast", calibration=8)
    ), "calibration is no part of what needs none"


@pytest.mark.parametrize(
    ("how", "status", "message"),
    [
        ("abort", "failed", "killed by SIGABRT"),
        ("kill", "failed", "killed by SIGKILL"),
        ("raise", "failed", "KeyError: 'missing' (breaking.py:"),
        ("refuse", "unsupported", "layer conv1: operation aten.unknown"),
        ("nan", "failed", "nan or inf in 1 of 64 items, the first is train/3"),
        ("empty", "failed", "calibration data is empty"),
    ],
)
def test_a_case_that_breaks_costs_that_case_only(run, monkeypatch, how, status, message):
    monkeypatch.setenv("TINY_BREAKS", how)
    broken = case("int8_static" if how in ("nan", "empty") else "breaking")

    found = {r.case: r for r in execute([broken, case("int8_weight_only")], run)}

    assert found[broken].status == status
    assert message in found[broken].reason
    assert found[case("int8_weight_only")].status == "ok"
    assert any(broken.id in line for line in run.said)


def test_a_case_past_its_time_limit_is_killed(plugins, home, monkeypatch):
    monkeypatch.setenv("TINY_BREAKS", "hang")
    with Crew(1) as crew:
        run = Run(
            Settings.of("fast", rounds=2, items=50, time_limit_s=5.0), Store(home / "r.db"), crew, lambda line: None
        )
        found = execute([case("breaking")], run)[-1]

    assert found.status == "failed"
    assert "the time limit is 5 s" in found.reason


def test_a_corrupted_artifact_is_said_and_built_again(run, home):
    execute([case()], run)
    (weights,) = [f for f in run.cache.glob("artifacts/*/weights.npy") if f.stat().st_size][:1]
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x00")
    run.store, run.said[:] = Store(home / "other.db"), []

    found = execute([case()], run)[-1]

    assert found.status == "ok"
    assert any("is not the file that was made" in line for line in run.said)


def test_a_cache_that_cannot_be_written_ends_the_run_with_one_line(run, home):
    run.cache = home / "in the way"
    run.cache.write_text("")

    with pytest.raises(StorageError, match="choose a writable folder"):
        execute([case()], run)

    assert not [line for line in run.said if line.startswith("failed")]


def test_simulated_time_gives_exact_speed_ups(run, monkeypatch):
    """4 ms over 1 ms is 4; memory is what the script says; nothing of it is mixed with measured figures."""
    script = {"fp32": {"latency_s": [0.004], "memory_bytes": 900}, "*": {"latency_s": [0.001], "memory_bytes": 300}}
    monkeypatch.setenv("QUANTKIT_SIMULATED", json.dumps(script))

    found = execute([case(target="simulated")], run)[-1]

    assert [value for values in found.latencies_s for value in values] == pytest.approx([0.001] * 450)
    assert all(value == pytest.approx(0.004) for values in found.reference_latencies_s for value in values)
    assert found.measurements["peak_memory"].values == (300.0,) * 3
    assert found.context["simulated"] is True


def test_another_script_is_another_simulated_result(plugins, monkeypatch):
    before = keys.result_key(case(target="simulated"), SETTINGS)
    monkeypatch.setenv("QUANTKIT_SIMULATED", '{"*": {"latency_s": [1], "memory_bytes": 1}}')

    assert keys.result_key(case(target="simulated"), SETTINGS) != before


def test_a_baseline_that_failed_is_tried_again_with_its_candidates(run, monkeypatch):
    """A candidate without its baseline's timings is not reused: it is measured again, beside the baseline."""
    monkeypatch.setattr("quantkit.pipeline.execute.with_baselines", lambda cases: list(dict.fromkeys(cases)))
    (alone,) = execute([case()], run)
    monkeypatch.undo()
    monkeypatch.setenv("QUANTKIT_PLUGINS", str(PLUGINS))

    assert alone.reference_latencies_s == ()
    assert len(execute([case()], run)[-1].reference_latencies_s) == 3


def test_kill_9_in_the_middle_continues_where_it_was(plugins, home):
    """The first run is killed while it times; the second needs neither builds nor the rounds that were finished."""
    command = [sys.executable, "-m", "quantkit.cli", "run", "--models", "tiny_plane", "--backends", "grid"]
    command += ["--methods", "int8_static", "--rounds", "40", "--items", "50"]
    first = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL, cwd=home)
    store = None
    end = time.monotonic() + 300
    while time.monotonic() < end:
        time.sleep(0.05)
        store = Store(home / "results.db")
        with store._connection() as connection:
            rounds = connection.execute("SELECT COUNT(*) FROM parts").fetchone()[0]
        if rounds >= 2:
            break
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    assert rounds >= 2
    assert store.newest() == []

    second = subprocess.run(command, capture_output=True, text=True, cwd=home, check=True)

    assert "built" not in second.stderr
    assert "evaluated" not in second.stderr
    found = {r.case.method: r for r in store.newest()}
    assert len(found["int8_static"].latencies_s) == 40
    with store._connection() as connection:
        assert connection.execute("SELECT COUNT(*) FROM parts").fetchone()[0] == 0


def test_the_plan_gives_a_reason_for_every_hole(plugins):
    cells = {cell.case: cell.reason for cell in plan(["tiny_plane"], ["fp32"], targets=["cpu"])}

    assert cells[Case("tiny_plane", "fp32", "grid", "cpu")] == ""
    (refused,) = plan(["fmnist_cnn"], ["fp32"], backends=["grid"], targets=["cpu"])
    assert refused.reason.startswith("grid takes Linear layers only")
    assert refused.markers == ("cpu", "vision")


def test_a_mixed_plan_names_its_schemes_and_the_layers_that_it_keeps_in_floats():
    """What the plan decided is no toolchain's silence; a reason that a toolchain gave stays."""
    half, int8, int4 = Scheme(16, "bf16"), Scheme(8), Scheme(4, granularity=PerGroup(32))
    plan = Plan(int8, {"a": half, "b": int4, "c": None, "d": half})
    layers = (
        LayerReport("a", "Linear", 64, 16), LayerReport("b", "Linear", 64, 4), LayerReport("c", "Linear", 64, 32),
        LayerReport("d", "Linear", 64, 32, "no kernel"),
    )  # fmt: skip

    reasons = [layer.reason for layer in inside.explained(layers, plan)]

    assert reasons == ["the plan keeps it in bf16", "", "the plan keeps it in float", "no kernel"]
    assert inside.schemes_of(plan) == ["bf16", "float", "w4a16g32"]
    assert inside.schemes_of(Plan(int8)) == []

"""The bridge to airspeed velocity: what asv reads is what was stored, and what it says of two commits."""

import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from quantkit import cli
from quantkit.errors import CorruptFile, InvalidSetting, NothingMeasured
from quantkit.history.asv_check import check
from quantkit.history.asv_files import export
from quantkit.history.figures import KINDS, VERSION, value
from quantkit.pipeline.store import Store
from quantkit.records import Case
from tests.history_stand import CASE, commit, repository, run

results_api = pytest.importorskip("asv.results", reason="needs asv: pip install 'quantkit[history]'")
ROOT = Path(__file__).resolve().parent.parent
OTHER = replace(CASE, method="int8_dynamic")


def read(folder):
    """What asv reads: commit -> its Results object."""
    return {found.commit_hash: found for found in results_api.iter_results(str(folder))}


def cell(result, figure, column="value"):
    """A figure's column by case, as asv gives it."""
    name = KINDS[figure].benchmark
    params = result.get_result_params(name)
    return dict(zip(params[0], getattr(result, f"get_result_{column}")(name, params), strict=True))


def test_asv_reads_back_what_was_stored(tmp_path):
    """Every figure of two cases at two commits, with asv's own reader."""
    stored = [run(0), run(0, case=OTHER, latency_s=0.004), run(1, wrong=range(7)), run(1, case=OTHER)]

    written = export(stored, tmp_path)

    assert (written.results, len(written.files)) == (4, 2)
    found = read(tmp_path)
    assert set(found) == {commit(0), commit(1)}
    for result in stored:
        back = found[result.fingerprint["revision"]["commit"]]
        for figure in ("latency", "time_ratio", "peak_memory", "artifact_size", "error", "relative_error"):
            assert cell(back, figure)[repr(result.case.id)] == value(KINDS[figure], result)[0], figure


def test_intervals_come_through_as_asvs_own(tmp_path):
    export([run(0, noise=0.02)], tmp_path)

    stats = cell(read(tmp_path)[commit(0)], "latency", "stats")[repr(CASE.id)]

    middle, low, high = value(KINDS["latency"], run(0, noise=0.02))
    assert (stats["ci_99_a"], stats["ci_99_b"]) == pytest.approx((low, high))
    assert low < stats["q_25"] < stats["q_75"] < high or low < middle < high
    assert stats["repeat"] == 77
    from asv._stats import get_weight

    assert get_weight(stats) == pytest.approx(2 / (high - low))


def test_commit_date_machine_and_python_come_through(tmp_path):
    export([run(3)], tmp_path)

    found = read(tmp_path)[commit(3)]

    assert found.date == (1_700_000_000 + 86_400 * 3) * 1000
    assert found.params["machine"] == "quantkit-m1"
    assert found.params["python"] == "3.11"
    machine = json.loads((tmp_path / "quantkit-m1" / "machine.json").read_text())
    assert machine["cpu"] == "a processor" and machine["version"] == 1


def test_asv_knows_the_benchmarks_their_units_and_cases(tmp_path):
    from asv.benchmarks import Benchmarks
    from asv.config import Config

    export([run(0), run(0, case=OTHER)], tmp_path)
    conf = Config()
    conf.results_dir = str(tmp_path)

    known = Benchmarks.load(conf)

    assert {kind.benchmark for kind in KINDS.values()} == set(known)
    assert known["speed.Speed.time_call"]["unit"] == "seconds"
    assert known["size.Size.track_artifact_size"]["unit"] == "bytes"
    assert known["speed.Speed.time_call"]["params"] == [[repr(OTHER.id), repr(CASE.id)]]
    found = read(tmp_path)[commit(0)]
    assert "speed.Speed.time_call" in found.get_result_keys(known)  # the versions agree


def test_benchmarks_that_asv_found_itself_stay(tmp_path):
    """`asv run` wrote its file first; the bridge adds cases to its benchmarks and leaves others alone."""
    mine = {
        "name": "speed.Speed.time_call",
        "params": [["'a'"]],
        "param_names": ["case"],
        "code": "def ...",
        "number": 0,
    }
    text = {"version": 2, "speed.Speed.time_call": mine, "own.track_x": {"name": "own.track_x", "params": []}}
    (tmp_path / "benchmarks.json").write_text(json.dumps(text))

    export([run(0)], tmp_path)

    after = json.loads((tmp_path / "benchmarks.json").read_text())
    assert after["own.track_x"] == text["own.track_x"]
    assert after["speed.Speed.time_call"]["params"] == [["'a'", repr(CASE.id)]]
    assert after["speed.Speed.time_call"]["code"] == "def ..."


def test_runs_of_one_commit_are_joined(tmp_path):
    """All processes count: the median of fourteen; the newest size."""
    slow, quick = run(0, latency_s=0.004), run(0, latency_s=0.002, size=5)

    export([slow, quick], tmp_path)

    found = read(tmp_path)[commit(0)]
    assert cell(found, "latency", "stats")[repr(CASE.id)]["repeat"] == 154
    assert 0.002 < cell(found, "latency")[repr(CASE.id)] < 0.004
    assert cell(found, "artifact_size")[repr(CASE.id)] == 5


def test_another_machine_is_another_folder(tmp_path):
    export([run(0), run(0, machine="m2")], tmp_path)

    assert {found.params["machine"] for found in results_api.iter_results(str(tmp_path))} == {
        "quantkit-m1",
        "quantkit-m2",
    }


def test_what_has_no_commit_is_left_out_and_named(tmp_path):
    nowhere = run(0)
    nowhere = replace(nowhere, fingerprint=nowhere.fingerprint | {"revision": {}})

    written = export([nowhere, run(1, dirty=True), run(2, status="failed"), run(3)], tmp_path)

    assert set(read(tmp_path)) == {commit(3)}
    assert len(written.left_out) == 3
    assert len(export([run(1, dirty=True)], tmp_path, dirty=True).files) == 1
    with pytest.raises(NothingMeasured, match="outside of a git checkout"):
        export([nowhere], tmp_path)


def test_timings_of_a_disturbed_machine_are_not_written(tmp_path):
    """Alone they leave a gap; beside a calm run of the same commit they do not count."""
    slow = run(0, status="tainted", reason="other processes", latency_s=1.0)

    written = export([slow, run(1), replace(slow, case=OTHER), run(0, case=OTHER)], tmp_path)

    found = read(tmp_path)[commit(0)]
    assert cell(found, "artifact_size") == {repr(CASE.id): 100_000, repr(OTHER.id): 100_000}
    assert list(cell(found, "latency")) == [repr(OTHER.id)]
    assert cell(found, "latency")[repr(OTHER.id)] < 0.01
    assert written.left_out == ("2 measured while the machine was disturbed: their timings only",)


def test_a_damaged_list_of_benchmarks_is_said(tmp_path):
    (tmp_path / "benchmarks.json").write_text("{")

    with pytest.raises(CorruptFile, match="not JSON"):
        export([run(0)], tmp_path)


# --- check


def two(folder, before, after):
    export([before, after], folder)
    return check(folder, commit(0), commit(1))


def test_check_says_pass_regression_and_nothing(tmp_path):
    assert two(tmp_path / "a", run(0), run(1)).exit_status == 0
    worse = two(tmp_path / "b", run(0), run(1, latency_s=0.006))
    assert worse.exit_status == 1
    assert any("time_call" in line and "+" in line for line in worse.lines)
    assert two(tmp_path / "c", run(0), run(1, wrong=range(100))).exit_status == 1  # error, from zero
    nothing = check(tmp_path / "a", commit(0), commit(7))
    assert nothing.exit_status == 3
    assert commit(7)[:12] in nothing.lines[0]


def test_check_is_silent_where_intervals_overlap(tmp_path):
    """15 % more, but the processes of one run scatter by 30 %: asv's statistics see no difference."""
    noisy = {"noise": 0.9}

    before, after = run(0, **noisy), run(1, **noisy)
    found = two(tmp_path, before, after)

    assert not any("time_call" in line for line in found.lines)


def test_a_benchmark_that_broke_is_a_regression(tmp_path):
    export([run(0), run(1)], tmp_path)
    path = tmp_path / "quantkit-m1" / f"{commit(1)[:8]}-quantkit.json"
    content = json.loads(path.read_text())
    content["results"]["size.Size.track_artifact_size"][0] = [None]
    path.write_text(json.dumps(content))

    found = check(tmp_path, commit(0), commit(1))

    assert found.verdict == "regression"
    assert found.lines[0].startswith("broken: size.Size.track_artifact_size")


def test_a_benchmark_that_was_skipped_is_none(tmp_path):
    export([run(0), run(1)], tmp_path)
    path = tmp_path / "quantkit-m1" / f"{commit(1)[:8]}-quantkit.json"
    content = json.loads(path.read_text())
    for row in content["results"].values():
        row[0] = [math.nan]
    path.write_text(json.dumps(content))

    assert check(tmp_path, commit(0), commit(1)).verdict == "nothing"


def test_check_refuses_what_it_cannot_judge(tmp_path):
    with pytest.raises(NothingMeasured, match="no results of asv"):
        check(tmp_path, "a", "b")
    export([run(0), run(0, machine="m2")], tmp_path)
    with pytest.raises(InvalidSetting, match="several machines"):
        check(tmp_path, commit(0), commit(0))
    with pytest.raises(InvalidSetting, match="no machine 'x'"):
        check(tmp_path, commit(0), commit(0), machine="x")
    with pytest.raises(InvalidSetting, match="--factor"):
        check(tmp_path, commit(0), commit(0), factor=0.5)


def test_the_commands_export_and_check(home, capsys):
    store = Store(home / "results.db")
    for result in (run(0), run(1, size=200_000)):
        store.add(result)

    assert cli.main(["history", "export", "--asv", str(home / "asv")]) == 0
    assert "2 results of 2 commits" in capsys.readouterr().out
    assert cli.main(["history", "check", commit(0), commit(1)[:7], "--asv", str(home / "asv")]) == 1
    assert "history check: regression" in capsys.readouterr().out
    assert cli.main(["history", "check", commit(0), commit(0), "--asv", str(home / "asv")]) == 0
    assert cli.main(["history", "check", "ffff", commit(0), "--asv", str(home / "asv")]) == 3
    assert cli.main(["history", "check", "a", "b", "--asv", str(home / "none")]) == 3


def test_what_was_not_measured_again_is_no_pass(tmp_path):
    """A case vanished: inconclusive. Beside a regression: regression. What is new is named, and passes."""
    gone = two_of([run(0), run(0, case=OTHER), run(1)], tmp_path / "gone")
    assert (gone.verdict, gone.exit_status) == ("inconclusive", 3)
    assert any(line.startswith("missing: speed.Speed.time_call") and OTHER.id in line for line in gone.lines)

    worse = two_of([run(0), run(0, case=OTHER), run(1, size=200_000)], tmp_path / "worse")
    assert worse.exit_status == 1
    assert any(line.startswith("missing") for line in worse.lines)

    added = two_of([run(0), run(1), run(1, case=OTHER)], tmp_path / "added")
    assert added.exit_status == 0
    assert any(line.startswith("new: speed.Speed.time_call") and OTHER.id in line for line in added.lines)


def two_of(results, folder):
    export(results, folder)
    return check(folder, commit(0), commit(1))


# --- several exports


def test_a_second_export_keeps_the_cases_of_the_first(tmp_path):
    """Two equal machines, one results file each: the newer result of a case counts, whichever was exported first."""
    export([run(0, size=1, created="2026-01-02T00:00:00+00:00"), run(0, case=OTHER, size=2)], tmp_path)
    export([run(0, size=3, created="2026-01-01T00:00:00+00:00")], tmp_path)

    assert cell(read(tmp_path)[commit(0)], "artifact_size") == {repr(CASE.id): 1, repr(OTHER.id): 2}
    export([run(0, size=4, created="2026-01-03T00:00:00+00:00", latencies_s=())], tmp_path)
    found = read(tmp_path)[commit(0)]
    assert cell(found, "artifact_size") == {repr(CASE.id): 4, repr(OTHER.id): 2}
    assert set(cell(found, "latency")) == {repr(CASE.id), repr(OTHER.id)}
    assert cell(found, "latency", "stats")[repr(OTHER.id)]["repeat"] == 77


def test_an_export_of_an_older_version_has_one_time_for_all_cases(tmp_path):
    export([run(0, case=OTHER, size=2)], tmp_path)
    (path,) = (tmp_path / "quantkit-m1").glob("*-quantkit.json")
    content = json.loads(path.read_text())
    del content["quantkit_measured"]
    path.write_text(json.dumps(content))

    export([run(0)], tmp_path)

    assert len(cell(read(tmp_path)[commit(0)], "artifact_size")) == 2


def test_a_damaged_export_is_said(tmp_path):
    (path,) = export([run(0)], tmp_path).files
    for text in ("{", "[]", '{"commit_hash": "x"', f'{{"commit_hash": "{commit(0)}", "results": {{"a": [1]}}}}'):
        path.write_text(text)
        with pytest.raises(CorruptFile, match="cannot be read"):
            export([run(0)], tmp_path)


# --- the benchmarks of this repository


def test_benchmarks_and_bridge_use_one_set_of_names(monkeypatch):
    """What asv discovers in benchmarks/history is what the bridge writes: names, kinds, units, versions."""
    from asv_runner._aux import update_sys_path
    from asv_runner.discovery import disc_benchmarks

    folder = str(ROOT / "benchmarks" / "history")
    update_sys_path(folder)

    found = {b.name: b for b in disc_benchmarks(folder)}

    assert set(found) == {kind.benchmark for kind in KINDS.values()}
    for kind in KINDS.values():
        benchmark = found[kind.benchmark]
        assert (benchmark.type, benchmark.version, benchmark.param_names) == (kind.type, VERSION, ["case"])
        assert benchmark.unit == {"s": "seconds", "B": "bytes", "1": "", "nat": "nat"}[kind.unit], kind.name


def test_benchmarks_have_the_plans_cases(monkeypatch):
    """The same ids as pytest's; a smaller or larger choice by one variable."""
    from quantkit.pipeline.plan import plan

    monkeypatch.setenv(
        "QUANTKIT_HISTORY", "models=fmnist_cnn methods=fp32,int8_static backends=onnxruntime targets=cpu"
    )
    import importlib.util

    spec = importlib.util.spec_from_file_location("history_common", ROOT / "benchmarks" / "history" / "common.py")
    common = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(common)

    cells = plan(["fmnist_cnn"], ["fp32", "int8_static"], backends=["onnxruntime"], targets=["cpu"])
    assert list(common.planned()) == [c.case.id for c in cells]
    assert common.planned()["fmnist_cnn-fp32-onnxruntime-cpu"] == Case("fmnist_cnn", "fp32", "onnxruntime", "cpu")
    monkeypatch.setenv("QUANTKIT_HISTORY", "modles=x")
    with pytest.raises(InvalidSetting, match="modles"):
        common.asked()


@pytest.mark.slow
def test_asv_runs_each_commits_own_code(tmp_path, monkeypatch):
    """A repository of two commits, `asv run` of both with our environment: each gave the number of its own code."""
    folder, hashes = repository(tmp_path / "repo", 2)
    bench = folder / "bench"
    bench.mkdir()
    (bench / "__init__.py").write_text("")
    (bench / "own.py").write_text("import code_of_commit\n\ndef track_number():\n    return code_of_commit.number\n")
    config = {
        "version": 1, "project": "stand", "repo": ".", "branches": ["main"], "dvcs": "git",
        "plugins": [".quantkit.history.asv_checkout"], "environment_type": "checkout", "benchmark_dir": "bench",
        "env_dir": "env", "results_dir": "results", "html_dir": "html",
    }  # fmt: skip
    (folder / "asv.conf.json").write_text(json.dumps(config))
    monkeypatch.setenv("HOME", str(tmp_path))
    for words in (["machine", "--yes"], ["run", "main"]):
        done = subprocess.run([sys.executable, "-m", "asv", *words], cwd=folder, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr

    found = {result.commit_hash: result for result in results_api.iter_results(str(folder / "results"))}

    assert {h: r.get_result_value("own.track_number", [])[0] for h, r in found.items()} == {hashes[0]: 0, hashes[1]: 1}
    assert {r.env_name for r in found.values()} == {f"checkout-py{sys.version_info[0]}.{sys.version_info[1]}"}
    (machine,) = {path.parent.name for path in (folder / "results").glob("*/machine.json")}
    assert check(folder / "results", hashes[1], hashes[0], machine=machine).exit_status == 0
    assert check(folder / "results", hashes[0], hashes[1], machine=machine).exit_status == 1  # from 0 to 1

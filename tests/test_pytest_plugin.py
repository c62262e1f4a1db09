"""`pytest benchmarks` as a user types it, on the toy toolchain: options, markers, exit status, table, JSON."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from quantkit.environment import apple_silicon
from quantkit.pipeline.store import Store

ROOT = Path(__file__).resolve().parent.parent
TOY = ["--models", "tiny_plane", "--backends", "grid", "--items", "400", "--rounds", "2"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """One cache and one results file for the whole module: later calls reuse what earlier ones measured."""
    return tmp_path_factory.mktemp("benchmarks")


def bench(place, *arguments, **environment):
    """Run `pytest benchmarks` in a process of its own; return exit status and output."""
    settings = {"QUANTKIT_PLUGINS": str(ROOT / "tests" / "plugins"), "QUANTKIT_HOME": str(place / "home")}
    settings |= {"QUANTKIT_RESULTS": str(place / "results.db"), "COLUMNS": "200"}
    settings |= {"TMPDIR": str(place)} | environment  # locks of its own: no waiting for a run in another terminal
    command = [sys.executable, "-m", "pytest", "benchmarks", "-p", "no:cacheprovider", *arguments]
    ours = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_XDIST")}
    done = subprocess.run(command, cwd=ROOT, env=ours | settings, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


def test_a_run_ends_in_a_table_and_in_pytest_benchmarks_json(place):
    status, text = bench(place, *TOY, "--methods", "fp32,int8_static", f"--benchmark-json={place / 'out.json'}")

    assert status == 0, text
    assert "2 passed" in text
    assert "tiny_plane on cpu: top1_accuracy (higher is better), 400 items" in text
    assert "results: " in text
    entries = json.loads((place / "out.json").read_text())["benchmarks"]
    assert [entry["param"] for entry in entries] == ["tiny_plane-fp32-grid-cpu", "tiny_plane-int8_static-grid-cpu"]
    for entry in entries:
        assert len(entry["stats"]["data"]) == entry["stats"]["rounds"] >= 6
        assert entry["stats"]["median"] > 0
        assert 0.9 < entry["extra_info"]["quality"] <= 1


@pytest.mark.skipif(apple_silicon(), reason="this machine has the unit")
def test_a_unit_that_is_not_here_is_judged_and_not_timed(place):
    """Off a Mac `-m ane` builds, gives size and quality, and says why there is no speed; unasked it is left out."""
    methods = ["--methods", "fp32,int8_static"]
    status, text = bench(place, *TOY, *methods, "-m", "ane", f"--benchmark-json={place / 'ane.json'}")
    plain = bench(place, *TOY, *methods)[1]

    assert status == 0, text
    assert "2 passed" in text
    assert "tiny_plane on ane: top1_accuracy" in text
    assert "speed and memory on ane unavailable: needs macOS on Apple silicon" in text
    found = {
        result.case.method: result for result in Store(place / "results.db").newest() if result.case.target == "ane"
    }
    assert found["int8_static"].measurements["latency"].reason == "needs macOS on Apple silicon"
    assert found["int8_static"].measurements["artifact_size"].values[0] > 0
    assert len(found["int8_static"].outcomes) == 400
    assert "2 cases cannot be timed here and were left out" in plain
    assert "tiny_plane on ane" not in plain


def test_the_second_run_measures_nothing(place):
    bench(place, *TOY, "--methods", "fp32,int8_static")
    status, text = bench(place, *TOY, "--methods", "fp32,int8_static")

    assert status == 0
    assert "everything was stored already" in text
    assert "built" not in text


def test_what_ran_and_cannot_any_more_is_stored_as_such(tmp_path):
    """Else a gate over the results file would pass on what an older version could do."""
    methods = ["--methods", "fp32,int8_static", "--rounds", "0", "--targets", "cpu"]
    assert bench(tmp_path, *TOY, *methods)[0] == 0
    shutil.copytree(ROOT / "tests" / "plugins", tmp_path / "plugins")
    backend = tmp_path / "plugins" / "backends" / "grid.py"
    code = backend.read_text()
    backend.write_text(
        code.replace("        return (\n", '        return "broken now" if case.method != "fp32" else (\n', 1)
    )

    status, text = bench(tmp_path, *TOY, *methods, QUANTKIT_PLUGINS=str(tmp_path / "plugins"))

    assert status == 0 and "1 passed, 1 skipped" in text, text
    found = {result.case.method: result for result in Store(tmp_path / "results.db").newest()}
    assert found["fp32"].status == "ok"
    assert (found["int8_static"].status, found["int8_static"].reason) == ("unsupported", "broken now")


def test_markers_and_names_choose(place):
    status, text = bench(place, *TOY, "--collect-only", "-q", "-m", "vision and cpu", "-k", "int8")

    assert status == 0
    assert "tiny_plane-int8_dynamic-grid-cpu" in text
    assert "fp32" not in text
    assert bench(place, *TOY, "--collect-only", "-q", "-m", "llm")[0] == 5


def test_an_unknown_name_is_a_usage_error_with_a_hint(place):
    status, text = bench(place, "--methods", "int8_statik")

    assert status == 4
    assert "no method named 'int8_statik'. Did you mean 'int8_static'?" in text
    assert "Traceback" not in text


def test_nothing_measured_is_5_with_the_reason(place):
    status, text = bench(place, "--models", "fmnist_cnn", "--backends", "grid", "-rs")

    assert status == 5
    assert "grid takes Linear layers only" in text


def test_a_case_that_crashed_fails_alone_with_one_line(place):
    status, text = bench(place, *TOY, "--methods", "fp32,breaking", TINY_BREAKS="abort")

    assert status == 1
    assert "1 failed, 1 passed" in text
    assert "tiny_plane-breaking-grid-cpu failed: crashed: killed by SIGABRT" in text
    assert "Traceback" not in text


def test_a_loss_is_a_finding_and_with_a_gate_a_failure(place):
    """Two bits leave three levels for a weight: over one point is lost, and 2,000 items prove that it is a loss."""
    method = place / "plugins" / "methods"
    method.mkdir(parents=True)
    (method / "two_bits.py").write_text(
        "from quantkit.methods._uniform import Uniform\nfrom quantkit.scheme import Scheme\n"
        "plugin = Uniform('two_bits', 'two bits', Scheme(bits=2))\n"
    )
    plugins = os.pathsep.join([str(ROOT / "tests" / "plugins"), str(place / "plugins")])
    arguments = [*TOY, "--items", "2000", "--methods", "fp32,two_bits"]

    assert bench(place, *arguments, QUANTKIT_PLUGINS=plugins)[0] == 0
    status, text = bench(place, *arguments, "--gate", "0.01", QUANTKIT_PLUGINS=plugins)

    assert status == 1
    assert "gate: tiny_plane-two_bits-grid-cpu: quality: regression: top1_accuracy lost" in text
    assert "1 failed, 1 passed" in text


def test_a_gate_without_its_baseline_is_named(place):
    bench(place, *TOY, "--methods", "fp32")
    status, text = bench(place, *TOY, "--methods", "fp32", "--gate", str(place / "main.db"))

    assert status == 2
    assert "no baseline at" in text


def test_a_gate_works_without_the_baseline_being_selected(place):
    """The baseline is measured with it, shown, and judged against."""
    status, text = bench(place, *TOY, "--methods", "int8_static", "--gate", "0.0001")

    assert status == 3  # undecided is no pass
    assert "fp32" in text
    assert "int8_static" in text
    assert "inconclusive" in text


def test_a_results_file_that_is_none_is_refused_before_anything_runs(place):
    (place / "broken.db").write_text("no database" * 500)
    refused = bench(place, "--models", "fmnist_cnn", "--backends", "grid", "--results", str(place / "broken.db"))
    assert refused[0] == 2 and "INTERNALERROR" not in refused[1], "at its end, too, where every case is refused"
    status, text = bench(place, *TOY, "--results", str(place / "broken.db"))

    assert status == 2
    assert "is damaged" in text
    assert "Traceback" not in text


def test_other_suites_do_not_notice_the_plugin(tmp_path):
    (tmp_path / "test_other.py").write_text("def test_nothing():\n    pass\n")
    code = "import sys, pytest; pytest.main(['-q', sys.argv[1]]); sys.exit('torch' in sys.modules)"

    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, cwd=tmp_path)

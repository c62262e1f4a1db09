"""`pytest benchmarks --gate` and `quantkit gate` say the same of the same results, and end as scripts expect."""

import os
import shutil
import subprocess
import sys
from dataclasses import replace

import pytest

from quantkit.pipeline.store import Store
from quantkit.pytest_plugin import gate
from quantkit.records import Case
from tests.gate_stand import two_runs
from tests.test_pytest_plugin import ROOT, TOY, bench

TWO_BITS = (
    "from quantkit.methods._uniform import Uniform\nfrom quantkit.scheme import Scheme\n"
    "plugin = Uniform('coarse', 'coarse', Scheme(bits=2))\n"
)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """One cache and one results file; beside the toy toolchain a method that keeps two bits."""
    place = tmp_path_factory.mktemp("gate")
    (place / "plugins" / "methods").mkdir(parents=True)
    (place / "plugins" / "methods" / "coarse.py").write_text(TWO_BITS)
    return place


def plugins(place):
    return os.pathsep.join([str(ROOT / "tests" / "plugins"), str(place / "plugins")])


def command(place, *arguments):
    """Return exit status and lines of `quantkit gate` on the results that `bench` left."""
    settings = {"QUANTKIT_RESULTS": str(place / "results.db"), "QUANTKIT_PLUGINS": plugins(place)}
    done = subprocess.run(
        [sys.executable, "-m", "quantkit", "gate", *arguments], cwd=ROOT, env=os.environ | settings,
        capture_output=True, text=True,
    )  # fmt: skip
    return done.returncode, done.stdout.splitlines() + done.stderr.splitlines()


def words(text):
    """Return the gate's lines at the end of a run of pytest."""
    lines = text.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("gate: ") and line.count(":") == 1)
    return [lines[start], *(line for line in lines[start + 1 :] if line.startswith("  "))]


def test_against_full_precision(place):
    """2,000 items: two bits lose more than a point and less than twenty."""
    asked = [*TOY, "--items", "2000", "--methods", "fp32,coarse", "--rounds", "0"]

    for margin, status in (("0.01", 1), ("0.2", 0)):
        done, text = bench(place, *asked, "--gate", margin, QUANTKIT_PLUGINS=plugins(place))

        assert done == status, text
        assert command(place, "--margin", margin) == (status, words(text))


@pytest.mark.slow
def test_against_an_older_run_after_the_code_was_changed_and_changed_back(place):
    """Eight bits, then two, then eight again, from the store: the gate passes, and so does the command."""
    method, asked = place / "plugins" / "methods" / "coarse.py", [*TOY, "--items", "2000", "--methods", "coarse"]
    (place / "results.db").unlink(missing_ok=True)
    ends = []
    for bits in ("8", "2", "8"):
        method.write_text(TWO_BITS.replace("bits=2", f"bits={bits}"))
        gate = ["--gate", str(place / "older.db")] if ends else []
        ends.append(bench(place, *asked, "--rounds", "0", *gate, QUANTKIT_PLUGINS=plugins(place)))
        if not gate:
            shutil.copy(place / "results.db", place / "older.db")

    assert [status for status, _ in ends] == [0, 1, 0], ends[-1][1]
    assert "everything was stored already" in ends[2][1]
    status, lines = command(place, "--baseline", str(place / "older.db"))
    assert (status, lines[0]) == (0, "gate: pass")
    assert words(ends[1][1])[0] == "gate: regression"


SMALL_MATRIX = (
    "from quantkit.pipeline.plan import plan\nfrom quantkit.pytest_plugin import options\n"
    "def planned(config):\n"
    "    return plan(['tiny_plane'], ['fp32', 'int8_static'], backends=['grid'], targets=['cpu'])\n"
    "options.planned = planned\n"
)


@pytest.mark.slow
def test_a_case_that_is_gone_is_no_pass_unless_cases_were_chosen(place):
    """The older run has `coarse` too. This suite's whole matrix has not: as if its file were deleted."""
    results, older = place / "results.db", place / "more.db"
    results.unlink(missing_ok=True)
    asked = [*TOY, "--targets", "cpu", "--rounds", "0"]
    done, text = bench(place, *asked, "--methods", "fp32,int8_static,coarse", QUANTKIT_PLUGINS=plugins(place))
    assert done == 0, text
    results.rename(older)
    (place / "small_matrix.py").write_text(SMALL_MATRIX)
    whole = ["-p", "small_matrix", "--items", "400", "--rounds", "0", "--gate", str(older)]
    where = {"QUANTKIT_PLUGINS": plugins(place), "PYTHONPATH": str(place)}

    unasked, said = bench(place, *whole, **where)
    by_workers, also_said = bench(place, *whole, "-n", "2", **where)
    chosen, noted = bench(place, *whole, "-k", "fp32 or int8", **where)

    assert (unasked, by_workers, chosen) == (3, 3, 0), said + also_said + noted
    assert words(said)[0] == words(also_said)[0] == "gate: inconclusive"
    assert words(said)[1].startswith("  tiny_plane-coarse-grid-cpu: run: refused: the baseline has figures of it")
    assert "  1 case of the baseline not measured here" in words(noted)
    status, lines = command(place, "--baseline", str(older))
    assert (status, lines[:2]) == (3, words(said)[:2])
    assert command(place, "--baseline", str(older), "--accept-missing")[0] == 0


@pytest.mark.parametrize(
    ("options", "args", "expected"),
    [({}, ["benchmarks"], False), ({"profile": "full"}, ["benchmarks"], False), ({"keyword": "int8"}, [], True),
     ({"markexpr": "vision"}, [], True), ({"models": "m"}, [], True), ({"targets": "cpu"}, [], True),
     ({"deselect": ["a"]}, [], True), ({"lf": True}, [], True), ({}, ["benchmarks/test_matrix.py::test_case"], True)],
)  # fmt: skip
def test_what_is_a_choice_of_cases(options, args, expected):
    class Config:
        def getoption(self, name, default=None):
            return options.get(name, default)

    config = Config()
    config.args = args

    assert gate.chosen(config) is expected


def test_an_error_ends_with_2_and_what_was_typed_wrong_with_4(place):
    """`quantkit gate` ends these with 2, too; 3 is kept for what is undecided."""
    (place / "torn.db").write_bytes(b"PK")
    ends = {
        ("--gate", "nowhere.db"): (2, "no baseline at nowhere.db"),
        ("--gate", str(place / "torn.db")): (2, "is no results file"),
        ("--results", str(place / "torn.db")): (2, "torn.db"),
        ("--gate", "nan"): (4, "a margin is a share between 0 and 1"),
    }
    for asked, (status, said) in ends.items():
        done, text = bench(place, *TOY, "--methods", "fp32", "--rounds", "0", *asked)

        assert done == status, text
        assert said in text
        assert "Traceback" not in text


def test_a_run_that_was_ended_early_has_no_verdict(place):
    """Its first groups may all have passed."""
    lines, status = gate.Gate("0.01", place / "none.db").ending([], pytest.ExitCode.INTERRUPTED)

    assert (lines, status) == (["gate: error: the run was ended early, and there is no verdict"], 2)


def test_what_the_plan_refuses_now_stands_in_the_way(tmp_path):
    now, then = two_runs()
    lost = replace(then, case=Case("m", "half", "b", "cpu"))
    for result in (then, lost):
        Store(tmp_path / "main.db").add(result)
    judged = gate.Gate(str(tmp_path / "main.db"), tmp_path / "results.db", chosen=True)

    lines, status = judged.ending([now], 0, [(lost.case, "needs an older library")])

    assert status == 3
    assert "it ran in the baseline and is unsupported now: needs an older library" in lines[1]

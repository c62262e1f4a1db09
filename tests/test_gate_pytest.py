"""`pytest benchmarks --gate` and `quantkit gate` say the same of the same results, and end as scripts expect."""

import os
import shutil
import subprocess
import sys

import pytest

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

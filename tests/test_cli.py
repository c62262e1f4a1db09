"""The command line: thin, quick to start, one line for an error, exit statuses a script can use."""

import json
import os
import subprocess
import sys

import pytest

from quantkit import cli
from quantkit.pipeline.store import Store
from quantkit.records import Case, Result
from tests.test_conclude import result

COMMANDS = cli.COMMANDS


@pytest.fixture
def stored(home):
    """Results of a baseline and two candidates: one keeps its quality, one does not."""
    store = Store(home / "results.db")
    for one in (result("fp32", right=1_900), result("good", right=1_900), result("bad", right=1_700)):
        store.add(one)
    return store


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_examples(capsys, command):
    with pytest.raises(SystemExit) as left:
        cli.main([command, "--help"])

    assert left.value.code == 0
    assert f"quantkit {command}" in capsys.readouterr().out.partition("examples:")[2]


def test_a_terminal_without_our_dashes_gets_its_table(stored):
    """Sizes are not stored here: the table has an en dash for them."""
    code = f"import sys; from quantkit import cli; sys.exit(cli.main(['show', '--results', {str(stored.path)!r}]))"
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)

    assert done.returncode == 0 and done.stderr == ""
    assert "? / ? / ?" in done.stdout


def test_help_imports_nothing_heavy():
    code = "import sys; from quantkit import cli\ntry: cli.main(['--help'])\nexcept SystemExit: pass\n"
    code += "sys.exit(bool({'torch', 'numpy', 'scipy', 'pytest'} & set(sys.modules)))"

    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


def test_list_and_plan_import_no_toolchain():
    code = "import sys; from quantkit import cli; cli.main(['list']); cli.main(['plan'])\n"
    code += "sys.exit(bool({'torch', 'onnxruntime', 'transformers'} & set(sys.modules)))"

    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


def test_list_names_every_family(capsys):
    assert cli.main(["list"]) == 0

    said = capsys.readouterr().out
    for name in ("fmnist_cnn", "int8_static", "onnxruntime", "simulated", "quality", "fashion_mnist"):
        assert name in said


def test_an_unknown_name_is_one_line_and_status_2(capsys):
    assert cli.main(["plan", "--models", "fmnist_cmm"]) == 2

    said = capsys.readouterr().err
    assert said.startswith("quantkit: no model named 'fmnist_cmm'. Did you mean 'fmnist_cnn'?")
    assert said.count("\n") == 1


def test_plan_says_why_a_case_cannot_run(capsys, plugins):
    assert cli.main(["plan", "--models", "fmnist_cnn", "--backends", "grid"]) == 3

    assert "skip: grid takes Linear layers only" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "status", "word"),
    [(["--margin", "0.2"], 0, "pass"), ([], 1, "regression"), (["--margin", "0.0001"], 1, "regression")],
)
def test_gate(capsys, stored, arguments, status, word):
    assert cli.main(["gate", *arguments]) == status

    assert capsys.readouterr().out.startswith(f"gate: {word}")


def test_gate_with_nothing_to_gate_is_3(capsys, home):
    Store(home / "results.db").add(result("fp32"))

    assert cli.main(["gate"]) == 3
    assert "nothing was gated" in capsys.readouterr().out


def test_gate_without_results_is_3(capsys, home):
    assert cli.main(["gate"]) == 3
    assert "measure first" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["--margin", "0"], ["--margin", "5"], ["--baseline", "none.db"]])
def test_gate_with_a_senseless_question_is_2(capsys, stored, arguments):
    assert cli.main(["gate", *arguments]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_gate_of_results_against_themselves_is_2(capsys, stored):
    assert cli.main(["gate", "--baseline", str(stored.path)]) == 2
    assert "holds the results themselves" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [["--rounds", "1"], ["--items", "0"], ["--items", "-3"], ["--threads", "0"], ["--time-limit", "nan"],
     ["--memory-limit", "0"], ["--models", ""], ["--profile", "fats"]],
    ids=" ".join,
)  # fmt: skip
def test_senseless_settings_are_one_line_and_nothing_runs(capsys, home, arguments):
    assert cli.main(["run", *arguments]) == 2

    said = capsys.readouterr().err
    assert said.startswith("quantkit: ")
    assert said.count("\n") == 1
    assert not (home / "home").exists()


def test_gate_against_another_run(capsys, stored, home):
    older = Store(home / "older.db")
    older.add(result("bad", right=1_900))

    assert cli.main(["gate", "--baseline", str(home / "older.db")]) == 1
    assert "m-bad-b-cpu: quality: regression" in capsys.readouterr().out


def test_compare_two_stored_cases(capsys, stored):
    assert cli.main(["compare", "m-fp32-b-cpu", "m-good-b-cpu"]) == 0

    said = capsys.readouterr().out
    assert "quality: pass" in said
    assert "times as fast: faster" in said
    assert cli.main(["compare", "m-fp32-b-cpu", "m-god-b-cpu"]) == 2
    assert "Did you mean 'm-good-b-cpu'?" in capsys.readouterr().err


def test_show_as_table_markdown_and_json(capsys, stored):
    assert cli.main(["show"]) == 0
    assert "m on cpu: top1_accuracy" in capsys.readouterr().out
    assert cli.main(["show", "--format", "markdown"]) == 0
    assert "| fp32 |" in " ".join(capsys.readouterr().out.split())
    assert cli.main(["show", "--format", "json"]) == 0
    assert {entry["case"]["method"] for entry in json.loads(capsys.readouterr().out)} == {"fp32", "good", "bad"}
    assert cli.main(["show", "m-bad-b-cpu"]) == 0
    assert json.loads(capsys.readouterr().out)["status"] == "ok"


def test_a_failed_case_keeps_the_gate_undecided(capsys, stored):
    stored.add(Result(Case("m", "bad", "b", "cpu"), "failed", "crashed"))

    assert cli.main(["gate"]) == 3
    assert "m-bad-b-cpu: run: refused: failed: crashed" in capsys.readouterr().out

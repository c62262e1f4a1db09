"""`quantkit gate` as a script calls it: exit status, the files it writes, and what it refuses to read."""

import sqlite3
from dataclasses import replace
from xml.etree import ElementTree

import pytest

from quantkit import cli
from quantkit.conclude.gate import Check, Gate
from quantkit.conclude.gate_junit import junit
from quantkit.conclude.gate_markdown import markdown
from quantkit.pipeline.store import Store
from quantkit.records import Case, Result
from quantkit.stats.interval import Estimate
from tests.gate_stand import two_runs

CASE = Case("m", "int8_static", "b", "cpu")
ONE_OF_EACH = (
    Check(
        CASE,
        "quality",
        "regression",
        "lost 10",
        "use more bits",
        Estimate(0.1, 0.08, 0.12, 0.9),
        0.01,
        "pt",
        2_000,
        0.004,
    ),
    Check(
        CASE,
        "latency",
        "inconclusive",
        "+3.0% [-2.0%, +9.0%]",
        "decide it live",
        Estimate(0.03, -0.02, 0.09, 0.95),
        0.05,
    ),
    Check(Case("n", "half", "b", "cpu"), "memory", "refused", "another machine", "measure it there"),
    Check(CASE, "size", "pass", "the same"),
    Check(Case("n", "fp32", "b", "cpu"), "run", "new", "not in the baseline"),
)


@pytest.fixture
def runs(home):
    """Two results files of one case, main.db and results.db, that differ in what a test changes."""

    def write(now=None, then=None):
        later, earlier = two_runs(now=now, then=then)
        Store(home / "results.db").add(replace(later, created="2026-11-22T11:00:00+00:00"))
        Store(home / "main.db").add(replace(earlier, created="2026-11-22T10:00:00+00:00"))
        return ["gate", "--baseline", str(home / "main.db")]

    return write


@pytest.mark.parametrize(
    ("now", "status", "line"),
    [
        ({}, 0, "gate: pass"),
        ({"right": 1_700}, 1, "m-int8_static-b-cpu: quality: regression: top1_accuracy lost +15.00 pt"),
        ({"latency_s": 0.004}, 1, "m-int8_static-b-cpu: latency: regression: +100.0%"),
        ({"peaks": (200 * 2**20,) * 7}, 1, "m-int8_static-b-cpu: memory: regression: +100.0%"),
        ({"size": 2_000_000}, 1, "m-int8_static-b-cpu: size: regression: 1,000,000 became 2,000,000 bytes"),
        ({"right": 1_982}, 3, "m-int8_static-b-cpu: quality: inconclusive: top1_accuracy lost +0.90 pt"),
    ],
    ids=["nothing", "quality", "latency", "memory", "size", "undecided"],
)
def test_each_regression_is_found_and_named(capsys, runs, now, status, line):
    assert cli.main(runs(now=now)) == status

    assert line in capsys.readouterr().out


@pytest.mark.parametrize(
    ("limit", "now"),
    [("--max-slowdown", {"latency_s": 0.0025}), ("--max-memory-growth", {"peaks": (125 * 2**20,) * 7}),
     ("--max-size-growth", {"size": 1_250_000})],
)  # fmt: skip
def test_each_limit_is_its_own(runs, limit, now):
    """A quarter more is too much by default, and not where 0.3 is allowed."""
    command = runs(now=now)

    assert cli.main(command) == 1
    assert cli.main([*command, limit, "0.3"]) == 0
    assert cli.main([*command, limit, "0"]) == 2


def test_markdown_junit_and_the_step_summary_say_the_same(capsys, runs, home, monkeypatch):
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(home / "summary.md"))
    (home / "summary.md").write_text("said before\n")
    files = ["--markdown", str(home / "gate.md"), "--junit", str(home / "gate.xml"), "--step-summary"]

    assert cli.main([*runs(now={"right": 1_700}), *files]) == 1

    text = (home / "gate.md").read_text()
    assert text.startswith("## quantkit gate: regression\n")
    assert "+15.00 pt [" in text
    assert "| 2000 |" in text
    assert (home / "summary.md").read_text() == "said before\n" + text
    assert ElementTree.parse(home / "gate.xml").find(".//failure").get("type") == "regression"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "the older run has not written it, because it failed or has none of these cases"),
        (b"", "is empty: the older run has not finished"),
        (b"PK\x03\x04 a zip", "is no results file (it is no SQLite database)"),
        ("tables", "is no results file (it has no table 'results')"),
        ("none", "holds no result"),
        ("torn", "is damaged"),
    ],
)
def test_a_baseline_that_is_none_is_refused_and_the_files_say_so(capsys, runs, home, content, said):
    command, baseline = runs(), home / "main.db"
    if isinstance(content, bytes):
        baseline.write_bytes(content)
    elif content == "torn":
        baseline.write_bytes(baseline.read_bytes()[:9_000])
    else:
        baseline.unlink()
    if content == "none":
        Store(baseline)
    if content == "tables":
        sqlite3.connect(baseline).execute("CREATE TABLE other (a)").connection.commit()

    status = cli.main([*command, "--markdown", str(home / "gate.md"), "--junit", str(home / "gate.xml")])

    told = capsys.readouterr().err
    assert status == 2
    assert said in told
    assert told.count("\n") == 1
    assert "## quantkit gate: error" in (home / "gate.md").read_text()
    assert ElementTree.parse(home / "gate.xml").find(".//error") is not None


def test_a_step_summary_outside_of_a_runner_is_refused_before_anything(capsys, runs, monkeypatch):
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)

    assert cli.main([*runs(), "--step-summary"]) == 2
    assert "--markdown FILE" in capsys.readouterr().err


def test_a_place_that_cannot_be_written_is_an_error_and_no_verdict(capsys, runs, home):
    (home / "file").write_text("")

    assert cli.main([*runs(), "--markdown", str(home / "file" / "gate.md")]) == 2
    assert "cannot write" in capsys.readouterr().err


def test_every_word_has_its_element_and_the_suites_count_them():
    """Two models: two suites; regression is a failure, refused an error, inconclusive and new are skipped."""
    suites = ElementTree.fromstring(junit(Gate("regression", ONE_OF_EACH, ("a note",), "2026-11-22T11:00:00+00:00")))

    counts = [{k: suite.get(k) for k in ("tests", "failures", "errors", "skipped")} for suite in suites]
    assert counts == [
        {"tests": "3", "failures": "1", "errors": "0", "skipped": "1"},
        {"tests": "2", "failures": "0", "errors": "1", "skipped": "1"},
    ]
    assert {case.get("name") for case in suites.iter("testcase")} == {f"{c.case.id} {c.name}" for c in ONE_OF_EACH}
    failure = suites.find(".//failure")
    assert failure.get("message") == "lost 10"
    assert failure.text == "m-int8_static-b-cpu: quality: regression: lost 10; use more bits"
    assert suites[0].get("timestamp") == "2026-11-22T11:00:00"


def test_the_file_has_the_order_and_the_attributes_that_the_schema_of_ant_asks_for():
    """JUnit.xsd of Ant's task: properties, test cases, system-out, system-err; each attribute below is required."""
    suites = ElementTree.fromstring(junit(Gate("regression", ONE_OF_EACH)))

    assert suites.attrib == {}
    for number, suite in enumerate(suites):
        tags = [element.tag for element in suite]
        assert tags == ["properties", *["testcase"] * (len(tags) - 3), "system-out", "system-err"]
        needed = {"name", "timestamp", "hostname", "tests", "failures", "errors", "time", "package", "id"}
        assert needed <= set(suite.attrib) <= needed | {"skipped"}
        assert suite.get("id") == str(number)
        for case in suite.iter("testcase"):
            assert set(case.attrib) == {"name", "classname", "time"}
            assert all("type" in told.attrib for told in case)


def test_another_parser_reads_the_junit_file(tmp_path):
    junitparser = pytest.importorskip("junitparser", reason="junitparser is not installed (extra dev)")
    (tmp_path / "gate.xml").write_bytes(junit(Gate("regression", ONE_OF_EACH)))

    read = junitparser.JUnitXml.fromfile(str(tmp_path / "gate.xml"))

    kinds = [type(case.result[0]).__name__ if case.result else "passed" for suite in read for case in suite]
    assert sorted(kinds) == ["Error", "Failure", "Skipped", "Skipped", "passed"]
    read.update_statistics()
    assert (read.tests, read.failures, read.errors, read.skipped) == (5, 1, 1, 2)


def test_a_message_of_any_bytes_stays_xml_and_stays_in_its_cell():
    """A crash may print escape sequences, a path may hold a pipe or markup."""
    check = Check(CASE, "run", "refused", "crashed: \x1b[31m\x00 <b>a|b</b> & `c`\nsecond line")

    element = ElementTree.fromstring(junit(Gate("inconclusive", (check,)))).find(".//error")
    text = markdown(Gate("inconclusive", (check,)))

    assert "<b>a|b</b> & `c`" in element.get("message")
    row = next(line for line in text.splitlines() if line.startswith("| `m-int8"))
    assert row.replace("\\|", "").count("|") == 8
    assert "<b>" not in text


def test_markdown_says_what_regressed_by_how_much_on_what_data_and_what_to_do():
    text = markdown(Gate("regression", ONE_OF_EACH, ("a note",)))

    regressed = text.partition("### Regressed")[2].partition("###")[0]
    assert (
        "| `m-int8_static-b-cpu` | quality | +10.00 pt [+8.00, +12.00] | 1 pt | 2000 | 0.40 pt | lost 10 |" in regressed
    )
    assert "- use more bits (`m-int8_static-b-cpu`)" in regressed
    assert text.index("### Regressed") < text.index("### Cannot be compared") < text.index("### Not decided")
    assert "<details><summary>1 check passed</summary>" in text
    assert "- a note" in text


def test_a_long_table_is_cut_and_says_so():
    checks = tuple(Check(Case("m", f"x{i}", "b", "cpu"), "size", "regression", "grew") for i in range(250))

    text = markdown(Gate("regression", checks))

    assert text.count("| `m-x") == 200
    assert "and 50 more" in text


def test_a_message_commands_no_terminal_and_is_one_line(capsys, runs, home):
    """A process that crashes may have written colours, a bell, or a line that looks like a verdict."""
    command = runs()
    Store(home / "results.db").add(Result(CASE, "failed", "crashed: \x1b[31mred\x1b[0m\x07\x9b2J\ngate: pass"))

    assert cli.main([*command, "--markdown", str(home / "gate.md")]) == 3

    out, text = capsys.readouterr().out, (home / "gate.md").read_text()
    assert "failed: crashed: red2J gate: pass;" in out
    assert "crashed: red2J gate: pass" in text
    assert all(char.isprintable() for char in (out + text).replace("\n", ""))


@pytest.mark.parametrize(
    ("one", "other"),
    [("--markdown", "--junit"), ("--markdown", "--baseline"), ("--junit", "--results"), ("--markdown", "summary"),
     ("--markdown", "default"), ("--junit", "linked")],
)  # fmt: skip
def test_no_file_is_written_over_another(capsys, runs, home, monkeypatch, one, other):
    command = runs()
    (home / "link").symlink_to(home / "results.db")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(home / "a.md"))
    second = {
        "--junit": ("a.md", ["--junit", str(home / "sub" / ".." / "a.md")]),
        "--baseline": ("main.db", []),
        "--results": ("results.db", ["--results", str(home / "results.db")]),
        "summary": ("a.md", ["--step-summary"]),
        "default": ("results.db", []),
        "linked": ("link", []),
    }
    file, more = second[other]
    before = {name: (home / name).read_bytes() for name in ("main.db", "results.db")}

    assert cli.main([*command, one, str(home / file), *more]) == 2

    told = capsys.readouterr().err
    assert "are the same file" in told
    assert told.count("\n") == 1
    assert before == {name: (home / name).read_bytes() for name in before}
    assert not (home / "a.md").exists()


def test_what_is_missing_is_accepted_by_name(capsys, runs, home):
    command = runs()
    gone = replace(two_runs()[1], case=Case("m", "gone", "b", "cpu"), created="2026-11-22T10:00:00+00:00")
    Store(home / "main.db").add(gone)

    assert cli.main([*command, "--junit", str(home / "gate.xml")]) == 3
    assert "m-gone-b-cpu: run: refused" in capsys.readouterr().out
    assert "m-gone-b-cpu run" in {case.get("name") for case in ElementTree.parse(home / "gate.xml").iter("testcase")}
    assert cli.main([*command, "--accept-missing"]) == 0
    assert "1 case of the baseline not measured here" in capsys.readouterr().out


def test_one_of_a_thing_is_singular(capsys, runs):
    assert cli.main([*runs(), "--checks", "size"]) == 0
    assert "  1 check of 1 case passed\n" in capsys.readouterr().out


def test_a_failed_case_is_an_error_in_the_files(runs, home):
    command = runs()
    Store(home / "results.db").add(Result(CASE, "failed", "crashed: killed by SIGSEGV"))

    assert cli.main([*command, "--junit", str(home / "gate.xml")]) == 3
    assert "SIGSEGV" in ElementTree.parse(home / "gate.xml").find(".//error").get("message")

"""The workflows: pinned, narrow, linted, and their `run:` lines exercised on what a runner would give them."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.runner_stand import EXPRESSION, WORKFLOWS, Runner, workflow

NAMES = sorted(file.name for file in WORKFLOWS.glob("*.yml"))
each = pytest.mark.parametrize("name", NAMES)
PINNED = re.compile(r"[\w-]+/[\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+")
TOY = "--models tiny_plane --backends grid --methods fp32,int8_weight_only --items 2000"
PULL = {"github.token": "none", "github.repository": "o/r", "github.base_ref": "main"}
MAC = PULL | {"matrix.mac": "m1-mini"}


def steps(name):
    return [(job, step) for job in workflow(name)["jobs"].values() for step in job["steps"]]


def test_there_are_the_four():
    assert NAMES == ["check.yml", "gate.yml", "nightly.yml", "pages.yml"]


@each
def test_every_action_is_pinned_by_its_commit_and_says_its_version(name):
    used = re.findall(r"uses: *(.*)", (WORKFLOWS / name).read_text())

    assert used
    assert [line for line in used if not PINNED.fullmatch(line.strip())] == []


def test_one_action_has_one_commit_everywhere():
    used = {line.strip() for name in NAMES for line in re.findall(r"uses: *(.*)", (WORKFLOWS / name).read_text())}

    assert len({line.partition("@")[0] for line in used}) == len(used)


@each
def test_a_job_may_do_no_more_than_it_needs(name):
    """Nothing by default; reading for all; writing for the deployment of pages alone."""
    whole = workflow(name)

    assert whole["permissions"] == {}
    assert "concurrency" in whole
    for job, told in whole["jobs"].items():
        assert told["timeout-minutes"] <= 720
        writes = {right for right, level in told["permissions"].items() if level == "write"}
        assert writes == ({"pages", "id-token"} if (name, job) == ("pages.yml", "deploy") else set())


@each
def test_no_secret_and_no_trigger_that_gives_strangers_a_token(name):
    text = (WORKFLOWS / name).read_text()

    assert "secrets." not in text
    assert not {"pull_request_target", "workflow_run", "issue_comment"} & set(workflow(name)["on"])


@each
def test_machines_of_ones_own_never_run_a_pull_request(name):
    whole = workflow(name)

    own = [job for job in whole["jobs"].values() if "self-hosted" in str(job["runs-on"])]
    assert not own or "pull_request" not in whole["on"]
    assert bool(own) == (name == "nightly.yml")


@each
def test_scripts_hold_no_expressions_and_checkouts_no_token(name):
    """What comes from outside reaches a script as a variable, never as text of the script."""
    for _, step in steps(name):
        assert not EXPRESSION.search(step.get("run", ""))
        if "checkout" in step.get("uses", ""):
            assert step["with"]["persist-credentials"] is False


def linter(name):
    """Return a linter's path: beside this interpreter, or on the PATH."""
    found = shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)
    if not found:
        pytest.skip(f"{name} is not installed (extra dev)")
    return found


LINTERS = {"actionlint": ["-no-color"], "zizmor": ["--offline", "--no-progress", "--persona", "pedantic", "--quiet"]}
each_linter = pytest.mark.parametrize("name", LINTERS)


@each_linter
def test_linters_find_nothing(name):
    linter("shellcheck")  # actionlint asks it about the scripts
    files = [str(WORKFLOWS / file) for file in NAMES]

    done = subprocess.run([linter(name), *LINTERS[name], *files], capture_output=True, text=True)

    assert done.returncode == 0, done.stdout + done.stderr


@each_linter
def test_linters_would_find_something(name, tmp_path):
    """A title of a pull request in a script is the textbook hole."""
    (tmp_path / ".github" / "workflows").mkdir(parents=True)
    bad = tmp_path / ".github" / "workflows" / "bad.yml"
    bad.write_text(
        "on: pull_request\njobs:\n  a:\n    runs-on: ubuntu-24.04\n    steps:\n"
        "      - run: echo ${{ github.event.pull_request.title }}\n"
    )

    assert subprocess.run([linter(name), *LINTERS[name], str(bad)], capture_output=True).returncode != 0


linux = pytest.mark.skipif(sys.platform != "linux", reason="the runner's stand-in is made for Linux")


@pytest.fixture(scope="module")
def runner(tmp_path_factory):
    """A runner on which main's baseline was measured and kept by gate.yml's own job."""
    runner = Runner(tmp_path_factory.mktemp("runner"))
    done = runner.job("gate.yml", "baseline", BENCH_ARGS=f"{TOY} --rounds 0")
    assert done.success, done.output
    runner.keep("quantkit-baseline", "baseline/main.db")
    return runner


def measured(runner, kept=None):
    """Return what stands for the step "Measure" where a test is about another one: what main has measured."""
    file = (kept or runner.kept) / "quantkit-baseline" / "main.db"
    return {"only": ("Fetch the baseline", "Set up", "Gate"), "seed": {"results/pull.db": file}}


@linux
def test_the_check_runs_its_lines(runner):
    """The tests run for real on the one file that the clone has; make says what lint and types would run (-n)."""
    dry = runner.job("check.yml", "check", MAKEFLAGS="n")
    real = runner.job("check.yml", "check", only=("Tests",), TEST_ARGS="-q -k floor")

    assert dry.success
    assert dry.steps == ["Set up", "Lint, types, architecture", "Tests"]
    for command in ("ruff check .", "ruff format --check .", "bin/mypy", "tests/test_architecture.py"):
        assert command in dry.output
    assert "pytest tests -n 2 -q --durations=20" in dry.output
    assert real.success, real.output
    assert re.search(r"\d+ passed", real.output)


@linux
def test_a_pull_request_that_changes_nothing_passes(runner):
    done = runner.job("gate.yml", "gate", context=PULL, BENCH_ARGS=f"{TOY} --rounds 0")

    assert done.success, done.output
    assert done.steps == ["Fetch the baseline", "Set up", "Measure", "Gate"]
    assert done.summary.startswith("## quantkit gate: pass")
    assert "::notice title=gate::pass" in done.output
    asked = runner.log.read_text()
    assert "--branch main --event push --status success" in asked  # never what a pull request has uploaded


@linux
def test_a_pull_request_that_loses_accuracy_is_red_and_says_by_how_much(runner):
    """Two bits instead of eight, in the clone's own code."""
    method = runner.clone / "quantkit" / "methods" / "int8_weight_only.py"
    before = method.read_text()
    method.write_text(before.replace("Scheme(bits=8)", "Scheme(bits=2)"))

    done = runner.job("gate.yml", "gate", context=PULL, BENCH_ARGS=f"{TOY} --rounds 0")
    method.write_text(before)

    assert (done.success, done.status) == (False, 1), done.output
    assert "## quantkit gate: regression" in done.summary
    row = next(line for line in done.summary.splitlines() if "int8_weight_only" in line and "quality" in line)
    assert re.search(r"\+\d+\.\d\d pt \[\+\d.*\| 1 pt \| 2000 \|", row)
    assert (runner.clone / "gate.xml").is_file()


@linux
def test_what_cannot_be_decided_is_red(runner):
    """Latency is asked for and was not measured: exit status 3, an error on the page, a reason in the summary."""
    done = runner.job("gate.yml", "gate", context=PULL, **measured(runner), CHECKS="quality,latency")

    assert (done.success, done.status) == (False, 3)
    assert "::error title=gate::inconclusive is not a pass" in done.output
    assert "latency was measured in neither run" in done.summary


@linux
def test_a_pull_request_before_any_baseline_is_told_so(runner):
    """The first pull request of all: no run of main has finished yet."""
    instead = measured(runner, runner.kept.rename(runner.kept.with_name("away")))

    done = runner.job("gate.yml", "gate", context=PULL, **instead)
    runner.kept.with_name("away").rename(runner.kept)

    assert (done.success, done.status) == (False, 2)
    assert "::warning title=gate::no finished run of this workflow on main" in done.output
    assert "## quantkit gate: error" in done.summary
    assert "no baseline at baseline/main.db" in done.summary


@linux
def test_a_baseline_that_has_expired_is_told_as_one_that_is_not_there_yet(runner):
    mark = runner.kept / "quantkit-baseline" / "expired"
    mark.touch()

    done = runner.job("gate.yml", "gate", context=PULL, **measured(runner))
    mark.unlink()

    assert (done.success, done.status) == (False, 2)
    assert "::warning title=gate::the baseline that run 101 on main kept has expired" in done.output
    assert "no baseline at baseline/main.db" in done.summary


FETCHES = [
    ("gate.yml", "gate", "Fetch the baseline", PULL),
    ("nightly.yml", "macs", "Fetch the nights before", MAC),
    ("pages.yml", "build", "Fetch what the nights have measured", PULL),
]


@linux
@pytest.mark.parametrize(("name", "job", "step", "context"), FETCHES, ids=[row[0] for row in FETCHES])
def test_a_refused_download_is_no_missing_result(runner, name, job, step, context):
    """A runner that may not read is told so by gh, and not that nothing was kept."""
    done = runner.job(name, job, context=context, only=(step,), GH_REFUSES="yes")

    assert not done.success
    assert "HTTP 403" in done.output
    assert "::" not in done.output


@linux
def test_without_an_environment_the_gate_is_not_asked(runner):
    """Its status would be the shell's 127, and its word would point at a summary that nobody wrote."""
    stamp = runner.clone / ".venv" / ".quantkit-setup"
    stamp.unlink()

    done = runner.job("gate.yml", "gate", context=PULL, only=("Set up", "Measure", "Gate"))
    stamp.touch()

    assert not done.success
    assert done.steps == ["Set up"]


@linux
def test_a_night_with_a_failed_case_still_looks_back(runner):
    """The step that measured failed; what is stored is looked at all the same."""
    only = ("Set up", "Measure", "Look for regressions")
    seed = {"results/m1-mini.db": runner.kept / "quantkit-baseline" / "main.db"}

    done = runner.job("nightly.yml", "macs", context=MAC, only=only, seed=seed, FULL_ARGS="--profile none")

    assert done.steps == ["Set up", "Measure", "Look for regressions"]
    assert not done.success
    assert "tiny_plane-fp32-grid-cpu" in done.summary


@linux
def test_pages_find_main_from_another_branch(runner):
    """asv.conf.json names the branch main; a checkout of another one has it as origin/main only."""
    step, git = ("Find the branch main",), ["git", "-C", str(runner.clone)]
    for words in (["update-ref", "refs/remotes/origin/main", "HEAD"], ["switch", "-q", "-c", "other"]):
        subprocess.run([*git, *words], check=True)
    subprocess.run([*git, "branch", "-q", "-D", "main"], check=True)

    assert runner.job("pages.yml", "build", context=PULL, only=step).success
    assert runner.job("pages.yml", "build", context=PULL, only=step).success  # it is there already
    head = [subprocess.check_output([*git, "rev-parse", name]) for name in ("main", "origin/main")]
    assert head[0] == head[1]
    subprocess.run([*git, "switch", "-q", "main"], check=True)


def test_pages_are_not_built_where_no_night_can_keep_anything():
    """A morning without a Mac is no failure; the deployment waits for the page."""
    jobs = workflow("pages.yml")["jobs"]

    assert jobs["build"]["if"] == workflow("nightly.yml")["jobs"]["macs"]["if"] == "vars.QUANTKIT_MACS != ''"
    assert jobs["deploy"]["needs"] == "build"
    assert "if" not in jobs["deploy"]


@linux
@pytest.mark.slow
def test_a_night_measures_keeps_and_looks_back(runner):
    """The second night adds to the first one's results file."""
    args = "--models tiny_plane --backends grid --methods fp32 --items 200 --rounds 0 --fresh"
    first = runner.job("nightly.yml", "macs", context=MAC, FULL_ARGS=args)
    assert first.success, first.output
    runner.keep("nightly-m1-mini", "results/m1-mini.db")
    second = runner.job("nightly.yml", "macs", context=MAC, FULL_ARGS=args)

    assert "no earlier night of m1-mini is kept" in first.output
    assert "::warning title=nightly::nothing can be said over commits yet" in first.output
    assert second.success, second.output
    assert "no earlier night" not in second.output
    assert "tiny_plane-fp32-grid-cpu" in second.summary
    assert (runner.clone / "results" / "m1-mini.db").stat().st_size > (
        runner.kept / "nightly-m1-mini" / "m1-mini.db"
    ).stat().st_size


@linux
@pytest.mark.slow
def test_a_hosted_night_times_nothing(runner):
    done = runner.job(
        "nightly.yml", "hosted", context={"matrix.runner": "ubuntu-24.04"}, HOSTED_ARGS=f"{TOY} --rounds 0"
    )

    assert done.success, done.output
    assert (runner.clone / "results" / "ubuntu-24.04.db").is_file()


@linux
@pytest.mark.slow
def test_pages_are_built_from_what_the_nights_have_kept(runner):
    if not (Path(sys.executable).parent / "asv").exists():
        pytest.skip("asv is not installed (extra dev)")
    if not (runner.kept / "nightly-m1-mini").exists():
        pytest.skip("no night was measured before")

    done = runner.job("pages.yml", "build", context=PULL)

    assert done.success, done.output
    assert (runner.clone / ".asv" / "html" / "index.html").is_file()
    assert "tiny_plane on cpu" in done.summary


@linux
@pytest.mark.slow
def test_the_lines_for_another_repository_work(runner):
    """docs/gate.md, as it stands there; what is measured is the toy toolchain, and quantkit is installed already."""
    block = (WORKFLOWS.parents[1] / "docs" / "gate.md").read_text().rpartition("```yaml\n")[2].partition("```")[0]
    job = yaml.safe_load(f"steps:\n{block}".replace("\n    env:", "\nenv:"))
    own = (WORKFLOWS / "check.yml").read_text()
    assert all(line.strip().removeprefix("- ") in own for line in block.splitlines() if "uses:" in line)
    assert job["steps"][2]["run"] == "pip install 'quantkit[onnx] @ git+https://github.com/OWNER/quantkit@COMMIT'"
    del job["steps"][2]
    temp = runner.clone.parent / "temp"
    temp.mkdir()
    git = ["git", "update-ref", "refs/remotes/origin/main", "HEAD"]
    subprocess.run(git, cwd=runner.clone, check=True)
    env = {"CASES": f"{TOY} --rounds 0", "QUANTKIT_PLUGINS": "tests/plugins"}
    env |= {"RUNNER_TEMP": str(temp), "GITHUB_BASE_REF": "main", "GITHUB_WORKSPACE": str(runner.clone)}
    path = f"{Path(sys.executable).parent}:{runner.given['PATH']}"

    done = runner.run(job, env=env | {"PATH": path})

    assert done.success, done.output
    assert done.summary.startswith("## quantkit gate: pass")

    (temp / "base.db").unlink()  # the first pull request of a model: the base does not know its name
    subprocess.run(["git", "worktree", "remove", "--force", str(temp / "base")], cwd=runner.clone, check=True)
    job["steps"][3]["run"] = job["steps"][3]["run"].replace("$CASES", "--models my_net")
    new = runner.run(job, env=env | {"PATH": path})

    assert (new.success, new.status) == (False, 2), new.output
    assert new.steps[-1].startswith("quantkit gate")
    assert new.summary.startswith("## quantkit gate: error")
    assert "no baseline at" in new.summary

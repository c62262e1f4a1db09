"""What a GitHub runner gives to a job, as far as our workflows use it, on this machine.

A clone of the working tree with the environment of `make setup` in its place; `${{ }}` of `env:` filled in; a `gh` that
knows one kept artifact; the steps' `run:` lines under the shell and options that a runner takes (`bash -e`).
"""

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
WORKFLOWS = ROOT / ".github" / "workflows"
EXPRESSION = re.compile(r"\$\{\{\s*(.*?)\s*\}\}")
CLONED = ("Makefile", "pyproject.toml", "requirements.lock", "asv.conf.json", "conftest.py", "README.md", ".gitignore")
GH = """#!/bin/bash
# A stand-in for the runner's gh: `run list` names the one run that is kept, `run download` copies what it kept, `api`
# names its artifacts. GH_REFUSES: a runner that may not ask.
echo "$*" >> "$GH_LOG"
case "$1 $2" in
    "run list") [ -d "$GH_KEPT" ] && echo 101; exit 0 ;;
    "run download") ;;
    "api repos"*) [ -z "$GH_REFUSES" ] || { echo "gh: HTTP 403: not accessible by integration" >&2; exit 1; }
        asked=${2##*name=}
        for folder in "$GH_KEPT"/*; do
            name=${folder##*/}
            case "$2" in *name=*) [ "$name" = "$asked" ] || continue ;; *) [[ $name = nightly-* ]] || continue ;; esac
            [ -e "$folder/expired" ] || echo "$name"
        done
        exit 0 ;;
    *) echo "gh: unknown $*" >&2; exit 2 ;;
esac
while [ $# -gt 0 ]; do
    case $1 in --name | --pattern) name=$2 ;; --dir) to=$2 ;; esac
    shift
done
case $name in
    *\\**) mkdir -p "$to" && cp -r "$GH_KEPT"/$name "$to" ;;
    *)
        [ -d "$GH_KEPT/$name" ] || { echo "no artifact $name" >&2; exit 1; }
        mkdir -p "$to" && cp -r "$GH_KEPT/$name"/. "$to" ;;
esac
"""


def workflow(name):
    """Return a workflow as data; YAML 1.1 reads its key `on` as true, here it is `on` again."""
    raw = yaml.safe_load((WORKFLOWS / name).read_text())
    return {"on" if key is True else key: value for key, value in raw.items()}


@dataclass
class Done:
    """How a job ended: success, the steps that ran by name, all they printed, the step summary, outcomes by id."""

    success: bool = True
    steps: list = field(default_factory=list)
    output: str = ""
    summary: str = ""
    status: int = 0
    outcomes: dict = field(default_factory=dict)


class Runner:
    """One machine with one clone, on which jobs run one after the other."""

    def __init__(self, folder):
        self.clone, self.kept, self.log = folder / "clone", folder / "kept", folder / "gh.log"
        clone_into(self.clone)
        (folder / "bin").mkdir()
        (folder / "bin" / "gh").write_text(GH)
        (folder / "bin" / "gh").chmod(0o755)
        plugins = self.clone / "tests" / "plugins"
        self.given = {
            "PATH": f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}", "HOME": str(folder), "CI": "true",
            "LANG": "C.UTF-8", "GH_LOG": str(self.log), "GH_KEPT": str(self.kept), "QUANTKIT_PLUGINS": str(plugins),
            "QUANTKIT_HOME": str(folder / "cache"), "TMPDIR": str(folder),
            "QUANTKIT_DISTURBED": "keep",  # other tests run beside
        }  # fmt: skip

    def job(self, name, job, *, context=None, only=None, seed=None, **env):
        """Run the `run:` steps of a job (or `only` those named) as a runner would.

        Args:
            context: what `${{ }}` stands for.
            seed: path in the clone -> file that is put there first, instead of a step that is left out.
            env: replaces variables of the workflow.
        """
        whole = workflow(name)
        for left in ("results", "baseline", "night", ".asv", "gate.md", "gate.xml", "history.txt"):
            shutil.rmtree(self.clone / left, ignore_errors=True)  # each job has a fresh clone
            (self.clone / left).unlink(missing_ok=True)
        for place, file in (seed or {}).items():
            (self.clone / place).parent.mkdir(exist_ok=True)
            shutil.copy(file, self.clone / place)
        return self.run(whole["jobs"][job], whole.get("env"), context=context, only=only, env=env)

    def run(self, job, shared=None, *, context=None, only=None, env=None):
        """Run the `run:` steps of a job that is given as data; `shared`: the workflow's own variables."""
        summary = self.clone.parent / "summary.md"
        summary.write_text("")
        given = self.given | {"GITHUB_STEP_SUMMARY": str(summary), "GITHUB_OUTPUT": os.devnull}
        done = Done()
        for step in job["steps"]:
            if "run" not in step or (only and step["name"] not in only):
                continue
            if not wanted(str(step.get("if", "success()")), done):
                done.outcomes[step.get("id", "")] = "skipped"
                continue
            asked = (shared or {}) | (job.get("env") or {}) | (step.get("env") or {})
            filled = {key: fill(str(value), context or {}) for key, value in asked.items()}
            self._step(step, given | filled | (env or {}), done)
        done.summary = summary.read_text()
        return done

    def _step(self, step, env, done):
        ran = subprocess.run(
            ["bash", "-e", "-c", step["run"]], cwd=self.clone, env=env, capture_output=True, text=True, timeout=300
        )
        name = step.get("name", step["run"])
        done.steps.append(name)
        done.outcomes[step.get("id", name)] = "failure" if ran.returncode else "success"
        done.output += f"--- {name}\n{ran.stdout}{ran.stderr}"
        if ran.returncode:
            done.success, done.status = False, done.status or ran.returncode

    def keep(self, name, *files):
        """Keep files of the clone as an artifact, as actions/upload-artifact does."""
        (self.kept / name).mkdir(parents=True, exist_ok=True)
        for file in files:
            shutil.copy(self.clone / file, self.kept / name)


def wanted(condition, done):
    """Return whether a step runs: the conditions that our workflows have; a step left out by a test went well."""
    condition = condition.removeprefix("${{").removesuffix("}}").strip()
    parts = {part.strip() for part in condition.split("&&")}
    states = {"success()": done.success, "!cancelled()": True}
    states["steps.setup.outcome == 'success'"] = done.outcomes.get("setup", "success") == "success"
    return all(states[part] for part in parts)


def fill(text, context):
    """Return text with its expressions replaced; an unknown one is an error of the test, or of the workflow."""
    return EXPRESSION.sub(lambda found: context[found[1]], text)


def clone_into(folder):
    """Copy the working tree, make it a git checkout, and put this environment where `make setup` would."""
    if sys.prefix == sys.base_prefix or not (Path(sys.prefix) / "pyvenv.cfg").is_file():
        pytest.skip("the tests do not run in a virtual environment that could be lent to a clone")
    ignored = shutil.ignore_patterns("__pycache__", "assets")
    shutil.copytree(ROOT / "quantkit", folder / "quantkit", ignore=ignored)
    (folder / "quantkit" / "assets").symlink_to(ROOT / "quantkit" / "assets")
    for name in ("benchmarks", "tests/plugins", ".github"):
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    for name in ("tests/__init__.py", "tests/conftest.py", "tests/test_architecture.py"):
        shutil.copy(ROOT / name, folder / name)
    for name in CLONED:
        if (ROOT / name).exists():
            shutil.copy(ROOT / name, folder / name)
    (folder / "scripts").mkdir()
    (folder / "scripts" / "setup.sh").write_text("echo 'a clone under test must not install anything' >&2; exit 9\n")
    who = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    for words in (["init", "-q", "-b", "main"], ["add", "-A"], ["commit", "-q", "-m", "tree"]):
        subprocess.run(["git", *who, *words], cwd=folder, check=True, capture_output=True)
    (folder / ".venv").mkdir()
    for name in ("bin", "lib", "pyvenv.cfg"):
        (folder / ".venv" / name).symlink_to(Path(sys.prefix) / name)
    (folder / ".venv" / ".quantkit-setup").touch()  # newer than what it is made from: nothing is installed

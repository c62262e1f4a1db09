"""Every command that README and CONTRIBUTING show can be typed: the command line and pytest accept it as written."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from quantkit import cli

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "README.md").read_text() + (ROOT / "CONTRIBUTING.md").read_text()
BLOCKS = "\n".join(re.findall(r"^```(?:sh|console)\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL))
COMMANDS = [line.removeprefix("$ ").partition("  #")[0].strip() for line in BLOCKS.splitlines()]


def starting(word):
    return sorted({line for line in COMMANDS if line.startswith(word)})


@pytest.mark.parametrize("command", starting("quantkit "))
def test_quantkit_understands(command):
    words = shlex.split(command.partition(">")[0])[1:]

    assert cli.parser().parse_args(words).command


@pytest.mark.parametrize("command", starting("pytest "))
def test_pytest_collects(command):
    words = [sys.executable, "-m", *shlex.split(command), "--collect-only", "-q"]

    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)

    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("command", starting("make "))
def test_make_has_the_target(command):
    done = subprocess.run([*shlex.split(command), "--dry-run"], cwd=ROOT, capture_output=True, text=True)

    assert done.returncode == 0, done.stderr


def test_the_readme_opens_with_the_one_command_and_its_output():
    """Within the first screen: `make bench`, and the table that it prints."""
    screen = (ROOT / "README.md").read_text().splitlines()[:45]

    assert "make bench" in "\n".join(screen)
    assert any("speed-up" in line and "verdict" in line for line in screen)


def test_there_are_commands_to_check():
    assert len(starting("quantkit ")) >= 5
    assert len(starting("pytest ")) >= 3
    assert {"make bench", "make test"} <= set(starting("make "))

"""What git knows of commits: which are on a branch, in which order, and what a short name stands for."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

from quantkit.errors import InvalidSetting


def commits_of(branch: str, folder: Path | None = None) -> list[str]:
    """Return the commits of a branch, oldest first, along its first parents.

    Raises:
        InvalidSetting: git does not know it, or there is no git here.
    """
    return _git("rev-list", "--first-parent", "--reverse", branch, "--", folder=folder, what=branch).split()


def commit_of(name: str, folder: Path | None = None) -> str:
    """Return the full hash of what a revision names.

    Raises:
        InvalidSetting: git does not know it, or there is no git here.
    """
    return _git("rev-parse", "--verify", "--quiet", f"{name}^{{commit}}", folder=folder, what=name)


def in_order(commits: Sequence[str], folder: Path | None = None) -> list[str]:
    """Return the commits that git knows, parents before children; none where git is of no help."""
    try:
        told = _git(
            "rev-list", "--topo-order", "--reverse", "--ignore-missing", *commits, "--", folder=folder, what="commits"
        )
    except InvalidSetting:
        return []
    asked = set(commits)
    return [commit for commit in told.split() if commit in asked]


def _git(*words: str, folder: Path | None, what: str) -> str:
    where = folder or Path.cwd()
    try:
        done = subprocess.run(["git", "-C", str(where), *words], capture_output=True, text=True, check=False)
    except OSError as error:
        raise InvalidSetting(f"git cannot be run ({error.strerror}): install it") from None
    if done.returncode:
        said = (done.stderr.strip().splitlines() or ["unknown revision"])[-1]
        raise InvalidSetting(f"git knows no revision '{what}' in {where}: {said.removeprefix('fatal: ')}")
    return done.stdout.strip()

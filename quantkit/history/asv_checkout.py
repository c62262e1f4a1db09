"""An environment of airspeed velocity: the libraries that are installed, with the code of each commit.

asv builds an environment for each commit; with PyTorch and the toolchains that would take gigabytes and minutes. Here
a commit is checked out into asv's own folder and put in front on the module path, so that `asv run A..B` measures
many commits with one set of libraries. Its name has no path in it: a moved interpreter does not start a new history.
`asv.conf.json` loads this module as a plug-in of asv.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from asv.environment import Environment
from asv.util import check_output


class Checkout(Environment):
    """The interpreter that runs asv, with another commit's code."""

    tool_name = "checkout"
    matches_python_fallback = False

    @classmethod
    def matches(cls, python: str) -> bool:
        """Return whether that is the version of Python that asv runs in."""
        return python == _version()

    def __init__(self, conf: Any, python: str, requirements: Any, tagged_env_vars: Any):
        self._python, self._requirements = _version(), dict[str, str]()  # asv's own constructor reads them first
        super().__init__(conf, _version(), {}, tagged_env_vars)

    def check_presence(self) -> bool:
        """Return True: nothing has to be installed."""
        return True

    def install_project(self, conf: Any, repo: Any, commit_hash: str | None = None) -> None:
        """Check the commit out."""
        if self._get_installed_commit_hash() != commit_hash or not Path(self._build_root).is_dir():
            self.checkout_project(repo, commit_hash)
            self._set_installed_commit_hash(commit_hash)
        self._set_commit_hash(commit_hash)

    def run(self, args: list[str], **kwargs: Any) -> Any:
        """Run Python with the checked-out code in front of what is installed."""
        code = str(Path(self._build_root) / self._repo_subdir)
        environment = dict(kwargs.pop("env", None) or os.environ) | self._global_env_vars
        environment["PYTHONPATH"] = code  # for the processes that a benchmark starts
        environment["ASV_PYTHONPATH"] = code  # asv takes the other off its own path, unless this is there
        return check_output([sys.executable, *args], env=environment, **kwargs)


def _version() -> str:
    return f"{sys.version_info[0]}.{sys.version_info[1]}"

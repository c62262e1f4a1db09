"""Artifacts as sides: a case of the zoo is built as for a benchmark, and loaded as when deployed.

The case of another revision is built and run by that revision's code, quantkit's own and that of plug-ins, and answers
the same inputs as the other side. `build_to` and `Opened` are called across revisions: their arguments stay the same.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from quantkit.catalog import BACKENDS, DATASETS, MODELS, VARIABLE
from quantkit.contracts import Arrays
from quantkit.errors import CaseFailed, Unsupported
from quantkit.latency.side import Side
from quantkit.pipeline.artifact import artifact
from quantkit.pipeline.inside import INPUTS, opened, timed_inputs
from quantkit.pipeline.plan import case_of, untimed
from quantkit.pipeline.settings import Settings
from quantkit.records import Case

Say = Callable[[str], None]
BUILD = "import sys; from quantkit.latency.artifact import build_to; build_to(*sys.argv[1:])"


def side_of(case: Case, settings: Settings, say: Say) -> Side:
    """Return the side of a case; its artifact is taken from the cache or built.

    Raises:
        Unsupported: the case cannot run here, or nothing can be timed on its target.
    """
    return _side(case.id, case, str(artifact(_timed(case), settings, say).folder), settings)


def side_at(revision: str, files: Path, case: Case, settings: Settings, say: Say) -> Side:
    """Return the side of a case as a revision builds and runs it; its files are unpacked in the folder `files`.

    Raises:
        Unsupported: nothing can be timed on the case's target here.
        CaseFailed: that revision cannot build it.
    """
    surroundings = {"PYTHONPATH": str(files), VARIABLE: _plugins_at(files)}
    say(f"building  {_timed(case).id} at {revision}, or taking it from the cache")
    with TemporaryDirectory(prefix="quantkit-build-") as place:
        out = Path(place) / "artifact"
        command = [sys.executable, "-c", BUILD, case.id, str(settings.threads), str(out)]
        done = subprocess.run(
            command, cwd=files, env=os.environ | surroundings, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise _why(case, revision, done.stderr)
        return _side(f"{revision}@{case.id}", case, out.read_text(), settings, surroundings, str(files))


def _why(case: Case, revision: str, errors: str) -> CaseFailed:
    said = (errors.strip().splitlines() or ["it ended without a word"])[-1]
    if "quantkit.latency" in said and said.startswith(("ImportError", "ModuleNotFoundError")):
        return CaseFailed(
            f"{revision} has a quantkit that does not know this comparison: compare a module:factory that both have"
        )
    return CaseFailed(f"{case.id} cannot be built at {revision}: {said}")


def build_to(case: str, threads: str, out: str) -> None:
    """Build a case by the code of this process and write the artifact's folder into the file `out`."""
    found = artifact(case_of(case), Settings(threads=int(threads)), lambda line: None)
    Path(out).write_text(str(found.folder))


def _timed(case: Case) -> Case:
    if reason := untimed(case):
        raise Unsupported(f"{case.id} cannot be timed here: {reason}")
    return case


def _side(
    name: str, case: Case, artifact: str, settings: Settings, environment: Mapping[str, str] | None = None,
    files: str = "",
) -> Side:  # fmt: skip
    spec = "factory", "quantkit.latency.artifact:Opened", case, artifact, _inputs(case.model), settings.threads
    modules = __name__, *BACKENDS.get(case.backend).run_modules
    return Side(name, spec, (files,) if files else (), modules, environment or {}, files)


def _plugins_at(files: Path) -> str:
    """Return the folders of plug-ins; those inside the working directory are that revision's."""
    here = Path.cwd()
    told = [Path(part).absolute() for part in os.environ.get(VARIABLE, "").split(os.pathsep) if part]
    return os.pathsep.join(str(files / p.relative_to(here) if p.is_relative_to(here) else p) for p in told)


def _inputs(name: str) -> list[Arrays]:
    model = MODELS.get(name)
    return timed_inputs(model, DATASETS.get(model.info.dataset).evaluation(INPUTS))


class Opened:
    """An artifact on its target; each call answers the next input. Made in the process that is timed."""

    def __init__(self, case: Case, folder: str, inputs: list[Arrays], threads: int):
        self._session, target = opened(case, Path(folder), Settings(threads=threads))
        self._fed: list[Any] = [self._session.feed(tuple(map(np.ascontiguousarray, item))) for item in inputs]
        self._next = 0
        self.clock, self.wait = target.clock, target.synchronize

    def __call__(self) -> None:
        """Answer the next input."""
        self._session.run(self._fed[self._next])
        self._next = (self._next + 1) % len(self._fed)

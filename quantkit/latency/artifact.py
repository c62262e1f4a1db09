"""Artifacts as sides: a case of the zoo is built as for a benchmark, and loaded as when deployed.

The case of another revision is built and run by that revision's code, quantkit's own and that of plug-ins, and answers
the same inputs as the other side. `build_to` and `Opened` are called across revisions: their arguments stay the same.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from quantkit.catalog import BACKENDS, DATASETS, MODELS
from quantkit.contracts import Arrays
from quantkit.errors import CaseFailed, Unsupported
from quantkit.latency.revision import Checkout
from quantkit.latency.side import Say, Side
from quantkit.pipeline.artifact import artifact
from quantkit.pipeline.inside import INPUTS, opened, timed_inputs
from quantkit.pipeline.plan import case_of, untimed
from quantkit.pipeline.settings import Settings
from quantkit.records import Case

# The second line is all that a revision's quantkit must know; the first says which one it is.
BUILD = """import sys, quantkit; open(sys.argv[4], "w").write(str(quantkit.__file__))
from quantkit.latency.artifact import build_to; build_to(*sys.argv[1:4])"""


def side_of(case: Case, settings: Settings, say: Say) -> Side:
    """Return the side of a case; its artifact is taken from the cache or built.

    Raises:
        Unsupported: the case cannot run here, or nothing can be timed on its target.
    """
    return Side(
        case.id, _spec(case, str(artifact(_timed(case), settings, say).folder), settings), modules=_modules(case)
    )


def side_at(at: Checkout, case: Case, settings: Settings, say: Say) -> Side:
    """Return the side of a case as a revision builds and runs it, by its own quantkit where it has one.

    Raises:
        Unsupported: nothing can be timed on the case's target here.
        CaseFailed: that revision cannot build it, or another quantkit than its own would.
    """
    say(f"building  {_timed(case).id} at {at.revision}, or taking it from the cache")
    home = at.package("quantkit")
    path = at.path if home is None else tuple(dict.fromkeys((str(home), *at.path)))
    inside = os.pathsep.join(entry for entry in path if Path(entry).is_relative_to(at.files))
    surroundings = at.environment
    surroundings["PYTHONPATH"] = os.pathsep.join((inside, surroundings["PYTHONPATH"]))
    if home is None:
        say(f"{at.revision} holds no quantkit: the installed one builds and runs it, with that revision's plug-ins")
    spec = _spec(case, _built(at, case, settings, surroundings, home), settings)
    of = spec if home is None else ("of", str(at.files), str(at.tree), spec)
    return Side(f"{at.revision}@{case.id}", of, path, _modules(case), surroundings, str(at.here))


def _built(at: Checkout, case: Case, settings: Settings, surroundings: dict[str, str], home: Path | None) -> str:
    """Return the folder of the artifact that a revision has built."""
    with TemporaryDirectory(prefix="quantkit-build-") as place:
        out, told = Path(place) / "artifact", Path(place) / "quantkit"
        command = [sys.executable, "-c", BUILD, case.id, str(settings.threads), str(out), str(told)]
        done = subprocess.run(
            command, cwd=at.here, env=os.environ | surroundings, capture_output=True, text=True, check=False
        )
        by = told.read_text() if told.exists() else ""
        if by and home and not Path(by).resolve().is_relative_to(at.files):
            raise CaseFailed(f"{case.id} at {at.revision}: {by} was imported, not that revision's quantkit in {home}")
        if done.returncode:
            raise _why(case, at.revision, done.stderr)
        return out.read_text()


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


def _spec(case: Case, artifact: str, settings: Settings) -> tuple[Any, ...]:
    return "factory", f"{__name__}:Opened", case, artifact, _inputs(case.model), settings.threads


def _modules(case: Case) -> tuple[str, ...]:
    return __name__, *BACKENDS.get(case.backend).run_modules


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

"""Sides that are a user's own: callables, factories of callables, and factories in another revision of the code."""

from __future__ import annotations

import io
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import cloudpickle

from quantkit.errors import InvalidSetting
from quantkit.latency.blocks import Pace
from quantkit.latency.protocol import LatencyComparison, Say, compare
from quantkit.latency.side import Side
from quantkit.stats.sequential import Rule


def compare_latency(
    baseline: Callable[[], Any], candidate: Callable[[], Any], *, load: bool = False, rule: Rule | None = None,
    pace: Pace | None = None, limit_s: float = 60.0, seed: int = 0, say: Say | None = None,
) -> LatencyComparison:  # fmt: skip
    """Return which of two callables is faster, with an interval, by the paired sequential protocol.

    Both are sent to a process of their own by cloudpickle, and to a fresh fork of it for every block. Work that a
    device does after the call returns is waited for where the callable has an attribute `wait`; an attribute `clock`
    replaces `time.perf_counter`.

    Args:
        baseline: called without arguments; with `load`, a factory that is called once a block and returns the callable
            that is timed: for what cannot be pickled (a session of a runtime), or where loading should vary.
        candidate: the same.
        load: whether they are factories.
        rule: error rate, noise floor and tolerance (`quantkit.stats.sequential.Rule`).
        pace: of one block (`quantkit.latency.Pace`).
        limit_s: seconds after which no further block is begun.
        seed: of the order of turns and of the resampling.
        say: gets a line of progress at every look.

    Raises:
        InvalidSetting: it is not callable, or cannot be pickled.
        CaseFailed: it raised an error or crashed.

    >>> from quantkit import compare_latency
    >>> compare_latency(lambda: sum(range(9_000)), lambda: sum(range(18_000)), limit_s=20).verdict
    'slower'
    """
    sides = [_side(given, name, load) for given, name in ((baseline, "baseline"), (candidate, "candidate"))]
    return compare(*sides, rule=rule, pace=pace, limit_s=limit_s, seed=seed, say=say)


def _side(given: Callable[[], Any], name: str, load: bool) -> Side:
    if not callable(given):
        raise InvalidSetting(f"{name} must be callable without arguments: got {type(given).__name__}")
    try:
        blob = cloudpickle.dumps(given)
    except Exception as error:
        # Attributes of a user's objects raise whatever they like when they are pickled.
        said = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise InvalidSetting(
            f"{name} cannot be sent to a process of its own ({said}): give a factory, load=True"
        ) from error
    called = getattr(given, "__qualname__", type(given).__qualname__)
    home = getattr(given, "__module__", None) or type(given).__module__
    modules = () if home == "__main__" else (home,)  # imported once, not by every load
    return Side(f"{name} {called}", ("pickled factory" if load else "pickled", blob), modules=modules)


def named(factory: str, folder: str = "", name: str = "") -> Side:
    """Return the side of a factory `package.module:function`, taken from a folder or from where this process looks.

    Raises:
        InvalidSetting: not of that form.
    """
    module, colon, function = factory.partition(":")
    if not (module and colon and function):
        raise InvalidSetting(f"expected package.module:factory, a function that returns what is timed: got '{factory}'")
    folders = (folder,) if folder else ("",)
    return Side(name or factory, ("factory", factory), folders, (module,), folder=folder)


@contextmanager
def checkout(revision: str, repository: Path | None = None) -> Iterator[Path]:
    """Unpack a revision's files into a folder that is removed at the end; the repository itself is not touched.

    Raises:
        InvalidSetting: no repository, or no such revision.
    """
    here = repository or Path.cwd()
    done = subprocess.run(["git", "-C", str(here), "archive", revision], capture_output=True, check=False)
    if done.returncode:
        said = (done.stderr.decode().strip().splitlines() or ["git failed"])[-1]
        raise InvalidSetting(f"revision '{revision}' of {here}: {said}")
    with TemporaryDirectory(prefix="quantkit-revision-", ignore_cleanup_errors=True) as folder:
        with tarfile.open(fileobj=io.BytesIO(done.stdout)) as files:
            files.extractall(folder, filter="data")
        yield Path(folder)

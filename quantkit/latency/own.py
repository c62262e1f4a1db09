"""Sides that are a user's own: callables, factories of callables, and factories in another revision of the code."""

from __future__ import annotations

import pickletools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cloudpickle

from quantkit.errors import InvalidSetting
from quantkit.latency.blocks import Pace
from quantkit.latency.protocol import LatencyComparison, compare
from quantkit.latency.revision import Checkout
from quantkit.latency.side import Say, Side, import_path
from quantkit.latency.worker import WAY_OUT, unfinished
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
        rule: error rate, noise floor and tolerance (`quantkit.latency.Rule`); by default the floor that
            `quantkit selftest noise` found on this machine.
        pace: of one block (`quantkit.latency.Pace`); it has fewer turns where two whole blocks do not fit the limit.
        limit_s: seconds after which no further block is begun.
        seed: of the order of turns and of the resampling.
        say: gets a line of progress at every look, and where something takes long.

    Raises:
        InvalidSetting: it is not callable, cannot be pickled, is an async or generator function; a wrong argument.
        CaseFailed: it raised an error or crashed.
        NothingMeasured: the measured noise floor is so high that no verdict would mean anything.
        CorruptFile: the comparisons that the noise floor comes from cannot be read.

    >>> from quantkit import compare_latency
    >>> compare_latency(lambda: sum(range(9_000)), lambda: sum(range(18_000)), limit_s=20).verdict
    'slower'
    """
    sides = [_side(given, name, load) for given, name in ((baseline, "baseline"), (candidate, "candidate"))]
    return compare(*sides, rule=rule, pace=pace, limit_s=limit_s, seed=seed, say=say)


def _side(given: Callable[[], Any], name: str, load: bool) -> Side:
    if not callable(given):
        raise InvalidSetting(f"{name} must be callable without arguments: got {type(given).__name__}")
    if kind := unfinished(given):
        raise InvalidSetting(f"{name} is {kind}: {WAY_OUT}")
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
    return Side(f"{name} {called}", ("pickled factory" if load else "pickled", blob), modules=_named(blob, home))


def _named(blob: bytes, home: str) -> tuple[str, ...]:
    """Return the modules that a pickle may need, to be imported once and not by every load.

    Any text in it that is the name of a module here: one too many costs an import, one too few an import in every load.
    """
    texts = {word for _, text, _ in pickletools.genops(blob) if isinstance(text, str) for word in text.split(" ", 1)}
    return tuple(sorted((texts | {home}) & set(sys.modules) - {"__main__", "__mp_main__"}))


def named(factory: str, name: str = "", at: Checkout | None = None) -> Side:
    """Return the side of a factory `package.module:function`, as it is here or in a revision's files.

    Raises:
        InvalidSetting: not of that form.
    """
    module, colon, function = factory.partition(":")
    if not (module and colon and function):
        raise InvalidSetting(f"expected package.module:factory, a function that returns what is timed: got '{factory}'")
    spec = "factory", factory
    if at is None:
        here = str(Path.cwd())
        return Side(name or factory, spec, (here, *import_path()), (module,), folder=here)
    of = "of", str(at.files), str(at.tree), spec
    return Side(name or factory, of, at.path, (module,), at.environment, str(at.here))

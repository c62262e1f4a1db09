"""Finds plug-ins by file name, without importing them until one is asked for.

A family is a folder of this package (`zoo`, `datasets`, `methods`, `backends`, `targets`, `metrics`); each file in it
is one plug-in, the file name is its name, and the file's object `plugin` is the plug-in. Others add theirs with an
entry point in the group `quantkit.<family>`, or with a folder named in the environment variable QUANTKIT_PLUGINS
(os.pathsep between several) that holds sub-folders of the same names; a variable reaches the case's own process too.
"""

from __future__ import annotations

import difflib
import importlib.util
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from importlib import metadata
from pathlib import Path
from typing import Any

from quantkit.errors import QuantizationError, UnknownName

FAMILIES = ("zoo", "datasets", "methods", "backends", "targets", "metrics")
SINGULAR = {
    "zoo": "model",
    "datasets": "dataset",
    "methods": "method",
    "backends": "backend",
    "targets": "target",
    "metrics": "metric",
}
VARIABLE = "QUANTKIT_PLUGINS"


class Catalog:
    """The plug-ins of one family."""

    def __init__(self, family: str):
        self.family = family
        self._loaded: dict[str, tuple[Any, Path]] = {}

    def _sources(self) -> dict[str, Callable[[], tuple[Any, Path]]]:
        """Return name -> a function that loads plug-in and file; ours first, so that nothing replaces them."""
        found = self._files()
        for point in _entry_points(f"quantkit.{self.family}"):
            found.setdefault(point.name, partial(_load_point, point))
        return found

    def _files(self) -> dict[str, Callable[[], tuple[Any, Path]]]:
        found: dict[str, Callable[[], tuple[Any, Path]]] = {}
        folders = [Path(__file__).parent, *(Path(p) for p in os.environ.get(VARIABLE, "").split(os.pathsep) if p)]
        for folder in folders:
            for file in sorted((folder / self.family).glob("[!_]*.py")):
                found.setdefault(file.stem, partial(_load_file, file, self.family))
        return found

    def names(self) -> tuple[str, ...]:
        """Return all names, sorted. Imports no plug-in."""
        return tuple(sorted(self._sources()))

    def get(self, name: str) -> Any:
        """Return the plug-in.

        Raises:
            UnknownName: no such name; the message has the nearest one and all that are known.
        """
        if name not in self._loaded:
            sources = self._files()
            if name not in sources:
                sources = self._sources()  # only now: asking every installed distribution takes a while
            if name not in sources:
                raise UnknownName(_unknown(SINGULAR[self.family], name, sorted(sources)))
            self._loaded[name] = sources[name]()
        return self._loaded[name][0]

    def file(self, name: str) -> Path:
        """Return the source file of a plug-in: its text is part of what an artifact was made from."""
        self.get(name)
        return self._loaded[name][1]

    @contextmanager
    def lend(self, name: str, plugin: Any, file: Path) -> Iterator[None]:
        """Know a plug-in that was made at run time, in this process, for as long as the block lasts."""
        known = name in self._loaded
        self._loaded.setdefault(name, (plugin, file))
        try:
            yield
        finally:
            if not known:
                self._loaded.pop(name, None)

    def all(self) -> dict[str, Any]:
        """Return every plug-in by name."""
        return {name: self.get(name) for name in self.names()}


@cache
def _entry_points(group: str) -> tuple[metadata.EntryPoint, ...]:
    return tuple(metadata.entry_points(group=group))


def _load_point(point: metadata.EntryPoint) -> tuple[Any, Path]:
    return point.load(), Path(str(importlib.import_module(point.module).__file__))


def _load_file(file: Path, family: str) -> tuple[Any, Path]:
    if file.parent.parent == Path(__file__).parent:
        return importlib.import_module(f"quantkit.{family}.{file.stem}").plugin, file
    name = f"quantkit_plugins_{family}_{file.stem}"
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
        return module.plugin, file
    except Exception as error:
        # Whatever somebody's file raises, the user must learn which file it is.
        text = " ".join(str(error).split())
        raise QuantizationError(f"plug-in {file} cannot be loaded: {type(error).__name__}: {text}") from error


def _unknown(noun: str, name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    hint = f" Did you mean '{near[0]}'?" if near else ""
    return f"no {noun} named '{name}'.{hint} Known: {', '.join(known)}"


MODELS = Catalog("zoo")
DATASETS = Catalog("datasets")
METHODS = Catalog("methods")
BACKENDS = Catalog("backends")
TARGETS = Catalog("targets")
METRICS = Catalog("metrics")

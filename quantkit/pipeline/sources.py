"""Which source files decide what a plug-in does: a change in one of them makes its artifacts and answers anew.

Of quantkit itself these are the helpers that a plug-in names. Of a user's code it is every module that the plug-in
imports, at its top or inside of a function, and what those import: but for installed packages (their versions are in
every key) and the standard library. Modules are found without importing them.
"""

from __future__ import annotations

import ast
import re
import sysconfig
from collections.abc import Iterator
from functools import cache, lru_cache
from importlib.util import find_spec
from pathlib import Path

from quantkit.files import sha256_of
from quantkit.pipeline.cache import digest

PACKAGE = Path(__file__).parents[1]
IMPORT = re.compile(r"^ *(?:from|import) +(quantkit[\w., ]*(?: import +(?:\([^)]*\)|[^\n]*))?)", re.MULTILINE)
INSTALLED = {"site-packages", "dist-packages"}


def source_hash(*files: Path) -> str:
    """Return the hash of source files and of all that decides with them what they do."""
    every, waiting = set(files), list(files)
    while waiting:
        file = waiting.pop()
        found = {*_helpers(file), *(_foreign(file) if not file.is_relative_to(PACKAGE) else ())} - every
        every |= found
        waiting += found
    return digest([sha256_of(file) for file in sorted(every)])


def _helpers(file: Path) -> Iterator[Path]:
    """Yield the files of ours that a file names, and the `_*.py` beside it.

    Ours are the named files of `quantkit.numerics` and `quantkit.procedures`, and all of `quantkit.mil`.
    """
    names = {name for line in IMPORT.findall(file.read_text()) for name in re.findall(r"\w+", line)}
    for helper in file.parent.glob("_*.py"):
        if helper.stem in names and helper.stem != "__init__":
            yield helper
    for room in {"numerics", "procedures"} & names:
        yield from (found for found in (PACKAGE / room).glob("*.py") if found.stem in names)
    if "mil" in names:
        yield from (PACKAGE / "mil").glob("*.py")


def _foreign(file: Path) -> Iterator[Path]:
    """Yield the files of the user's own modules that a file of theirs imports."""
    told = file.stat()
    for level, dotted in _imports(file, told.st_mtime_ns, told.st_size):
        if level:
            places, names = [file.parents[level - 1]], dotted
        else:
            places, names = _top(dotted[0]), dotted[1:]
        for place in places:
            yield from _down(place, names)


@lru_cache(maxsize=4096)
def _imports(file: Path, changed: int, size: int) -> tuple[tuple[int, tuple[str, ...]], ...]:
    """Return (dots in front, names) of every import; the last name may be a module or something inside of one."""
    try:
        tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError):
        return ()
    found: list[tuple[int, tuple[str, ...]]] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(0, tuple(alias.name.split("."))) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            module = tuple(node.module.split(".")) if node.module else ()
            found += [(node.level, (*module, alias.name)) for alias in node.names]
    return tuple(dict.fromkeys(found))


@cache
def _standard() -> tuple[Path, ...]:
    return tuple(Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "platstdlib"))


def _top(name: str) -> list[Path]:
    """Return where a top-level module is: its file, or the folders of its package; nothing where it is not theirs."""
    try:
        spec = find_spec(name)
    except (ImportError, ValueError):  # half of a package, or __main__
        return []
    if spec is None or name == "quantkit":
        return []
    places = [Path(place) for place in spec.submodule_search_locations or ()]
    places = places or [Path(spec.origin)] if spec.has_location and spec.origin else places
    return [place for place in places if _theirs(place)]


def _theirs(place: Path) -> bool:
    place = place.resolve()
    return not INSTALLED & set(place.parts) and not any(place.is_relative_to(lib) for lib in _standard())


def _down(place: Path, names: tuple[str, ...]) -> Iterator[Path]:
    """Yield the files on the way from a folder (or a file) along names: packages' `__init__.py`, then the module."""
    if place.is_file():
        yield place
        return
    for name in ("__init__", *names):
        file = place / f"{name}.py"
        if file.is_file():
            yield file
        if name != "__init__":
            place = place / name
            if (place / "__init__.py").is_file():
                yield place / "__init__.py"
            if not place.is_dir():
                return

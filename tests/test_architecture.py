"""Keeps the floors of docs/: imports only look down, plug-ins stay light and apart, files and functions stay short."""

from __future__ import annotations

import ast
import importlib.util
import sys
from collections.abc import Iterator
from functools import cache
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "quantkit"
FLOORS = (
    {"errors", "units", "scheme", "extras", "catalog", "files"},
    {"numerics", "stats"},
    {"contracts", "records", "environment", "state", "mil", "energy"},
    {"procedures"},
    {"zoo", "datasets", "methods", "backends", "targets", "metrics"},
    {"pipeline"},
    {"conclude"},
    {"ops", "deploy", "adaptive", "search", "latency", "scenarios", "history"},
    {"cli", "commands", "pytest_plugin", "pytest_benchmark_bridge", "engines", "controller", "__init__", "__main__"},
)
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
FAMILIES = FLOORS[4]
MAY_PRINT_AND_EXIT = {"cli.py", "__main__.py"}

FILE_LINES, FUNCTION_LINES = 300, 30
LONG_FILES = {
    "contracts.py": "the one file to read first: mostly docstrings, and in one piece",
}
LONG_FUNCTIONS: dict[str, str] = {}  # "pipeline/plan.py:plan": "reason"
PRINTS_OR_EXITS = {
    "pipeline/host.py:os._exit": "a forked case ends here: its parent's buffers and exit handlers are not its own",
    "latency/worker.py:os._exit": "a forked load ends here, as a forked case does",
}

FILES = sorted(p for p in PACKAGE.rglob("*.py") if "assets" not in p.parts)
each_file = pytest.mark.parametrize("file", FILES, ids=[str(file.relative_to(PACKAGE)) for file in FILES])


def dotted(file: Path) -> str:
    """Return a file's module name below the package: `pipeline.plan`, `pipeline.__init__`, `cli`."""
    return ".".join(file.relative_to(PACKAGE).with_suffix("").parts)


MODULES = {dotted(file): file for file in FILES}


def room(module: str) -> str:
    return module.partition(".")[0]


@cache
def tree(file: Path) -> ast.Module:
    return ast.parse(file.read_text(), str(file))


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def walk(node: ast.AST, *, typing_too: bool, inside_functions: bool) -> Iterator[ast.AST]:
    """Yield all nodes below; a TYPE_CHECKING block and the insides of functions only when asked for."""
    for child in ast.iter_child_nodes(node):
        if is_type_checking(child) and not typing_too:
            continue
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) and not inside_functions:
            continue
        yield child
        yield from walk(child, typing_too=typing_too, inside_functions=inside_functions)


@cache
def imports(file: Path, *, typing_too: bool = True, inside_functions: bool = True) -> tuple[str, ...]:
    """Return what a file imports: ours as `quantkit.<module>`, others by full name."""
    found: list[str] = []
    for node in walk(tree(file), typing_too=typing_too, inside_functions=inside_functions):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import of {node.module}: write the full name"
            deeper = [f"{node.module}.{alias.name}" for alias in node.names]
            found += [name if name.removeprefix("quantkit.") in own_names() else str(node.module) for name in deeper]
    return tuple(dict.fromkeys(found))


@cache
def own_names() -> frozenset[str]:
    return frozenset(MODULES) | {name.removesuffix(".__init__") for name in MODULES}


def ours(names: tuple[str, ...]) -> list[str]:
    """Return the modules of this package among imported names, without the `quantkit.` in front."""
    return [
        name.removeprefix("quantkit.").replace("quantkit", "__init__") for name in names if room(name) == "quantkit"
    ]


def test_every_room_has_a_floor():
    """A new file or folder at the top of the package needs a place in FLOORS."""
    assert {room(module) for module in MODULES} <= set(FLOOR)


@each_file
def test_imports_only_look_down(file):
    """A file may import its own floor and those below it."""
    own = FLOOR[room(dotted(file))]
    up = [name for name in ours(imports(file)) if FLOOR[room(name)] > own]
    assert not up, f"{dotted(file)} (floor {own}) imports {up} from above"


def test_there_are_no_circles():
    """Follow imports that run when modules load; a path that meets itself is a circle."""
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " -> ".join((*path, module))
        if module in done:
            return
        file = MODULES.get(module, MODULES.get(f"{module}.__init__"))
        assert file is not None, f"{path[-1]} imports {module}, which does not exist"
        for name in ours(imports(file, typing_too=False, inside_functions=False)):
            visit(name, (*path, module))
        done.add(module)

    for module in MODULES:
        visit(module, ())


@each_file
def test_families_never_import_each_other(file):
    """A plug-in knows the contracts and its own family's helpers (`_name.py`), never another plug-in."""
    family = room(dotted(file))
    if family not in FAMILIES:
        return
    others = [name for name in ours(imports(file)) if room(name) in FAMILIES and room(name) != family]
    siblings = [
        name for name in ours(imports(file)) if name.startswith(f"{family}.") and not name.split(".")[1].startswith("_")
    ]
    assert not others + siblings


def heavy(file: Path) -> list[str]:
    """Return what the top of a plug-in file pulls in beyond the standard library, NumPy and floors 0 to 2."""
    names = imports(file, typing_too=False, inside_functions=False)
    found = [name for name in names if room(name) not in {*sys.stdlib_module_names, "numpy", "quantkit"}]
    for name in ours(names):
        if name.startswith(f"{room(dotted(file))}._"):
            found += heavy(MODULES[name])
        elif FLOOR[room(name)] > 2:
            found.append(f"quantkit.{name}" * (room(name) != room(dotted(file))))
    return [name for name in found if name]


@each_file
def test_the_top_of_a_plugin_is_light(file):
    """Listing is free: toolchains are imported inside functions."""
    if room(dotted(file)) in FAMILIES and not file.name.startswith("_"):
        assert not heavy(file)


@each_file
def test_conclusions_read_the_store_only(file):
    """A report reads stored results and never a model, a method or a toolchain."""
    if room(dotted(file)) != "conclude":
        return
    wrong = [name for name in ours(imports(file)) if FLOOR[room(name)] in (3, 4, 5) and name != "pipeline.store"]
    assert not wrong


def prints_and_exits(file: Path) -> list[str]:
    """Return the names of all calls that print or end the process."""
    names = {ast.unparse(node.func) for node in ast.walk(tree(file)) if isinstance(node, ast.Call)}
    raised = {ast.unparse(node) for node in ast.walk(tree(file)) if isinstance(node, ast.Name)} & {"SystemExit"}
    return sorted((names & {"print", "exit", "quit", "sys.exit", "os._exit"}) | raised)


@each_file
def test_only_the_edge_prints_or_exits(file):
    """Everything below returns or raises; the edge decides what a person sees."""
    if file.name in MAY_PRINT_AND_EXIT or room(dotted(file)) == "commands":
        return
    place = str(file.relative_to(PACKAGE))
    assert not [name for name in prints_and_exits(file) if f"{place}:{name}" not in PRINTS_OR_EXITS]


def own_lines(function: ast.FunctionDef | ast.AsyncFunctionDef, text: list[str]) -> int:
    """Return the lines of code of a function: no docstring, blank line or comment, nothing of nested definitions."""
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    apart = [node for node in ast.walk(function) if isinstance(node, kinds) and node is not function]
    if ast.get_docstring(function) is not None:
        apart.append(function.body[0])
    left = set(range(function.lineno, function.end_lineno + 1))
    left -= {line for node in apart for line in range(node.lineno, node.end_lineno + 1)}
    return sum(not text[line - 1].lstrip().startswith("#") and bool(text[line - 1].strip()) for line in left)


@each_file
def test_files_and_functions_are_short(file):
    """What is longer is named above, with its reason."""
    place = str(file.relative_to(PACKAGE))
    text = file.read_text().splitlines()
    assert len(text) <= FILE_LINES or place in LONG_FILES, f"{place} has {len(text)} lines: split it"
    functions = [n for n in ast.walk(tree(file)) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
    lengths = {f"{place}:{function.name}": own_lines(function, text) for function in functions}
    assert not {name: n for name, n in lengths.items() if n > FUNCTION_LINES and name not in LONG_FUNCTIONS}


def test_named_exceptions_are_still_needed():
    """An exception whose file became short is taken off the list."""
    lengths = {place: len((PACKAGE / place).read_text().splitlines()) for place in LONG_FILES}
    assert all(length > FILE_LINES for length in lengths.values()), lengths
    places = [*LONG_FUNCTIONS, *PRINTS_OR_EXITS]
    assert all((PACKAGE / place.partition(":")[0]).is_file() for place in places)


def test_torchvision_is_not_installed():
    """The index's torchvision breaks transformers beside a CPU torch, merely by being there."""
    assert importlib.util.find_spec("torchvision") is None


def test_numpy_is_older_than_2_4():
    """coremltools 9 fails in its casts from NumPy 2.4 on."""
    assert tuple(int(part) for part in metadata.version("numpy").split(".")[:2]) < (2, 4)

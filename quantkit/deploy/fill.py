"""Fills in the deployment templates from a manifest: `templates/<backend>/**/*.in` becomes `app/**` of an export.

A template holds `@@{name}` where a value goes, in file names too. Values that a program reads (names, shapes, labels)
come from `values`, already written in the language of the file.
"""

from __future__ import annotations

import json
import re
import shutil
import string
from pathlib import Path
from typing import Any

from quantkit.catalog import BACKENDS
from quantkit.deploy import languages, names
from quantkit.errors import InvalidSetting

TEMPLATES = Path(__file__).parent / "templates"
SHARED = TEMPLATES / "_python"  # goes beside each Python template
SUFFIX = ".in"
# Backends that write the same file as another: what runs the one runs the other.
SAME_FILE = {"onnxruntime_qoperator": "onnxruntime", "tensorflow": "litert"}
CASE = re.compile(r"^ +case (\"[^:]*):", re.MULTILINE)  # a case of the Swift interpreter's switch over operations
# What an application carries itself: folder of the export -> place below `app`.
CARRIED = {
    "coreml": {"artifact": "swift/Sources/@@{type}/Resources", "golden": "swift/Tests/@@{type}Tests/Golden"},
    "mlx": {"artifact": "swift/Sources/@@{type}/Resources", "golden": "swift/Tests/@@{type}Tests/Golden"},
    "litert": {"artifact": "android/src/main/assets", "golden": "android/src/androidTest/assets"},
}


class Text(string.Template):
    """`@@{name}`: a delimiter that no language of the templates uses."""

    delimiter = "@@"


def check_template(backend: str) -> None:
    """Refuse a backend whose files no template runs.

    Raises:
        InvalidSetting: with those that have one.
    """
    known = sorted(path.name for path in TEMPLATES.iterdir() if path.is_dir() and path.name[0] != "_")
    if form(backend) not in known:
        raise InvalidSetting(f"no template for {backend}: export without --template. Known: {', '.join(known)}")


def form(backend: str) -> str:
    """Return the backend whose template runs the files of this one."""
    return SAME_FILE.get(backend, backend)


def application(folder: Path, manifest: dict[str, Any]) -> Path:
    """Write the application for the export in `folder` to `folder/app`; return that place."""
    backend, app = form(manifest["backend"]["name"]), folder / "app"
    check_template(backend)
    values = values_of(manifest)
    texts = filled(backend, values)
    if backend == "mlx" and uncovered(folder / "artifact" / "graph.json", texts):
        texts = {path: text for path, text in texts.items() if not path.startswith("swift/")}
    for path, text in texts.items():
        (app / path).parent.mkdir(parents=True, exist_ok=True)
        (app / path).write_text(text, encoding="utf-8")
    carried = CARRIED.get(backend, {}) if backend != "mlx" or (app / "swift").exists() else {}
    for part, place in carried.items():
        shutil.copytree(folder / part, app / Text(place).substitute(values), dirs_exist_ok=True)
    return app


def filled(backend: str, values: dict[str, str]) -> dict[str, str]:
    """Return the text of every file of a backend's application by its path."""
    files = {path.relative_to(TEMPLATES / backend): path for path in sorted((TEMPLATES / backend).rglob(f"*{SUFFIX}"))}
    if any(path.parts[0] == "python" for path in files):
        files |= {Path("python") / path.name: path for path in sorted(SHARED.glob(f"*{SUFFIX}"))}
    texts = {path.as_posix().removesuffix(SUFFIX): source.read_text("utf-8") for path, source in files.items()}
    return {Text(path).substitute(values): Text(text).substitute(values) for path, text in texts.items()}


def uncovered(graph: Path, texts: dict[str, str]) -> set[str]:
    """Return the operations of an MLX graph that the Swift interpreter among `texts` has no case for."""
    source = "".join(text for path, text in texts.items() if path.endswith("Graph.swift"))
    known = {name for line in CASE.findall(source) for name in re.findall(r'"([^"]+)"', line)}
    return {node["op"] for node in json.loads(graph.read_text("utf-8"))["nodes"]} - known


def values_of(manifest: dict[str, Any]) -> dict[str, str]:
    """Return what the templates may name: words for texts, and pieces of code for each language."""
    model, golden = manifest["model"], manifest["golden"]
    kind = names.type_name(model["name"].partition(":")[0].rpartition(".")[2])
    common = {
        "type": kind,
        "package": kind.lower(),
        "title": names.one_line(model["name"]),
        "backend": names.literal(manifest["backend"]["name"], "python"),
        "extra": BACKENDS.get(manifest["backend"]["name"]).extra,
        "method": names.one_line(manifest["method"]),
        "scheme": names.one_line(manifest["scheme"]),
        "format": names.one_line(manifest["backend"]["title"]),
        "licence": names.one_line(model["licence"]),
        "preprocessing": names.one_line(manifest["preprocessing"] or "not described: see where the model comes from"),
        "executor": names.one_line(manifest["executor"]),
        "tolerance": repr(float(golden["max_abs_error"])),
        "calls": str(golden["calls"]),
        "threads": str(manifest["threads"]),
        "input_count": str(len(manifest["inputs"])),
        "inputs_words": _tensors(manifest["inputs"]),
        "outputs_words": _tensors(manifest["outputs"]),
    }
    return common | languages.pieces(manifest, form(manifest["backend"]["name"]))


def _tensors(infos: list[dict[str, Any]]) -> str:
    return "; ".join(f"{names.one_line(t['name'])} {t['dtype']} {t['shape']}" for t in infos)

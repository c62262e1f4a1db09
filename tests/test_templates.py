"""Deployment templates: what can run here is run on golden data, what cannot is parsed; names and texts survive."""

import ast
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantkit import catalog, extras
from quantkit.deploy import command, export, fill, inside, manifest, names
from quantkit.deploy.request import Request, Shape, Subject
from quantkit.errors import Unsupported
from quantkit.pipeline.settings import Settings

ROOT = Path(__file__).resolve().parent.parent
BACKENDS = ("bitsandbytes", "coreml", "litert", "mlx", "onnxruntime", "pytorch")
MODULE = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.hidden, self.head = nn.Linear(64, 64), nn.Linear(64, 32)

    def forward(self, x):
        return self.head(torch.relu(self.hidden(x)))


def make():
    torch.manual_seed(0)
    return Net()
"""
ODD = 'in "quoted" \\ $money \\(x) */ `'


def facts(backend, *, name="fmnist_cnn", inputs=None, labels=(), stepwise=False, preprocessing=""):
    """A manifest as an export writes it."""
    inputs = inputs or [("x", (1, 8), "float32")]
    return {
        "model": {"name": name, "title": name, "licence": "Apache-2.0", "stepwise": stepwise},
        "method": "int8_static",
        "scheme": "w8a8",
        "backend": {"name": backend, "title": backend},
        "executor": "reference",
        "threads": 1,
        "inputs": [{"name": n, "shape": list(s), "dtype": d} for n, s, d in inputs],
        "outputs": [{"name": "var_7", "shape": [1, 3], "dtype": "float32"}],
        "preprocessing": preprocessing,
        "labels": list(labels),
        "golden": {"calls": 8 if stepwise else 1, "max_abs_error": 0.0125},
        "files": {"artifact/model.tflite": {"bytes": 1, "sha256": ""}},
    }


TWO = [("input_ids", (1, 16), "int32"), ("attention mask", (1, 16), "int32")]
CASES = {
    "plain": {},
    "labels": {"labels": ("T-shirt/top", "Ankle boot")},
    "two inputs": {"inputs": TWO},
    "stateful": {"stepwise": True, "inputs": [("token", (1, 1), "int32"), ("position", (1,), "int32")]},
    "odd names": {
        "name": f"my-net.3d:make {ODD}",
        "inputs": [(ODD, (1, 4), "float32"), ("class", (2, 2), "float32"), ("1", (1,), "int32"), ("x", (), "float32")],
        "labels": (ODD, "line\nbreak\ttab", "ümläut 💡", ""),
        "preprocessing": f"first {ODD}\nthen scale",
    },
}
each_case = pytest.mark.parametrize("case", CASES)
each_backend = pytest.mark.parametrize("backend", BACKENDS)


def filled(backend, case):
    return fill.filled(backend, fill.values_of(facts(backend, **CASES[case])))


# Names and literals.


@given(st.text())
def test_a_type_name_is_an_identifier_whatever_the_model_is_called(text):
    assert names.type_name(text).isascii() and names.type_name(text).isidentifier()


@given(st.lists(st.text(), max_size=6))
def test_variables_are_valid_and_differ(texts):
    made = names.variables(texts)

    assert len(made) == len(texts) == len(set(made))
    assert all(name.isascii() and name.isidentifier() and name.lower() not in names.KEYWORDS.split() for name in made)


@given(st.text())
def test_a_python_literal_is_the_text(text):
    assert ast.literal_eval(names.literal(text, "python")) == text


@given(st.text())
def test_text_in_a_comment_stays_in_it(text):
    made = names.one_line(text)

    assert len(made.splitlines()) <= 1 and "*/" not in made and '"' not in made and "\\" not in made


def test_dollars_and_backslashes_start_no_interpolation():
    """Kotlin: $name and ${}; Swift: backslash and a bracket."""
    assert names.literal("$a ${b}", "kotlin") == r'"\$a \${b}"'
    assert names.literal(r"\(a)", "swift") == r'"\\(a)"'


# Every template.


@each_backend
@each_case
def test_every_place_is_filled_in(backend, case):
    files = filled(backend, case)

    assert files and not [path for path, text in files.items() if "@@" in path + text]
    assert "README.md" in files


@each_backend
@each_case
def test_python_files_compile_and_hold_the_real_names(backend, case):
    for path, text in filled(backend, case).items():
        if not path.endswith(".py"):
            continue
        tree = ast.parse(text, path)
        found = {node.targets[0].id: node.value for node in tree.body if isinstance(node, ast.Assign)
                 if isinstance(node.targets[0], ast.Name)}  # fmt: skip
        if path.endswith("model.py"):
            expected = facts(backend, **CASES[case])
            inputs = [(t["name"], tuple(t["shape"]), t["dtype"]) for t in expected["inputs"]]
            assert ast.literal_eval(found["INPUTS"]) == inputs
            assert ast.literal_eval(found["LABELS"]) == expected["labels"]


def test_an_input_without_a_form_in_the_language_is_refused_by_name():
    with pytest.raises(Unsupported, match="Kotlin template has no form of input 'x', which is float16"):
        fill.values_of(facts("litert", inputs=[("x", (1, 8), "float16")]))


def test_templates_travel_in_the_wheel():
    wheel = pytest.importorskip("hatchling.builders.wheel")

    carried = {
        Path(file.distribution_path).as_posix() for file in wheel.WheelBuilder(str(ROOT)).recurse_included_files()
    }

    every = [path for path in fill.TEMPLATES.rglob("*") if path.is_file()]
    assert every and all(path.suffix == ".in" for path in every)
    assert {path.relative_to(ROOT).as_posix() for path in every} <= carried


# Swift and Kotlin, parsed by tree-sitter's grammars.


def faults(path, text):
    """Return the places that the grammar of the file's language does not know."""
    tree_sitter = pytest.importorskip("tree_sitter")
    grammar = pytest.importorskip("tree_sitter_swift" if path.endswith(".swift") else "tree_sitter_kotlin")
    parser = tree_sitter.Parser(tree_sitter.Language(grammar.language()))
    waiting, found = [parser.parse(text.encode()).root_node], []
    while waiting:
        node = waiting.pop()
        waiting += node.children
        if node.type == "ERROR" or node.is_missing:
            found.append(f"{path}:{node.start_point[0] + 1}: {node.text.decode()[:80]}")
    return found


def foreign(files):
    return {path: text for path, text in files.items() if path.endswith((".swift", ".kt", ".kts"))}


@pytest.mark.parametrize("backend", ["coreml", "litert", "mlx"])
@each_case
def test_swift_and_kotlin_parse(backend, case):
    files = foreign(filled(backend, case))

    assert len(files) >= 3
    assert not [fault for path, text in files.items() for fault in faults(path, text)]


@pytest.mark.parametrize("backend", ["coreml", "litert", "mlx"])
def test_a_broken_file_does_not_parse(backend):
    """The test above can fail: one bracket less."""
    for path, text in foreign(filled(backend, "plain")).items():
        assert faults(path, "".join(text.rpartition(")")[::2])), path


def test_the_swift_interpreter_knows_what_its_switch_names(tmp_path):
    texts = filled("mlx", "plain")
    graph = {"nodes": [{"op": "aten.linear.default"}, {"op": "aten.view.default"}, {"op": "aten.fft.default"}]}
    (tmp_path / "graph.json").write_text(json.dumps(graph))

    assert fill.uncovered(tmp_path / "graph.json", texts) == {"aten.fft.default"}


# What runs here, for real.


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Return a function that exports the small network with its application; each backend once."""
    folder = tmp_path_factory.mktemp("exports")
    (folder / "small_net.py").write_text(MODULE)
    done = {}

    def make(backend, method):
        if extras.missing(catalog.BACKENDS.get(backend).extra):
            pytest.skip(extras.missing(catalog.BACKENDS.get(backend).extra))
        if backend not in done:
            subject = Subject("small_net:make", shapes=(Shape.parse("x=1x64"),), labels=tuple(map(str, range(32))))
            request = Request(subject, method, backend, Settings())
            with export.original(subject, [request], Settings()) as original:
                done[backend] = export.export(
                    request, original, folder / backend, lambda line: None, template=True, force=False
                )
        return done[backend].folder

    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        patch.setattr(export, "isolated", lambda modules, name, *given, settings: getattr(inside, name)(*given))
        yield make


def check(folder, *, path="app/python/check.py"):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, folder / path], capture_output=True, text=True, check=False, env=environment, cwd=folder
    )


def spoiled(folder, to):
    """A copy of an export whose recorded output is another: one value moved by twice what is allowed."""
    shutil.copytree(folder, to)
    golden = dict(np.load(to / "golden" / "golden.npz"))
    golden["output0"].flat[3] += 2 * manifest.check(folder)["golden"]["max_abs_error"]
    np.savez(to / "golden" / "golden.npz", **golden)
    golden["output0"].astype("<f4").tofile(to / "golden" / "output0.bin")
    return to


RUNS = [
    "onnxruntime int8_dynamic",
    pytest.param("bitsandbytes nf4", marks=pytest.mark.slow),
    "mlx int8_weight_only",
    pytest.param("pytorch int8_weight_only", marks=pytest.mark.slow),  # a C++ compiler runs
]


@pytest.mark.parametrize("run", RUNS)
def test_the_python_application_repeats_the_golden_output(made, run):
    folder = made(*run.split())

    done = check(folder)

    assert done.returncode == 0, done.stdout + done.stderr
    assert "as recorded" in done.stdout and "golden input: " in done.stdout


@pytest.mark.parametrize("run", RUNS)
def test_the_python_application_sees_another_golden_output(made, run, tmp_path):
    done = check(spoiled(made(*run.split()), tmp_path / "spoiled"))

    assert done.returncode == 1, done.stdout + done.stderr
    assert "NOT as recorded" in done.stdout


def test_the_onnxruntime_application_names_an_input_that_does_not_fit(made):
    folder = made("onnxruntime", "int8_dynamic")
    code = "import numpy, model; model.Model()(numpy.zeros((1, 63), numpy.float32))"

    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder / "app" / "python", capture_output=True, text=True, check=False
    )

    assert "x: got float32 (1, 63), expected float32 (1, 64)" in done.stderr


def test_the_swift_package_of_mlx_carries_the_artifact_and_parses(made):
    app = made("mlx", "int8_weight_only") / "app" / "swift"

    assert sorted(path.name for path in app.glob("Sources/*/Resources/*")) == ["graph.json", "weights.safetensors"]
    assert not [fault for path in app.rglob("*.swift") for fault in faults(path.name, path.read_text())]


def test_the_table_tells_where_to_go_on(made):
    folder = made("onnxruntime", "int8_dynamic")

    text = command.table(export.Exported(folder, manifest.check(folder), absurd=False))

    assert f"read {folder / 'app' / 'README.md'}" in text
    assert json.loads((folder / "manifest.json").read_text())["labels"][0] == "0"


def cpp_package():
    """Return where ONNX Runtime's C++ headers are: ONNXRUNTIME_ROOT, or the system's."""
    for root in (os.environ.get("ONNXRUNTIME_ROOT", ""), "/usr", "/usr/local"):
        if root and list(Path(root).glob("include/**/onnxruntime_cxx_api.h")):
            return Path(root)
    return None


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("cmake") is None, reason="needs cmake")
@pytest.mark.skipif(shutil.which("c++") is None, reason="needs a C++ compiler")
@pytest.mark.skipif(cpp_package() is None, reason="needs ONNX Runtime's C++ headers: set ONNXRUNTIME_ROOT")
def test_the_cpp_application_repeats_the_golden_output_and_sees_another(made, tmp_path):
    """The headers of the C++ package with the library that the Python wheel carries (its interface is versioned)."""
    runtime = pytest.importorskip("onnxruntime")
    folder, (library,) = (
        made("onnxruntime", "int8_dynamic"),
        Path(runtime.__file__).parent.glob("capi/libonnxruntime.so.*"),
    )
    (tmp_path / "lib").mkdir()
    for name in ("libonnxruntime.so", "libonnxruntime.so.1"):
        (tmp_path / "lib" / name).symlink_to(library)
    options = [f"-DONNXRUNTIME_ROOT={cpp_package()}", f"-DONNXRUNTIME_LIBRARY={tmp_path / 'lib' / 'libonnxruntime.so'}"]
    build = tmp_path / "build"

    subprocess.run(["cmake", "-S", folder / "app" / "cpp", "-B", build, *options], check=True, capture_output=True)
    subprocess.run(["cmake", "--build", build], check=True, capture_output=True)

    assert subprocess.run([build / "smallnetmodel"], check=False).returncode == 0
    assert subprocess.run([build / "smallnetmodel", spoiled(folder, tmp_path / "o")], check=False).returncode == 1
    assert subprocess.run([build / "smallnetmodel", tmp_path], check=False).returncode == 2

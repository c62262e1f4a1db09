"""Follows the recipes of CONTRIBUTING.md to the letter: writes their files, finds them in the catalog, runs a case."""

from __future__ import annotations

import inspect
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from quantkit import contracts
from quantkit.catalog import VARIABLE, Catalog
from quantkit.contracts import Observation
from quantkit.records import Case

ROOT = Path(__file__).resolve().parent.parent
BLOCK = re.compile(r"^```python\n# (?P<file>\S+\.py)\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)
RECIPES = {match["file"]: match["code"] for match in BLOCK.finditer((ROOT / "CONTRIBUTING.md").read_text())}
PROTOCOLS = {
    "datasets": contracts.Dataset,
    "zoo": contracts.Model,
    "methods": contracts.Method,
    "backends": contracts.Backend,
    "metrics": contracts.Metric,
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The recipes as files, in a folder that QUANTKIT_PLUGINS names."""
    for name, code in RECIPES.items():
        file = tmp_path / "my_plugins" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(code)
    monkeypatch.setenv(VARIABLE, str(tmp_path / "my_plugins"))
    return tmp_path / "my_plugins"


def recipe(family):
    """Return the plug-in of a family's recipe, found through the catalog."""
    (name,) = (Path(file).stem for file in RECIPES if file.startswith(f"{family}/"))
    return Catalog(family).get(name)


def test_every_promised_family_has_one_recipe():
    """One block each, named as in the folder listing of the text."""
    assert sorted(Path(file).parent.name for file in RECIPES) == sorted(PROTOCOLS)
    listing = (ROOT / "CONTRIBUTING.md").read_text().partition("my_plugins/\n")[2].partition("```")[0]
    assert listing.split() == list(RECIPES)


@pytest.mark.parametrize("family", PROTOCOLS)
def test_the_catalog_lists_and_loads_it(folder, family):
    """It has every member that its protocol names, with the same parameters."""
    plugin, protocol = recipe(family), PROTOCOLS[family]

    assert set(protocol.__annotations__) <= set(dir(plugin))
    for name, function in inspect.getmembers(protocol, inspect.isfunction):
        if not name.startswith("_"):
            assert list(inspect.signature(function).parameters)[1:] == list(
                inspect.signature(getattr(plugin, name)).parameters
            )


def test_listing_imports_nothing_heavy(folder):
    """All five load without a framework: their tops are as light as those of the package."""
    code = (
        "import sys; from quantkit.catalog import Catalog\n"
        f"for family in {list(PROTOCOLS)}:\n"
        f"    [Catalog(family).get(n) for n in {[Path(f).stem for f in RECIPES]} if n in Catalog(family).names()]\n"
        "sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ)


def test_the_dataset_keeps_calibration_apart(folder):
    """No item serves both, and a limit gives a prefix."""
    dataset = recipe("datasets")
    evaluation, calibration = dataset.evaluation(), dataset.calibration()

    assert not set(evaluation.ids) & set(calibration.ids)
    assert not {row.tobytes() for row in evaluation.inputs[0]} & {row.tobytes() for row in calibration.inputs[0]}
    assert dataset.evaluation(10).ids == evaluation.ids[:10]
    assert len(dataset.evaluation(10)) == len(dataset.evaluation(10).targets) == 10


def test_the_method_leaves_only_the_first_layer_in_float(folder):
    """Layer `0` of the model's three is the first that holds weights."""
    method, model = recipe("methods"), recipe("zoo")

    prepared = method.prepare(model.load(), recipe("datasets").evaluation(1).item(0), None)

    assert method.unsupported(model.info) is None
    assert prepared.plan.layers == {"0": None}
    assert prepared.plan.default.name == "w8a16"


@pytest.fixture
def answers(folder, tmp_path):
    """A function: method name -> (build report, outputs, outcomes, artifact bytes) of a case of the recipes alone."""
    dataset, model, backend = recipe("datasets"), recipe("zoo"), recipe("backends")
    split = dataset.evaluation(200)

    def run(name):
        method, place = Catalog("methods").get(name), tmp_path / name
        place.mkdir()
        case = Case("rings_mlp", name, "exported", "cpu")
        assert backend.unsupported(case, model.info, method.scheme) is None
        report = backend.build(method.prepare(model.load(), split.item(0), None), place, 1)
        session = backend.open(place, Catalog("targets").get("cpu"), 1)
        outputs = np.concatenate([session.fetch(session.run(session.feed(split.item(i)))) for i in range(len(split))])
        session.close()
        size = sum(file.stat().st_size for file in place.iterdir())
        return report, outputs, model.outcomes(outputs, split.targets), size

    return run


def test_a_case_of_recipes_runs_end_to_end(answers):
    """Rings lie 5 sigma from the middle, so every point is told right.

    bf16 rounds by at most 2^-9: five roundings of |x| < 2.5 err below 5 · 2.5 / 512 = 0.025; outputs span over 1.5.
    """
    _, reference, right, _ = answers("fp32")
    report, outputs, half_right, size = answers("half")
    (measured,) = recipe("metrics").measure(
        Observation(recipe("zoo").info, "half", report, size, outputs, reference, half_right, ())
    )

    assert right.mean() == 1.0
    assert half_right.mean() == 1.0
    assert report.weight_bytes == 2 * (2 * 64 + 64 + 64 * 2 + 2)
    assert [layer.bits for layer in report.layers] == [16, 16]
    assert 0 < measured.values[0] < 0.025 / 1.5


def test_the_backend_refuses_what_it_cannot_do(folder):
    """The reason is there before anything runs."""
    case = Case("rings_mlp", "first_layer_float", "exported", "cpu")

    assert "float formats only" in recipe("backends").unsupported(case, recipe("zoo").info, recipe("methods").scheme)


def test_the_pipeline_runs_a_case_of_recipes(folder, tmp_path):
    """As a user would: the folder named in the environment, then one command; the metric's figure is in the result."""
    settings = {"QUANTKIT_HOME": str(tmp_path / "home"), "QUANTKIT_RESULTS": str(tmp_path / "results.db")}
    run = ["run", "--models", "rings_mlp", "--methods", "half", "--backends", "exported", "--rounds", "2"]
    command = [sys.executable, "-m", "quantkit.cli"]

    done = subprocess.run([*command, *run], env=os.environ | settings, capture_output=True, text=True)
    shown = subprocess.run(
        [*command, "show", "rings_mlp-half-exported-cpu"], env=os.environ | settings, capture_output=True, text=True
    )

    assert done.returncode == 0, done.stderr
    assert "rings_mlp on cpu" in done.stdout
    measured = json.loads(shown.stdout)["measurements"]
    assert 0 < measured["worst_error"]["values"][0] < 0.025 / 1.5
    assert measured["quality"]["values"] == [1.0] * len(measured["quality"]["values"])

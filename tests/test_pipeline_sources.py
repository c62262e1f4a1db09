"""The hash of a plug-in's source: everything that decides what it does, and nothing else."""

import sys

import pytest

from quantkit.pipeline.sources import source_hash


def test_it_follows_helpers_beside_a_file(tmp_path):
    (tmp_path / "plug.py").write_text("from quantkit.family import _helper, other\n")
    before = source_hash(tmp_path / "plug.py")
    (tmp_path / "_nobody.py").write_text("not imported")
    assert source_hash(tmp_path / "plug.py") == before
    (tmp_path / "_helper.py").write_text("from quantkit.family._deeper import x")

    assert source_hash(tmp_path / "plug.py") != before


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A plug-in whose network is in a package of the user's own; modules that only look alike are beside it."""
    files = {
        "plugins/zoo/plug.py": "class Plug:\n    def load(self):\n        from theirnet.nets import make\n",
        "src/theirnet/__init__.py": "",
        "src/theirnet/nets/__init__.py": "from .mlp import make\n",
        "src/theirnet/nets/mlp.py": "import json, torch\nfrom ..blocks import Block\nfrom theirtools import grid\n",
        "src/theirnet/blocks.py": "WIDTH = 64\n",
        "src/theirnet/unused.py": "",
        "src/theirtools/grid.py": "# a namespace package\n",
        "src/json_unused.py": "",
        "lib/site-packages/installed/__init__.py": "",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    for folder in ("src", "lib/site-packages"):
        monkeypatch.syspath_prepend(str(tmp_path / folder))
    return tmp_path


@pytest.mark.parametrize(
    ("changed", "counts"),
    [
        ("plugins/zoo/plug.py", True), ("src/theirnet/__init__.py", True), ("src/theirnet/nets/__init__.py", True),
        ("src/theirnet/nets/mlp.py", True), ("src/theirnet/blocks.py", True), ("src/theirtools/grid.py", True),
        ("src/theirnet/unused.py", False), ("src/json_unused.py", False),
    ],
)  # fmt: skip
def test_it_follows_what_a_plug_in_imports_from_the_users_own_packages(project, changed, counts):
    before = source_hash(project / "plugins/zoo/plug.py")
    assert source_hash(project / "plugins/zoo/plug.py") == before

    (project / changed).write_text((project / changed).read_text() + "\n# changed\n")

    assert (source_hash(project / "plugins/zoo/plug.py") != before) is counts
    assert not [name for name in sys.modules if name.startswith("their")], "nothing is imported to find this out"


def test_installed_packages_are_known_by_their_version_only(project):
    plug = project / "plugins/zoo/plug.py"
    plug.write_text("import installed, numpy, nowhere, quantkit, sys\nfrom . import beside\n")
    before = source_hash(plug)

    (project / "lib/site-packages/installed/__init__.py").write_text("# changed\n")
    assert source_hash(plug) == before

    (project / "plugins/zoo/beside.py").write_text("def ( no Python\n")
    assert source_hash(plug) != before

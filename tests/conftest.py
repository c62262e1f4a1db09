"""Fixtures for all tests: the plug-ins of this folder, a cache and a results file that go away."""

from pathlib import Path

import pytest

from quantkit import catalog
from quantkit.pipeline import locks

PLUGINS = Path(__file__).parent / "plugins"
CATALOGS = (catalog.MODELS, catalog.DATASETS, catalog.METHODS, catalog.BACKENDS, catalog.TARGETS, catalog.METRICS)


@pytest.fixture(scope="session", autouse=True)
def busy_machine():
    """Tests run beside each other: unless a test is about it, what disturbs the machine taints nothing."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("QUANTKIT_DISTURBED", "keep")
        yield


@pytest.fixture
def plugins(monkeypatch):
    """The plug-ins of tests/plugins: model, data and toolchain that take milliseconds, a method that breaks."""
    monkeypatch.setenv(catalog.VARIABLE, str(PLUGINS))
    monkeypatch.delenv("TINY_BREAKS", raising=False)
    yield
    for family in CATALOGS:
        family._loaded.clear()


@pytest.fixture
def home(tmp_path, monkeypatch):
    """An empty cache, an empty results file, and locks of its own: no test waits for a run in another terminal."""
    monkeypatch.setenv("QUANTKIT_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("QUANTKIT_RESULTS", str(tmp_path / "results.db"))
    monkeypatch.setattr(locks, "lock_place", lambda: tmp_path / "locks")
    return tmp_path

"""The artifact of one case outside of a run: from the same cache as all others, or built first."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from quantkit.catalog import BACKENDS
from quantkit.errors import Unsupported
from quantkit.pipeline import keys
from quantkit.pipeline.cache import Entry, obtain
from quantkit.pipeline.isolate import Workshop
from quantkit.pipeline.locks import Room
from quantkit.pipeline.plan import unsupported
from quantkit.pipeline.settings import Settings, cache_folder
from quantkit.records import Case

Say = Callable[[str], None]


def artifact(case: Case, settings: Settings, say: Say) -> Entry:
    """Return the artifact of a case from the cache, or build it first in a process of its own.

    Raises:
        Unsupported: the case cannot run here.
    """
    if reason := unsupported(case):
        raise Unsupported(f"{case.id}: {reason}")

    def make(folder: Path) -> dict[str, Any]:
        with Room(say).shared(f"build {case.id}"):
            say(f"building  {case.id}")
            return built(case, "quantkit.pipeline.inside:build", folder, settings, settings)

    return obtain(cache_folder() / "artifacts", keys.artifact_key(case, settings), make, say)


def built(case: Case, function: str, folder: Path, settings: Settings, *arguments: Any) -> dict[str, Any]:
    """Run a building function in a process of its own that has imported the toolchain; return what it returns."""
    modules = "quantkit.pipeline.inside", *BACKENDS.get(case.backend).build_modules
    with Workshop(modules, {"TORCHINDUCTOR_CACHE_DIR": str(cache_folder() / "inductor")}) as shop:
        value: dict[str, Any] = shop.call(function, case, folder, *arguments, limits=settings.limits)
        return value

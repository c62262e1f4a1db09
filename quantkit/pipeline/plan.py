"""The matrix: every case that was asked for, and a reason for every hole in it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import product
from typing import Any

from quantkit import extras
from quantkit.catalog import BACKENDS, METHODS, MODELS, TARGETS, Catalog
from quantkit.errors import InvalidSetting, QuantizationError
from quantkit.pipeline.settings import Settings
from quantkit.records import Case

EVERYWHERE = {"cpu"}  # a target that says nothing of what can be timed


@dataclass(frozen=True)
class Planned:
    """A case, why it cannot run, and why it runs without being timed (both empty where nothing is in the way)."""

    case: Case
    reason: str = ""
    untimed: str = ""

    @property
    def markers(self) -> tuple[str, ...]:
        """The pytest markers of the case: target and domain."""
        return self.case.target, MODELS.get(self.case.model).info.domain


def plan(
    models: Sequence[str] | None = None,
    methods: Sequence[str] | None = None,
    *,
    backends: Sequence[str] | None = None,
    targets: Sequence[str] | None = None,
    profile: str = "fast",
) -> list[Planned]:
    """Return all cases of the matrix, model by model; None stands for all that the profile includes.

    A target that a backend does not know is a hole with a reason where both were named, else no case at all.

    Raises:
        UnknownName: a name that no catalog has; the message has the nearest one.
    """
    Settings.of(profile)  # refuses an unknown profile
    chosen = (
        _chosen(MODELS, models, lambda plugin: profile in plugin.info.profiles),
        _chosen(METHODS, methods, lambda plugin: profile in plugin.profiles),
        _chosen(BACKENDS, backends, lambda plugin: profile in plugin.profiles),
        _chosen(TARGETS, targets, lambda plugin: not plugin.simulated),
    )
    cases = (Case(model, method, backend, target) for model, target, backend, method in product(
        chosen[0], chosen[3], chosen[2], sorted(chosen[1], key=lambda name: (not METHODS.get(name).baseline, name))
    ))  # fmt: skip
    named = backends is not None and targets is not None
    cells = [case for case in cases if named or case.target in BACKENDS.get(case.backend).targets]
    return [Planned(case, unsupported(case) or "", untimed(case) or "") for case in cells]


def _chosen(catalog: Catalog, names: Sequence[str] | None, included: Callable[[Any], bool]) -> list[str]:
    if names is None:
        return [name for name, plugin in catalog.all().items() if included(plugin)]
    for name in names:
        catalog.get(name)
    return list(dict.fromkeys(names))


def case_of(text: str) -> Case:
    """Return the case of an id.

    Raises:
        InvalidSetting: not of the form of an id.
        UnknownName: a name that no catalog has; the message has the nearest one.
    """
    parts = text.split("-")
    if len(parts) != 4:
        raise InvalidSetting(f"a case is MODEL-METHOD-BACKEND-TARGET ('quantkit plan' lists them): got '{text}'")
    for family, name in zip((MODELS, METHODS, BACKENDS, TARGETS), parts, strict=True):
        family.get(name)
    return Case(*parts)


def unsupported(case: Case) -> str | None:
    """Return why a case cannot run here, or None. Imports no toolchain."""
    model, method = MODELS.get(case.model).info, METHODS.get(case.method)
    backend, target = BACKENDS.get(case.backend), TARGETS.get(case.target)
    for extra in (*model.extras, backend.extra):
        if extra and _missing(extra):
            owner = case.backend if extra == backend.extra else case.model
            return f"{owner} {_missing(extra)}"
    if case.target not in backend.targets:
        return f"{case.backend} does not run on {case.target}: it runs on {', '.join(backend.targets)}"
    if model.stepwise and not backend.stateful:
        return f"{case.backend} keeps no state between calls, as {case.model} needs"
    return target.unavailable() or method.unsupported(model) or backend.unsupported(case, model, method.scheme)


def left_out(planned: Planned, words: Collection[str]) -> bool:
    """Return whether a case is left out because it cannot be timed here and nobody asked for it: `words` were said.

    A benchmark is about speed; size and quality alone are given to who names the target, or a backend that cannot be
    timed here on any target.
    """
    case = planned.case
    if not planned.untimed or case.target in set(words) - EVERYWHERE:
        return False
    real = [name for name in BACKENDS.get(case.backend).targets if not TARGETS.get(name).simulated]
    elsewhere = any(untimed(replace(case, target=name)) is None for name in real)
    return elsewhere or case.backend not in words


def untimed(case: Case) -> str | None:
    """Return why a case's speed and memory cannot be measured here, or None; its size and quality still can."""
    return TARGETS.get(case.target).untimed() or BACKENDS.get(case.backend).untimed(case.target)


@cache
def _missing(extra: str) -> str | None:
    return extras.missing(extra)


def baseline_of(case: Case) -> Case:
    """Return the full-precision case that a case is compared with: same model, backend and target."""
    names = [name for name, method in METHODS.all().items() if method.baseline]
    if len(names) != 1:
        raise QuantizationError(f"exactly one method must be the baseline: got {', '.join(names) or 'none'}")
    return Case(case.model, names[0], case.backend, case.target)

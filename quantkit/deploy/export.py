"""From a network to a folder that can be shipped: artifact, manifest, golden data and, where asked for, an application.

Every step that loads a toolchain or a user's code runs in a process of its own; the folder appears under its name only
when it is whole.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from quantkit import extras
from quantkit.catalog import BACKENDS, METHODS, TARGETS
from quantkit.contracts import ModelInfo
from quantkit.deploy import fill, inside, manifest
from quantkit.deploy.request import Request, Subject
from quantkit.errors import (
    HardwareCompatibilityError,
    InvalidSetting,
    MissingExtra,
    QuantizationError,
    StorageError,
    Unsupported,
)
from quantkit.pipeline.isolate import Workshop
from quantkit.pipeline.result import build_report
from quantkit.pipeline.settings import Settings, cache_folder
from quantkit.records import Case

Say = Callable[[str], None]


@dataclass(frozen=True)
class Original:
    """The original's answers, kept in `folder` with the items and the data, and what the model is."""

    folder: Path
    info: ModelInfo
    names: tuple[str, ...]


@dataclass(frozen=True)
class Exported:
    """A finished export; `absurd` where its error is larger than its signal."""

    folder: Path
    manifest: dict[str, Any] = field(repr=False)
    absurd: bool


def isolated(modules: tuple[str, ...], function: str, *arguments: Any, settings: Settings) -> Any:
    """Return what a function of `deploy.inside` returns in a process of its own that has `modules` imported."""
    compiler_cache = {"TORCHINDUCTOR_CACHE_DIR": str(cache_folder() / "inductor")}
    with Workshop(("quantkit.deploy.inside", *modules), compiler_cache) as shop:
        return shop.call(f"quantkit.deploy.inside:{function}", *arguments, limits=settings.limits)


@contextmanager
def original(subject: Subject, requests: list[Request], settings: Settings) -> Iterator[Original]:
    """Give the original's answers to all items, for as long as the exports of this model need them."""
    needed = any(METHODS.get(request.method).needs_calibration for request in requests)
    with tempfile.TemporaryDirectory(prefix="quantkit-export-") as name:
        folder = Path(name)
        calibrated = settings.calibration if needed else 0
        facts = isolated(("torch",), "original", subject, folder, settings, calibrated, settings=settings)
        yield Original(folder, facts["info"], facts["names"])


def refuse(request: Request, info: ModelInfo) -> None:
    """Raise what stands in the way of an export, before anything is built.

    Raises:
        Unsupported: method or backend cannot do this; MissingExtra: a toolchain is not installed.
        HardwareCompatibilityError: the target that would run it is not here.
    """
    method, backend = METHODS.get(request.method), BACKENDS.get(request.backend)
    if request.subject.saved and not getattr(backend, "takes_saved_models", False):
        raise Unsupported(f"{backend.name} takes PyTorch networks: {info.title} is TensorFlow's, use --format litert")
    for extra in filter(None, (*info.extras, backend.extra)):
        if missing := extras.missing(extra):
            raise MissingExtra(f"{request.backend} {missing}")
    if reason := TARGETS.get(request.target).unavailable():
        raise HardwareCompatibilityError(reason)
    if info.stepwise and not backend.stateful:
        raise Unsupported(f"{backend.name} keeps no state between calls, as {info.name} needs")
    case = Case(info.name, request.method, request.backend, request.target)
    if reason := method.unsupported(info) or backend.unsupported(case, info, method.scheme):
        raise Unsupported(reason)


def export(request: Request, original: Original, place: Path, say: Say, *, template: bool, force: bool) -> Exported:
    """Build, run, compare and write one artifact to `place`.

    Raises:
        QuantizationError: what cannot be done, in one line; `place` is then as it was.
    """
    refuse(request, original.info)
    backend = BACKENDS.get(request.backend)
    name = f"{request.subject.title} {request.method} {request.backend}"
    with whole(place, force=force) as folder:
        artifact, settings = folder / manifest.ARTIFACT, request.settings
        artifact.mkdir()
        say(f"building  {name}")
        built = isolated(backend.build_modules, "build", request, original.folder, artifact, settings=settings)
        say(f"built     {name} in {built['elapsed_s']:.1f} s; running it with {backend.executor(request.target)}")
        with tempfile.TemporaryDirectory(prefix="quantkit-export-") as kept:
            places = original.folder, artifact, Path(kept)
            isolated(backend.run_modules, "answer", request, original.info, *places, settings=settings)
            answers = answers_of(original, Path(kept), name)
        report = manifest.with_ends(build_report(built["report"]), original.names, answers)
        facts = manifest.assemble(request, original.info, report, answers)
        manifest.write_golden(folder, facts, answers)
        facts = manifest.write(folder, facts)
        if template:
            fill.application(folder, facts)
    say(f"compared  {name} with the original on {facts['fidelity']['items']} items")
    return Exported(place, manifest.check(place), manifest.absurd(answers))


def answers_of(original: Original, kept: Path, name: str) -> dict[str, np.ndarray]:
    """Return the answers of original and artifact with the inputs.

    Raises:
        QuantizationError: the artifact answers in another shape, or with nan or inf.
    """
    reference, outputs = np.load(original.folder / inside.REFERENCE), np.load(kept / inside.OUTPUTS)
    if reference.shape != outputs.shape:
        shapes = list(outputs.shape[1:]), list(reference.shape[1:])
        raise QuantizationError(f"{name} answers {shapes[0]} where the original answers {shapes[1]}: it is not kept")
    for whose, array in (("the original network", reference), (name, outputs)):
        wrong = int((~np.isfinite(array.reshape(len(array), -1)).all(axis=1)).sum())
        if wrong:
            raise QuantizationError(f"{whose} answers nan or inf on {wrong} of {len(array)} items: nothing is kept")
    with np.load(original.folder / inside.ITEMS) as file:
        return {name: file[name] for name in file.files} | {"reference": reference, "outputs": outputs}


def vacant(place: Path, *, force: bool) -> None:
    """Refuse a place that cannot be written, or is taken and may not be replaced.

    Raises:
        StorageError: the nearest folder that exists cannot be written, or is a file.
        InvalidSetting: it exists; or with `force`, it is no export of ours.
    """
    above = next(parent for parent in place.parents if parent.exists())
    if not above.is_dir() or not os.access(above, os.W_OK):
        raise StorageError(f"cannot write {place}: {above} is no writable folder; choose another --out")
    if not place.exists() and not place.is_symlink():
        return
    if not force:
        raise InvalidSetting(f"{place} exists already: choose another --out, or --force to replace it")
    empty = place.is_dir() and not any(place.iterdir())
    if not empty and not (place / manifest.FILE).is_file():
        raise InvalidSetting(f"{place} is no export of quantkit, so --force does not replace it: choose another --out")


@contextmanager
def whole(place: Path, *, force: bool) -> Iterator[Path]:
    """Give a folder to fill; it gets the name `place` when the block ends well, and vanishes when it does not.

    Raises:
        StorageError: the folder cannot be written; InvalidSetting: `place` exists.
    """
    vacant(place, force=force)
    making = None
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        making = Path(tempfile.mkdtemp(dir=place.parent, prefix=".making-"))
        folder = making / "export"
        folder.mkdir()  # not `making` itself: mkdtemp lets nobody else read it
        yield folder
        vacant(place, force=force)  # somebody may have been quicker
        _swap(folder, place, aside=making / "replaced")
    except StorageError:
        raise
    except OSError as error:
        said = os.strerror(error.errno) if error.errno else str(error)
        raise StorageError(f"cannot write {place}: {said}; choose a writable folder with --out") from error
    finally:
        if making is not None:
            shutil.rmtree(making, ignore_errors=True)


def _swap(folder: Path, place: Path, aside: Path) -> None:
    """Give `folder` the name `place`; what had it goes aside, and comes back if that fails."""
    if place.exists():
        place.replace(aside)
    try:
        folder.replace(place)
    except BaseException:
        if aside.exists():
            aside.replace(place)
        raise

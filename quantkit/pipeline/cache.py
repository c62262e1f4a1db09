"""A cache of finished work: a folder named by the hash of all that went into it, with a manifest of what is in it."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from quantkit.errors import CorruptFile, StorageError
from quantkit.files import sha256_of, storage_error, write_atomic

MANIFEST = "manifest.json"


def digest(parts: Any) -> str:
    """Return the hash of any JSON value."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


@dataclass(frozen=True)
class Entry:
    """Finished work: its folder, the facts its maker returned, the size of its files without the manifest."""

    key: str
    folder: Path
    facts: dict[str, Any]
    size_bytes: int
    cached: bool = True


def read(folder: Path) -> Entry:
    """Return the entry in `folder`, every file's hash checked.

    Raises:
        CorruptFile: a file is missing, or is not the one that was made.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        recorded = manifest.pop("sha256")
    except (OSError, ValueError, KeyError, AttributeError):
        raise CorruptFile(f"{folder} has no readable manifest") from None
    if digest(manifest) != recorded:
        raise CorruptFile(f"{folder} has a manifest whose hash is not the recorded one")
    for name, entry in manifest["files"].items():
        if not (folder / name).is_file() or sha256_of(folder / name) != entry["sha256"]:
            raise CorruptFile(f"{folder / name} is not the file that was made")
    return Entry(
        manifest["key"], folder, manifest["facts"], sum(entry["bytes"] for entry in manifest["files"].values())
    )


def obtain(
    folder: Path, key: str, make: Callable[[Path], dict[str, Any]], say: Callable[[str], None], *, anew: bool = False
) -> Entry:
    """Return the entry of this key below `folder`, or let `make` write it into an empty folder first.

    An entry appears under its key only when it is whole; a corrupt one is said, removed and made again.

    Args:
        anew: make it even where there is one, which it then replaces.

    Raises:
        StorageError: the cache cannot be written.
    """
    place = folder / key[:32]
    if place.exists() and not anew:
        try:
            return read(place)
        except CorruptFile as error:
            say(f"corrupt cache: {error}; it is not used and is made again")
            shutil.rmtree(place, ignore_errors=True)
    building = None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        building = Path(tempfile.mkdtemp(dir=folder, prefix=".making-"))
        _write_manifest(building, key, make(building))
        if anew and place.exists():
            _put_away(place)
        _publish(building, place)
    except StorageError:
        raise
    except OSError as error:
        raise storage_error(error, place) from error
    finally:
        if building is not None:
            shutil.rmtree(building, ignore_errors=True)
    return replace(read(place), cached=False)


def _put_away(place: Path) -> None:
    """Remove an entry; its name is free at once, and whoever reads its files still has them."""
    old = Path(tempfile.mkdtemp(dir=place.parent, prefix=".making-"))
    place.replace(old)
    shutil.rmtree(old, ignore_errors=True)


def _publish(building: Path, place: Path) -> None:
    """Give finished work its name, unless another run was quicker: equal keys mean equal content."""
    try:
        building.replace(place)
    except OSError:
        if not place.exists():
            raise


def _write_manifest(folder: Path, key: str, facts: dict[str, Any]) -> None:
    files = {
        path.relative_to(folder).as_posix(): {"sha256": sha256_of(path), "bytes": path.stat().st_size}
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    manifest = {"key": key, "files": files, "facts": facts}
    manifest = json.loads(json.dumps(manifest))  # tuples become lists now, so that the hash is that of what is read
    manifest["sha256"] = digest(manifest)
    write_atomic(folder / MANIFEST, json.dumps(manifest, indent=1).encode())

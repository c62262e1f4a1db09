"""Files that must not lie: hashes checked before use, written whole or not at all."""

import errno
import hashlib
import os
import tempfile
from pathlib import Path

from quantkit.errors import CorruptFile, StorageError

ASSETS = Path(__file__).parent / "assets"


def cache_folder() -> Path:
    """Return where artifacts, compiler caches and fetched wheels are kept: QUANTKIT_HOME or ~/.cache/quantkit."""
    return Path(os.environ.get("QUANTKIT_HOME") or Path.home() / ".cache" / "quantkit").expanduser().absolute()


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def checked(path: Path, sha256: str) -> Path:
    """Return `path` after checking its hash.

    Raises:
        CorruptFile: it is missing, or its hash is another than the recorded one.
    """
    if not path.is_file():
        raise CorruptFile(
            f"{path} is missing: expected a file with sha256 {sha256[:12]}…; restore it from the repository"
        )
    got = sha256_of(path)
    if got != sha256:
        raise CorruptFile(
            f"{path} is corrupt: got sha256 {got[:12]}…, expected {sha256[:12]}…; restore it from the repository"
        )
    return path


def asset(location: str, sha256: str) -> Path:
    """Return a file of the package's assets, its hash checked."""
    return checked(ASSETS / location, sha256)


def write_atomic(path: Path, data: bytes) -> None:
    """Write a file whole or not at all (a temporary file beside it, synchronized, then renamed).

    Raises:
        StorageError: the folder cannot be written or the disk is full.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            Path(name).chmod(0o666 & ~_umask())  # mkstemp lets nobody else read it
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise storage_error(error, path) from error


def _umask() -> int:
    """Return this process's mask of new files; it can only be read by setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


def storage_error(error: OSError, path: Path) -> StorageError:
    """Return the one-line form of an operating system's refusal to write at `path`."""
    if error.errno == errno.ENOSPC:
        return StorageError(
            f"no space left on the disk that holds {path}: free some, then run the same command again; it continues"
        )
    reason = error.strerror or type(error).__name__
    return StorageError(
        f"cannot write {path}: {reason}; "
        "choose a writable folder, by the option that names this one or, for the cache, QUANTKIT_HOME"
    )

"""Another revision of the code: all its files in a folder of their own, and the paths of here as they are there."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from quantkit.catalog import VARIABLE
from quantkit.errors import InvalidSetting
from quantkit.latency.side import import_path


@dataclass(frozen=True)
class Checkout:
    """A revision's files.

    Args:
        revision: as it was asked for.
        files: folder of the whole repository as it was at that revision.
        tree: folder of the working tree.
        here: the working directory, in the files.
    """

    revision: str
    files: Path
    tree: Path
    here: Path

    def moved(self, path: str | Path) -> Path:
        """Return a path of the working tree as it is in the files; any other as it is."""
        real = Path(path).resolve()
        return self.files / real.relative_to(self.tree) if real.is_relative_to(self.tree) else Path(path).absolute()

    def searched(self, entry: str) -> str:
        """Return an entry of an import path: what the revision has, or git knows now, is the revision's.

        A virtual environment inside the repository is no code of it: it stays.
        """
        moved = self.moved(entry)
        if not Path(entry).is_absolute() or not moved.is_relative_to(self.files):
            return entry
        if moved.exists():
            return str(moved)
        return str(moved) if _git(self.tree, "ls-files", "--", str(Path(entry).resolve())) else entry

    @property
    def path(self) -> tuple[str, ...]:
        """Return this process's import path with the working directory first."""
        return tuple(dict.fromkeys((str(self.here), *(self.searched(entry) for entry in import_path()))))

    @property
    def environment(self) -> dict[str, str]:
        """Return the variables that name folders of code, for processes that the revision's code runs in or starts."""
        python = [self.searched(str(Path(entry).absolute())) for entry in _entries("PYTHONPATH")]
        plugins = [str(self.moved(entry)) for entry in _entries(VARIABLE)]
        return {
            "PYTHONPATH": os.pathsep.join(dict.fromkeys((str(self.here), *python))), VARIABLE: os.pathsep.join(plugins)
        }  # fmt: skip

    def package(self, name: str) -> Path | None:
        """Return the folder in the files that holds a package, as it is found first; None where there is none."""
        inside = (Path(entry) for entry in self.path if Path(entry).is_relative_to(self.files))
        folders = (*inside, self.files, *(folder for folder in sorted(self.files.iterdir()) if folder.is_dir()))
        return next((folder for folder in folders if (folder / name / "__init__.py").is_file()), None)


def _entries(variable: str) -> list[str]:
    return [entry for entry in os.environ.get(variable, "").split(os.pathsep) if entry]


@contextmanager
def checkout(revision: str, folder: Path | None = None) -> Iterator[Checkout]:
    """Unpack a revision of the repository round a folder; what is unpacked is removed at the end.

    Only the files that git keeps; the repository itself is not touched.

    Args:
        revision: any name that git knows.
        folder: the working directory by default.

    Raises:
        InvalidSetting: no git, no repository, no such revision, or the folder is not part of it.
    """
    here = (folder or Path.cwd()).resolve()
    what = f"revision '{revision}' of {here}"
    tree = Path(_git(here, "rev-parse", "--show-toplevel", what=what).decode().rstrip("\n")).resolve()
    commit = _git(here, "rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}", what=what).decode().strip()
    with TemporaryDirectory(prefix="quantkit-revision-", ignore_cleanup_errors=True) as place:
        files = Path(place).resolve() / (tree.name or "files")
        try:
            with tarfile.open(fileobj=io.BytesIO(_git(tree, "archive", commit, what=what))) as packed:
                packed.extractall(
                    files, filter="tar"
                )  # links stay as they are, outside ones too, as git checks them out
        except (tarfile.TarError, OSError) as error:
            raise InvalidSetting(
                f"{what} cannot be unpacked in {place}: {error}; set TMPDIR to another folder"
            ) from None
        files.mkdir(exist_ok=True)  # an empty revision
        inside = files / here.relative_to(tree)
        if not inside.is_dir():
            raise InvalidSetting(f"{what} has no folder {here.relative_to(tree)}: run it from one that it has")
        yield Checkout(revision, files, tree, inside)


def _git(folder: Path, *words: str, what: str = "the repository") -> bytes:
    try:
        done = subprocess.run(["git", "-C", str(folder), *words], capture_output=True, check=False)
    except OSError as error:
        raise InvalidSetting(
            f"git cannot be run ({error.strerror}): install it, or compare without REVISION@"
        ) from None
    if done.returncode:
        said = (done.stderr.decode(errors="replace").strip().splitlines() or ["git knows no commit of that name"])[-1]
        raise InvalidSetting(f"{what}: {said}")
    return done.stdout

"""Locks between processes: the kernel's own on files, which end with their holder, even by kill -9.

`Room` is a readers-writer lock for all runs of one user on one machine: untimed work (building, judging) shares the
room, timed work has it alone. It is one room for all targets, because every timed session needs the processor: builds
take its cores and its memory bandwidth, and work on a GPU or a neural engine is fed by it.

Nobody starves: whoever is next waits in the doorway, which one at a time fits in. While timed work waits there, no
further untimed work enters; and untimed work that waits there goes before the next timed one.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from quantkit.errors import StorageError
from quantkit.files import storage_error

Tell = Callable[[str], None]
PATIENCE_S = 1.0  # shorter waits are not worth a line
# Between two tries; a thread that blocks in the kernel could not be told to end.
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.002, 0.1


def lock_place() -> Path:
    """Return where this user's locks on this machine are."""
    return Path(tempfile.gettempdir()) / f"quantkit-{os.getuid()}"


def lock_folder() -> Path:
    """Return the folder of this user's locks on this machine, made where it is missing.

    Raises:
        StorageError: it cannot be written, or belongs to somebody else.
    """
    folder = lock_place()
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
    except OSError as error:
        raise storage_error(error, folder) from error
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise StorageError(f"{folder} is not this user's own folder: remove it, or set TMPDIR to a folder that is")
    return folder


@contextmanager
def locked(
    path: Path, *, share: bool = False, waiting: Callable[[float], None] = lambda seconds: None
) -> Iterator[int]:
    """Hold the lock of a file, which is made where it is missing; yield the file's descriptor.

    Args:
        share: together with others that share it; else alone.
        waiting: called with the seconds waited so far at every try that fails; what it raises ends the waiting.

    Raises:
        StorageError: the file cannot be opened.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise storage_error(error, path) from error
    try:
        _take(descriptor, fcntl.LOCK_SH if share else fcntl.LOCK_EX, waiting)
        yield descriptor
    finally:
        os.close(descriptor)  # nothing else has it: children are started without it


def _take(descriptor: int, how: int, waiting: Callable[[float], None]) -> None:
    started, pause = time.monotonic(), FIRST_PAUSE_S
    while True:
        try:
            fcntl.flock(descriptor, how | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            waiting(time.monotonic() - started)
        time.sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE_S)


def busy(path: Path) -> bool:
    """Return whether anybody holds the lock of a file at this moment."""
    try:
        with locked(path, waiting=_give_up):
            return False
    except BlockingIOError:
        return True


def _give_up(seconds: float) -> None:
    raise BlockingIOError


_here = threading.local()  # .rooms: folder -> whether this thread is alone in that room (or shares it)


class Room:
    """Where work is done; see above. Who is alone in it stays alone: entering again changes nothing.

    Args:
        tell: is given one line when somebody has to wait: who waits, and for what. The same line is told once.
        check: called again and again while waiting; what it raises ends the waiting.
        folder: where the lock's files are; by default this user's on this machine.
    """

    def __init__(
        self, tell: Tell = lambda line: None, check: Callable[[], None] = lambda: None, folder: Path | None = None
    ):
        self._tell, self._check, self._folder = tell, check, folder
        self._told = set[str]()

    @contextmanager
    def shared(self, what: str) -> Iterator[None]:
        """Be in the room together with others that share it, to do `what`."""
        with self._entered(what, share=True):
            yield

    @contextmanager
    def alone(self, what: str) -> Iterator[None]:
        """Be in the room alone, to do `what`: those who must wait are told it."""
        with self._entered(what, share=False):
            yield

    @contextmanager
    def _entered(self, what: str, *, share: bool) -> Iterator[None]:
        folder = self._folder or lock_folder()
        rooms: dict[Path, bool] = _here.__dict__.setdefault("rooms", {})
        if folder in rooms:
            assert share or rooms[folder], f"asked to be alone to {what} within untimed work: would wait for itself"
            yield
            return
        with self._through_the_door(folder, what, share=share) as room:
            rooms[folder] = not share
            _write(room, "" if share else what, "is alone to ")
            try:
                yield
            finally:
                _write(room, "")
                del rooms[folder]

    @contextmanager
    def _through_the_door(self, folder: Path, what: str, *, share: bool) -> Iterator[int]:
        door, room = folder / "door.lock", folder / "room.lock"

        def waiting(for_whom: Callable[[], str], seconds: float) -> None:
            self._check()
            if seconds > PATIENCE_S:
                self._say_once(f"waiting   to {what}: {for_whom()}")

        before = lambda: _read(room) or _read(door) or "others were first"  # noqa: E731 - two answers to one question
        inside = lambda: _read(room) or "untimed work has to end first"  # noqa: E731
        with contextlib.ExitStack() as entered:
            with locked(door, waiting=partial(waiting, before)) as doorway:
                _write(doorway, what, "waits to ")
                try:
                    descriptor = entered.enter_context(locked(room, share=share, waiting=partial(waiting, inside)))
                finally:
                    _write(doorway, "")
            yield descriptor

    def _say_once(self, line: str) -> None:
        if line not in self._told:
            self._told.add(line)
            self._tell(line)


def _write(descriptor: int, what: str, doing: str = "") -> None:
    """Write into a lock's file who holds it, for those who wait; nothing when it is given back."""
    os.ftruncate(descriptor, 0)
    if what:
        os.pwrite(descriptor, f"{os.getpid()} {doing}{what}".encode(), 0)


def _read(path: Path) -> str:
    """Return who holds a lock, as `process 12 is alone to time tiny_plane on cpu`; nothing where nobody says so."""
    try:
        pid, _, what = path.read_text(errors="replace").partition(" ")
        os.kill(int(pid), 0)
    except (OSError, ValueError):  # not there, empty, or written by somebody who was killed since
        return ""
    return f"process {pid} {what}"

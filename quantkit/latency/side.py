"""One side of a comparison: what is loaded anew for every block, and the process that its loads are forked from."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any

from quantkit.errors import CaseFailed

WORKER = Path(__file__).with_name("worker.py")
PATIENCE_S = 600.0  # for a load, or for one turn
LOOK_S = 0.5  # between two looks whether the process that is asked for a load is still there
FORKS = sys.platform.startswith("linux")


@dataclass(frozen=True)
class Side:
    """What is timed.

    Args:
        name: in tables.
        spec: how a load is made, see `worker.py`.
        folders: put first on the import path: the checkout of a revision.
        modules: imported once, before loads are forked.
        environment: variables of the process besides this one's own.
        folder: working directory; empty for this one's.
    """

    name: str
    spec: tuple[Any, ...]
    folders: tuple[str, ...] = ()
    modules: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    folder: str = ""

    @property
    def surroundings(self) -> tuple[Any, ...]:
        """Return what must be equal so that loads of two sides can be forked from one process."""
        return self.folders, tuple(sorted(self.environment.items())), self.folder


class Load:
    """A fresh load, waiting for its turns without using the processor."""

    def __init__(self, connection: Connection, host: Host):
        self._connection, self._host, self.cpu_s = connection, host, 0.0
        self.seconds = float(self._answer()[1])

    def time(self, budget_s: float, least: int, most: int) -> list[float]:
        """Return the seconds of call after call until their sum reaches the budget.

        Raises:
            CaseFailed: what is timed raised an error, crashed or did not answer.
        """
        with self._host.watched("crashed while it was timed"):
            self._connection.send(("for", budget_s, least, most))
        _, seconds, self.cpu_s = self._answer()
        return seconds

    def _answer(self) -> tuple[Any, ...]:
        with self._host.watched("crashed while it was timed"):
            if not self._connection.poll(PATIENCE_S):
                raise CaseFailed(f"{self._host.name} did not answer within {PATIENCE_S:.0f} s")
            message: tuple[Any, ...] = self._connection.recv()
        if message[0] == "error":
            raise CaseFailed(f"{self._host.name}: {message[1]}")
        return message

    def end(self) -> None:
        """Let the load go."""
        with contextlib.suppress(OSError):
            self._connection.send(("end",))
        self._connection.close()


class Host:
    """The process that loads are forked from; off Linux a new one for every load. A context manager."""

    def __init__(self, *sides: Side):
        self._sides, self.name = sides, " and ".join(side.name for side in sides)
        self._folder = tempfile.TemporaryDirectory(prefix="quantkit-", ignore_cleanup_errors=True)
        self._address, self._log = f"{self._folder.name}/loads", Path(self._folder.name) / "log"
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(self._address)
        self._socket.listen(4)
        self._process: subprocess.Popen[bytes] | None = None
        self._begun_at = self._begun_in_s = 0.0

    def __enter__(self) -> Host:
        if FORKS:
            self._begin()  # imports are nobody's time
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()
        self._socket.close()
        self._folder.cleanup()

    def load(self, side: Side) -> Load:
        """Return a fresh load of one of the sides.

        Raises:
            CaseFailed: it cannot be loaded; the message has the error.
        """
        if self._process is None or not FORKS:
            self._begin()
        with self.watched("ended before it could be loaded"):
            self._commands.send(("load", self._address, side.spec))
        joined = self._joined(side)
        joined.setblocking(True)
        return Load(Connection(joined.detach()), self)

    def _joined(self, side: Side) -> socket.socket:
        """Return the connection of the load that was asked for."""
        assert self._process is not None
        end = time.monotonic() + PATIENCE_S
        self._socket.settimeout(LOOK_S)
        while time.monotonic() < end:
            with contextlib.suppress(TimeoutError):
                return self._socket.accept()[0]
            if self._process.poll() is not None:
                raise CaseFailed(f"the process for {self.name} ended before it could be loaded{self.last_words()}")
        raise CaseFailed(f"{side.name} did not start within {PATIENCE_S:.0f} s{self.last_words()}")

    @contextlib.contextmanager
    def watched(self, what: str) -> Iterator[None]:
        """Say in one line that a process is gone: a broken pipe would be taken for the end of our own reader."""
        try:
            yield
        except (EOFError, BrokenPipeError, ConnectionResetError):
            raise CaseFailed(f"{self.name} {what}{self.last_words()}") from None

    def renew(self) -> None:
        """Start the process anew if that takes at most a third of the time: memory is laid out once per process."""
        if time.monotonic() - self._begun_at >= 2 * self._begun_in_s:
            self._end()

    def _begin(self) -> None:
        self._end()
        start = time.monotonic()
        self._commands, theirs = Pipe()
        first = self._sides[0]
        environment = os.environ | {"OMP_WAIT_POLICY": "PASSIVE"} | dict(first.environment)  # idle pools must not spin
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, str(WORKER), str(theirs.fileno())], pass_fds=[theirs.fileno()], env=environment,
                cwd=first.folder or None, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        theirs.close()
        with self.watched("ended at once"):
            self._commands.send(("path", [*first.folders, *filter(None, sys.path)]))
            self._commands.send(("import", list(dict.fromkeys(m for side in self._sides for m in side.modules))))
            self._commands.recv()
        self._begun_at = time.monotonic()
        self._begun_in_s = self._begun_at - start

    def _end(self) -> None:
        if self._process is not None:
            self._commands.close()
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def last_words(self) -> str:
        """Return the last line that came out of the process, for a message."""
        lines = self._log.read_text(errors="replace").strip().splitlines() if self._log.exists() else []
        return f"; its last words: {lines[-1][:200]}" if lines else ""

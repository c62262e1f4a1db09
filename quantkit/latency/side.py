"""One side of a comparison: what is loaded anew for every block, and the process that its loads are forked from."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any

from quantkit.errors import CaseFailed

Say = Callable[[str], None]
WORKER = Path(__file__).with_name("worker.py")
PATIENCE_S = 600.0  # for the imports, for a load, or for one turn
TELL_S = 5.0  # of waiting, after which a line says for what
LOOK_S = 0.5  # between two looks whether the process that is asked for a load is still there
REAPED_S = 3.0  # until it is known how a process ended
FORKS = sys.platform.startswith("linux")


def import_path() -> tuple[str, ...]:
    """Return where this process looks for modules, as folders that hold in another working directory too."""
    # What is no folder stays as it is: installers put words there that their own finders know.
    entries = (str(Path(entry).absolute()) if Path(entry).exists() else entry for entry in sys.path)
    return tuple(dict.fromkeys(entries))


@dataclass(frozen=True)
class Side:
    """What is timed.

    Args:
        name: in tables.
        spec: how a load is made, see `worker.py`.
        path: the whole import path; empty for this process's own.
        modules: imported once, before loads are forked.
        environment: variables of the process besides this one's own.
        folder: working directory; empty for this one's.
    """

    name: str
    spec: tuple[Any, ...]
    path: tuple[str, ...] = ()
    modules: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    folder: str = ""

    @property
    def surroundings(self) -> tuple[Any, ...]:
        """Return what must be equal so that loads of two sides can be forked from one process."""
        return self.path, tuple(sorted(self.environment.items())), self.folder


class Load:
    """A fresh load, waiting for its turns without using the processor."""

    def __init__(self, connection: Connection, host: Host, side: Side):
        self._connection, self._host, self._name, self.cpu_s = connection, host, side.name, 0.0
        self._pid = 0
        self._pid = int(self._answer("loaded")[1])
        self.seconds = float(self._answer("loaded")[1])

    def time(self, budget_s: float, least: int, most: int) -> list[float]:
        """Return the seconds of call after call until their sum reaches the budget.

        Raises:
            CaseFailed: what is timed raised an error, crashed, did not answer, or has a clock that does not rise.
        """
        with self._watched("timed"):
            self._connection.send(("for", budget_s, least, most))
        _, seconds, self.cpu_s = self._answer("timed")
        if bad := [value for value in seconds if not 0 < value < math.inf]:
            raise CaseFailed(
                f"{self._name}: its clock gave {bad[0]:g} s for a call, expected more than 0: "
                "use a finer clock, or do more work in a call"
            )
        return list(seconds)

    def _answer(self, done: str) -> tuple[Any, ...]:
        with self._watched(done):
            message = self._host.awaited(self._connection, f"{self._name} to be {done}")
        if message[0] == "error":
            raise CaseFailed(f"{self._name}: {message[1]}")
        return message

    @contextlib.contextmanager
    def _watched(self, done: str) -> Iterator[None]:
        with gone_as(lambda: f"{self._name} crashed while it was {done}{self._host.how_ended(self._pid)}"):
            yield

    def end(self) -> None:
        """Let the load go."""
        with contextlib.suppress(OSError):
            self._connection.send(("end",))
        self._connection.close()


class Host:
    """The process that loads are forked from; where forks are not safe, a new one for every load. A context manager.

    Args:
        sides: that have the same surroundings.
        say: gets a line where something takes long.
    """

    def __init__(self, *sides: Side, say: Say | None = None):
        self._sides, self.name = sides, " and ".join(side.name for side in sides)
        self._say, self._said = say or (lambda line: None), set[str]()
        self._folder = tempfile.TemporaryDirectory(prefix="quantkit-", ignore_cleanup_errors=True)
        self._address, self._log = f"{self._folder.name}/loads", Path(self._folder.name) / "log"
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(self._address)
        self._socket.listen(4)
        self._process: subprocess.Popen[bytes] | None = None
        self._loads: list[subprocess.Popen[bytes]] = []  # processes that serve one load each
        self._forks = FORKS
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
        if self._process is None:
            self._begin()
        assert self._process is not None
        with gone_as(lambda: f"the process for {side.name} ended before it could be loaded{self.how_ended(0)}"):
            self._commands.send(("load", self._address, side.spec))
        joined = self._joined(side)
        joined.setblocking(True)
        if not self._forks:
            self._loads = [process for process in self._loads if process.poll() is None] + [self._process]
            self._process = None
        return Load(Connection(joined.detach()), self, side)

    def _joined(self, side: Side) -> socket.socket:
        """Return the connection of the load that was asked for."""
        assert self._process is not None
        end = time.monotonic() + PATIENCE_S
        self._socket.settimeout(LOOK_S)
        while time.monotonic() < end:
            with contextlib.suppress(TimeoutError):
                return self._socket.accept()[0]
            if self._process.poll() is not None:
                raise CaseFailed(f"the process for {side.name} ended before it could be loaded{self.how_ended(0)}")
        raise CaseFailed(f"{side.name} did not start within {PATIENCE_S:.0f} s{self.last_words()}")

    def awaited(self, connection: Connection, what: str) -> tuple[Any, ...]:
        """Return the next message; say for what it waits where that takes long.

        Raises:
            CaseFailed: nothing came for ten minutes.
        """
        if not connection.poll(TELL_S):
            self._tell(f"waiting for {what}")
            if not connection.poll(PATIENCE_S - TELL_S):
                raise CaseFailed(f"waited {PATIENCE_S:.0f} s for {what}: it hangs, or does too much{self.last_words()}")
        message: tuple[Any, ...] = connection.recv()
        return message

    def _tell(self, line: str) -> None:
        if line not in self._said:
            self._said.add(line)
            self._say(line)

    def how_ended(self, pid: int) -> str:
        """Return how a load ended, in brackets, and the last words; `pid` 0 is the process of all loads."""
        own = [*self._loads, *filter(None, [self._process])]
        process = next((process for process in own if process.pid == pid), None if pid else self._process)
        status: int | None = None
        with contextlib.suppress(OSError, EOFError, subprocess.TimeoutExpired):
            if process is not None:
                status = process.wait(REAPED_S)
            elif self._process is not None:
                self._commands.send(("ended", pid))
                status = self._commands.recv()[1] if self._commands.poll(REAPED_S) else None
        if status is None:
            return self.last_words()
        how = f"killed by {_signal(-status)}" if status < 0 else f"exit status {status}"
        return f" ({how}){self.last_words()}"

    def renew(self) -> None:
        """Start the process anew if that takes at most a third of the time: memory is laid out once per process."""
        if self._forks and time.monotonic() - self._begun_at >= 2 * self._begun_in_s:
            self._end()

    def _begin(self) -> None:
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
        with gone_as(lambda: f"the process for {self.name} ended while it imported{self.how_ended(0)}"):
            self._commands.send(("path", list(first.path or import_path())))
            self._commands.send(("import", list(dict.fromkeys(m for side in self._sides for m in side.modules))))
            forks = bool(self.awaited(self._commands, f"the imports of {self.name}")[1])
        if FORKS and not forks:
            self._tell(f"imports of {self.name} start threads: every load is a process of its own, which takes longer")
        self._forks, self._begun_at = forks, time.monotonic()
        self._begun_in_s = self._begun_at - start

    def _end(self) -> None:
        if self._process is not None:
            self._commands.close()
        alive = [process for process in self._loads if process.poll() is None]
        for process in [*alive, *filter(None, [self._process])]:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        self._process, self._loads = None, []

    def last_words(self) -> str:
        """Return the last line that came out of the process, for a message."""
        lines = self._log.read_text(errors="replace").strip().splitlines() if self._log.exists() else []
        return f"; its last words: {lines[-1][:200]}" if lines else ""


@contextlib.contextmanager
def gone_as(said: Callable[[], str]) -> Iterator[None]:
    """Say in one line that a process is gone: a broken pipe would be taken for the end of our own reader."""
    try:
        yield
    except (EOFError, BrokenPipeError, ConnectionResetError):
        raise CaseFailed(said()) from None


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"

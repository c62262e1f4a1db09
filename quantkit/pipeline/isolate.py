"""Runs a function in a process of its own, with a limit on time and memory: a crash costs one case."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from multiprocessing import Pipe
from pathlib import Path
from typing import Any

from quantkit import errors
from quantkit.errors import CaseFailed
from quantkit.files import storage_error
from quantkit.pipeline.family import held_bytes


@dataclass(frozen=True)
class Limits:
    """What one process, and all that it starts, may take before they are killed."""

    time_s: float
    memory_bytes: int


class Workshop:
    """A place to run jobs, one after the other, each in a fresh process that has `modules` imported already.

    Use it as a context manager; jobs are functions named as "module:function" whose arguments and value can be pickled.
    """

    def __init__(self, modules: Sequence[str], environment: Mapping[str, str] | None = None):
        self._modules, self._environment = tuple(modules), dict(environment or {})
        self._process: subprocess.Popen | None = None
        self._job = 0  # process of the job that runs

    def __enter__(self) -> Workshop:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the host; a job that is running ends with it."""
        if self._process is not None:
            self._connection.close()
            _kill(self._job or self._process.pid)
            self._process.kill()
            self._process.wait()
            self._process = None

    def _open(self) -> None:
        self._connection, theirs = Pipe()
        environment = os.environ | {"OMP_WAIT_POLICY": "PASSIVE"} | self._environment  # idle pools must not spin
        command = [sys.executable, "-m", "quantkit.pipeline.host", str(theirs.fileno()), *self._modules]
        self._process = subprocess.Popen(
            command, pass_fds=[theirs.fileno()], env=environment, stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        theirs.close()
        try:
            self._connection.recv()  # ready: the imports are not part of any case's time
        except EOFError:
            self.close()
            modules = ", ".join(self._modules)
            raise CaseFailed(f"the host of cases ended at once: try python -c 'import {modules}'") from None

    def call(self, function: str, *arguments: Any, limits: Limits) -> Any:
        """Return what the function returns in a process of its own.

        Raises:
            CaseFailed: it crashed, was killed, or ran past a limit; the message says which.
            QuantizationError: the error of ours that it raised, of the same class.
        """
        if self._process is None:
            self._open()
        try:
            handle, log = tempfile.mkstemp(prefix="quantkit-", suffix=".log")
        except OSError as error:
            raise storage_error(error, Path(tempfile.gettempdir())) from error
        os.close(handle)
        try:
            self._connection.send((function, arguments, log))
            return self._watch(limits, Path(log))
        except (BrokenPipeError, ConnectionResetError) as error:
            self.close()
            raise CaseFailed(f"the process that cases start from has ended: {error}") from None
        finally:
            Path(log).unlink(missing_ok=True)

    def _watch(self, limits: Limits, log: Path) -> Any:
        """Follow one job to its end."""
        started, pid, killed, answer = time.monotonic(), 0, "", None
        while True:
            if not self._connection.poll(0.1):
                killed = killed or (_over(pid, started, limits) if pid else "")
                continue
            try:
                message = self._connection.recv()
            except (EOFError, ConnectionResetError):
                status = self._process.wait() if self._process else 1
                self.close()
                message = ("exit", status)
            if message[0] == "started":
                pid = self._job = message[1]
            elif message[0] == "exit":
                _kill(pid)  # whatever the case itself had started
                self._job = 0
                return _value(answer, killed, message[1], log)
            else:
                answer = message


def _over(pid: int, started: float, limits: Limits) -> str:
    """Kill a process that is over a limit; return why, or an empty string."""
    elapsed = time.monotonic() - started
    reason = ""
    if elapsed > limits.time_s:
        reason = f"killed after {elapsed:.0f} s: the time limit is {limits.time_s:.0f} s (--time-limit)"
    used = held_bytes(pid, limits.memory_bytes)
    if used > limits.memory_bytes:
        limit = f"the memory limit is {limits.memory_bytes / 2**30:.3g} GiB (--memory-limit)"
        reason = f"killed at {used / 2**30:.3g} GiB: {limit}"
    if reason:
        _kill(pid)
    return reason


def _kill(pid: int) -> None:
    """Kill the case's process group: its own where the host forks, else the host's."""
    if pid:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, signal.SIGKILL)


def _value(answer: tuple | None, killed: str, status: int, log: Path) -> Any:
    if killed:
        raise CaseFailed(killed)
    if answer is None:
        raise CaseFailed(_crash(status, log))
    if answer[0] == "done":
        return answer[1]
    raise getattr(errors, answer[1], CaseFailed)(answer[2])


def _crash(status: int, log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines() if log.exists() else []
    last = f"; its last words: {lines[-1][:200]}" if lines else ""
    if status < 0:
        name = signal.Signals(-status).name
        hint = " (the system's out-of-memory killer, or somebody's kill)" if name == "SIGKILL" else ""
        return f"crashed: killed by {name}{hint}{last}"
    return f"ended with status {status} and no answer{last}"

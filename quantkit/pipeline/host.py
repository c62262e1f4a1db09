"""The process that cases are forked from: it has imported a runtime once, and does nothing else.

    python -m quantkit.pipeline.host FD MODULE...

It reads jobs (a function's name and its arguments) from the connection FD. On Linux every job runs in a fork of its
own, which shares the imports and starts within milliseconds; elsewhere (forking after importing a framework is not
safe on macOS) the host runs one job itself and ends. Messages back: ("started", pid), then ("done", value) or
("error", kind, message), then ("exit", status). The host and its forks die with the process that started them.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import gc
import importlib
import os
import signal
import sys
import threading
import time
import traceback
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from quantkit.errors import QuantizationError
from quantkit.files import storage_error

FORKS = sys.platform.startswith("linux")
Job = tuple[str, tuple[Any, ...], str]  # "module:function", arguments, log file


def die_with_host() -> None:
    """Ask the kernel to end this process when the one that forked it ends, even by kill -9."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def watch_parent(parent: int) -> None:
    """End this process once its parent has ended."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def work(connection: Connection, job: Job) -> None:
    """Run one job; its output goes to the job's log file, its value or error to the connection."""
    name, arguments, log = job
    with Path(log).open("ab", buffering=0) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    try:
        module, _, function = name.partition(":")
        value = getattr(importlib.import_module(module), function)(*arguments)
    except QuantizationError as error:
        traceback.print_exc()
        connection.send(("error", type(error).__name__, str(error)))
    except OSError as error:
        traceback.print_exc()
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
        message = str(storage_error(error, Path(error.filename or "the cache"))) if full else _one_line(error)
        connection.send(("error", "StorageError" if full else "CaseFailed", message))
    except MemoryError:
        connection.send(("error", "CaseFailed", "out of memory"))
    except Exception as error:
        # The one place that answers any error: here it costs one case, and is stored with its message.
        traceback.print_exc()
        connection.send(("error", "CaseFailed", _one_line(error)))
    else:
        connection.send(("done", value))


def _one_line(error: Exception) -> str:
    last = traceback.extract_tb(error.__traceback__)[-1]
    text = " ".join(str(error).split())
    text = text if len(text) <= 300 else text[:297] + "..."
    return f"{type(error).__name__}: {text} ({Path(last.filename).name}:{last.lineno})"


def _fork(connection: Connection, job: Job) -> None:
    pid = os.fork()
    if pid == 0:
        try:
            die_with_host()
            os.setpgid(0, 0)  # so that a compiler started by the case can be killed with it
            connection.send(("started", os.getpid()))
            work(connection, job)
        finally:
            os._exit(0)
    ended = os.pidfd_open(pid)
    if connection in wait([connection, ended]):  # nothing is sent while a job runs: this is the end of who asked for it
        os.killpg(pid, signal.SIGKILL)
        os._exit(1)
    os.close(ended)
    _, status = os.waitpid(pid, 0)
    connection.send(("exit", os.waitstatus_to_exitcode(status)))


def main() -> None:
    """Import the modules named on the command line, then serve jobs until the connection closes."""
    connection = Connection(int(sys.argv[1]))
    if not FORKS:
        threading.Thread(target=watch_parent, args=(os.getppid(),), daemon=True).start()
    for module in sys.argv[2:]:
        with contextlib.suppress(Exception):  # the job that needs it imports it again, and says what is wrong
            importlib.import_module(module)
    gc.collect()
    gc.freeze()  # a fork's collector must not write to the host's objects: each page would become the fork's own memory
    connection.send(("ready", os.getpid()))
    while True:
        try:
            job = connection.recv()
        except EOFError:
            return
        if FORKS:
            _fork(connection, job)
        else:
            connection.send(("started", os.getpid()))
            work(connection, job)
            return


if __name__ == "__main__":
    main()

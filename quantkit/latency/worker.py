"""The process in which one side of a comparison runs; a single file without any import of ours.

    python worker.py FD

It is started by its path, so that it can time code of any revision, quantkit's own included. Commands come over the
connection FD as tuples: ("path", folders), ("import", modules), ("load", address, spec), ("end",). A load is a
fork on Linux, which shares the imports and nothing else; elsewhere (forking after importing a framework is not safe on
macOS) the process itself serves one load and ends. A load connects to the socket `address`, makes its callable, sends
("ready", seconds of making), then answers until ("end",): ("for", seconds, least, most) -> the seconds of each call
until their sum reaches the budget, and the processor seconds of the process so far.

A spec is ("factory", "module:name", *arguments), ("pickled", bytes of a callable), ("pickled factory", bytes), or
("slow", share, spec): the callable of the inner spec, each call followed by spinning for that share of its own time.
"""

import contextlib
import ctypes
import gc
import importlib
import os
import pickle
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

FORKS = sys.platform.startswith("linux")
Spec = tuple[Any, ...]
Call = Callable[[], Any]
Clock = Callable[[], float]
Wait = Callable[[], Any]


def made(spec: Spec) -> tuple[Call, Clock, Wait | None]:
    """Return (callable, clock, wait) of a spec; `wait` returns when all work given to the device is done."""
    if spec[0] == "slow":
        call, clock, wait = made(spec[2])
        return slowed(call, spec[1], clock, wait), clock, wait
    call = pickle.loads(spec[1]) if spec[0] == "pickled" else factory_of(spec)(*spec[2:])
    if not callable(call):
        raise TypeError(f"the factory returned {type(call).__name__}: it must return what is to be timed, a callable")
    return call, getattr(call, "clock", time.perf_counter), getattr(call, "wait", None)


def factory_of(spec: Spec) -> Callable[..., Call]:
    """Return the factory of a spec."""
    if spec[0] == "pickled factory":
        return pickle.loads(spec[1])
    module, _, name = spec[1].partition(":")
    factory: Any = importlib.import_module(module)
    for part in name.split("."):
        factory = getattr(factory, part)
    return factory


def slowed(call: Call, share: float, clock: Clock, wait: Wait | None) -> Call:
    """Return a callable that takes 1 + share times as long: an injected slow-down of known size."""

    def slow() -> Any:
        start = clock()
        value = call()
        if wait:
            wait()
        now = clock()
        end = now + share * (now - start)
        while clock() < end:
            pass
        return value

    return slow


def timed(call: Call, clock: Clock, wait: Wait | None, budget_s: float, least: int, most: int) -> list[float]:
    """Return the seconds of each call, the device waited for at both ends, until their sum reaches the budget."""
    found: list[float] = []
    spent = 0.0
    while len(found) < least or (spent < budget_s and len(found) < most):
        if wait:
            wait()
        start = clock()
        call()
        if wait:
            wait()
        found.append(clock() - start)
        spent += found[-1]
    return found


def serve(address: str, spec: Spec) -> None:
    """Load, then answer commands until the end; an error of the timed code is answered in one line."""
    joined = socket.socket(socket.AF_UNIX)
    joined.connect(address)
    connection = Connection(joined.detach())
    try:
        start = time.perf_counter()
        call, clock, wait = made(spec)
        connection.send(("ready", time.perf_counter() - start))
        gc.collect()
        gc.disable()
        while (command := connection.recv())[0] == "for":
            connection.send(("seconds", timed(call, clock, wait, *command[1:]), time.process_time()))
    except (EOFError, BrokenPipeError):  # who asked has gone
        return
    except BaseException as error:  # it costs one comparison, which says it
        traceback.print_exc()
        with contextlib.suppress(OSError):
            connection.send(("error", f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"))


def fork(connection: Connection, address: str, spec: Spec) -> None:
    """Serve a load in a fork of its own; it ends with this process."""
    pid = os.fork()
    if pid == 0:
        try:
            ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
            connection.close()
            serve(address, spec)
        finally:
            sys.stderr.flush()
            os._exit(0)


def main() -> None:
    """Serve commands until the connection closes."""
    connection = Connection(int(sys.argv[1]))
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # loads that have ended are not kept
    while True:
        try:
            command = connection.recv()
        except EOFError:
            return
        if command[0] == "path":
            sys.path[:0] = command[1]
        elif command[0] == "import":
            for module in command[1]:
                with contextlib.suppress(Exception):  # the load that needs it imports it again, and says what is wrong
                    importlib.import_module(module)
            connection.send(("imported",))
        elif command[0] == "load" and FORKS:
            fork(connection, *command[1:])
        elif command[0] == "load":
            serve(*command[1:])
            return
        else:
            return


if __name__ == "__main__":
    main()

"""The process in which one side of a comparison runs; a single file without any import of ours.

    python worker.py FD

It is started by its path, so that it can time code of any revision, quantkit's own included. Commands come over the
connection FD as tuples: ("path", the whole import path), ("import", modules) -> whether loads will be forks, ("load",
address, spec), ("ended", pid) -> the exit status of a load (the negative signal that killed it; None where it is not
known), ("end",). A load is a fork on Linux, which shares the imports and nothing else; elsewhere (forking after
importing a framework is not safe on macOS), and where an import has started threads (a fork would lack them and wait
for them for ever), the process itself serves one load and ends. A load connects to the socket `address`, sends
("pid", its own), makes its callable, sends ("ready", seconds of making), then answers until ("end",):
("for", seconds, least, most) -> the seconds of each call until their sum reaches the budget, and the processor seconds
of the process and of its children that have ended.

A spec is ("factory", "module:name", *arguments), ("pickled", bytes of a callable), ("pickled factory", bytes),
("slow", share, spec): the callable of the inner spec, each call followed by spinning for that share of its own time, or
("of", files, tree, spec): the factory of the inner spec, whose modules must be those of a revision, unpacked in the
folder `files`, and not those of the working tree.
"""

import contextlib
import ctypes
import gc
import importlib
import inspect
import os
import pickle
import resource
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

FORKS = sys.platform.startswith("linux")
IDLE_THREADS = {"onnxruntime": 1}  # that an import starts and that no session waits for: forks may lack them
REAPED_S = 2.0  # until the kernel has told how a process ended
WAY_OUT = (
    "a call would only make it and do none of the work; time a function that runs it to its end (asyncio.run, list)"
)
ELSEWHERE = "take away the installation that finds it there, and put the folder of the module on PYTHONPATH"
Spec = tuple[Any, ...]
Call = Callable[[], Any]
Clock = Callable[[], float]
Wait = Callable[[], Any]
ENDED: dict[int, int] = {}


def made(spec: Spec) -> tuple[Call, Clock, Wait | None]:
    """Return (callable, clock, wait) of a spec; `wait` returns when all work given to the device is done."""
    if spec[0] == "slow":
        call, clock, wait = made(spec[2])
        return slowed(call, spec[1], clock, wait), clock, wait
    if spec[0] == "of":
        return made_of(*spec[1:])
    call = pickle.loads(spec[1]) if spec[0] == "pickled" else factory_of(spec)(*spec[2:])
    if not callable(call):
        close = getattr(call, "close", None)
        if inspect.iscoroutine(call) and close:
            close()  # else Python warns that it was never awaited
        raise TypeError(f"the factory returned {type(call).__name__}: it must return what is to be timed, a callable")
    if kind := unfinished(call):
        raise TypeError(f"what is to be timed is {kind}: {WAY_OUT}")
    return call, getattr(call, "clock", time.perf_counter), getattr(call, "wait", None)


def unfinished(call: Call) -> str:
    """Return what kind of function does no work when it is called; an empty string for all others."""
    tests = (
        ("an async function", inspect.iscoroutinefunction), ("a generator function", inspect.isgeneratorfunction),
        ("an async generator function", inspect.isasyncgenfunction),
    )  # fmt: skip
    called = (call, getattr(type(call), "__call__", None))  # noqa: B004 - the method itself, not whether there is one
    return next((kind for kind, test in tests for one in called if test(one)), "")


def working(call: Call) -> Call:
    """Return the callable with a look at what it returns, for the calls that are not kept."""

    def looked() -> None:
        value = call()
        if inspect.iscoroutine(value) or inspect.isgenerator(value) or inspect.isasyncgen(value):
            if inspect.iscoroutine(value):
                value.close()
            raise TypeError(f"what is timed returned a {type(value).__name__}: {WAY_OUT}")

    return looked


def factory_of(spec: Spec) -> Callable[..., Call]:
    """Return the factory of a spec."""
    if spec[0] == "pickled factory":
        return pickle.loads(spec[1])
    module, _, name = spec[1].partition(":")
    factory: Any = importlib.import_module(module)
    for part in name.split("."):
        factory = getattr(factory, part)
    return factory


def made_of(files: str, tree: str, spec: Spec) -> tuple[Call, Clock, Wait | None]:
    """Return what `made` returns, after a look at where the modules came from.

    Args:
        files: folder of the revision's files.
        tree: folder of the working tree.
        spec: of a factory.

    Raises:
        ImportError: the factory's module, or one that the revision has too, is not the revision's.
    """
    name = spec[1].partition(":")[0]
    module = importlib.import_module(name)
    file = getattr(module, "__file__", None) or next(iter(getattr(module, "__path__", [])), "nowhere")
    if not os.path.realpath(file).startswith(os.path.realpath(files) + os.sep):
        raise ImportError(f"module {name} came from {file}, not from the revision's files: {ELSEWHERE}")
    found = made(spec)
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None) or ""
        inside = module is not sys.modules["__main__"] and file.startswith(tree + os.sep)  # that is this file itself
        if inside and (Path(files) / Path(file).relative_to(tree)).exists():
            raise ImportError(f"module {name} came from the working tree ({file}): {ELSEWHERE}")
    return found


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


def cpu_s() -> float:
    """Return the processor seconds of this process and of its children that have ended."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def serve(address: str, spec: Spec) -> None:
    """Load, then answer commands until the end; an error of the timed code is answered in one line."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # what is timed may start processes of its own and ask how they ended
    joined = socket.socket(socket.AF_UNIX)
    joined.connect(address)
    connection = Connection(joined.detach())
    try:
        connection.send(("pid", os.getpid()))
        start = time.perf_counter()
        call, clock, wait = made(spec)
        connection.send(("ready", time.perf_counter() - start))
        gc.collect()
        gc.disable()
        first = working(call)  # the warm-up
        while (command := connection.recv())[0] == "for":
            seconds = timed(first, clock, wait, *command[1:])
            connection.send(("seconds", seconds, cpu_s()))
            first = call
    except (EOFError, BrokenPipeError):  # who asked has gone
        return
    except BaseException as error:  # it costs one comparison, which says it
        traceback.print_exc()
        with contextlib.suppress(OSError):
            connection.send(("error", f"{type(error).__name__}: {' '.join(str(error).split())[:400]}"))


def fork(connection: Connection, address: str, spec: Spec) -> None:
    """Serve a load in a fork of its own; it ends with this process."""
    signal.signal(signal.SIGCHLD, reap)  # not before: what imports start is theirs to wait for
    pid = os.fork()
    if pid == 0:
        try:
            ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
            connection.close()
            serve(address, spec)
        finally:
            sys.stderr.flush()
            os._exit(0)


def reap(number: int, frame: object) -> None:
    """Note how loads have ended; they are not kept."""
    with contextlib.suppress(ChildProcessError):
        while (found := os.waitpid(-1, os.WNOHANG))[0]:
            ENDED[found[0]] = os.waitstatus_to_exitcode(found[1])


def ended(pid: int) -> int | None:
    """Return the exit status of a load that is about to end."""
    end = time.monotonic() + REAPED_S
    while pid not in ENDED and time.monotonic() < end:
        time.sleep(0.01)
    return ENDED.get(pid)


def forkable() -> bool:
    """Return whether loads may be forks: no thread runs that they would lack.

    Threads that a library ends before any fork by itself, as OpenBLAS does, are gone after one that does nothing.
    """
    if not FORKS or threading.active_count() > 1:
        return False
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    allowed = 1 + sum(count for module, count in IDLE_THREADS.items() if module in sys.modules)
    end = time.monotonic() + 0.2  # a thread that was joined stays in the list for a moment
    while (count := len(list(Path("/proc/self/task").iterdir()))) > allowed and time.monotonic() < end:
        time.sleep(0.002)
    return count <= allowed


def main() -> None:
    """Serve commands until the connection closes."""
    connection = Connection(int(sys.argv[1]))
    forks = FORKS
    while True:
        try:
            command = connection.recv()
        except EOFError:
            return
        if command[0] == "path":
            sys.path[:] = command[1]  # nothing beside it: not this file's folder, nor what the environment adds
        elif command[0] == "import":
            for module in command[1]:
                with contextlib.suppress(Exception):  # the load that needs it imports it again, and says what is wrong
                    importlib.import_module(module)
            forks = forkable()
            connection.send(("imported", forks))
        elif command[0] == "ended":
            connection.send(("ended", ended(command[1])))
        elif command[0] == "load" and forks:
            fork(connection, *command[1:])
        elif command[0] == "load":
            serve(*command[1:])
            return
        else:
            return


if __name__ == "__main__":
    main()

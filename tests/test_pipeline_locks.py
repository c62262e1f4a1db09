"""Locks between processes: real flock, real processes; who is alone is alone, and nobody waits for ever."""

import os
import subprocess
import sys
import threading
import time

import pytest

from quantkit.errors import StorageError
from quantkit.pipeline import locks
from quantkit.pipeline.locks import Room, busy, locked

WORKER = """
import os, random, sys, time
from pathlib import Path
from quantkit.pipeline.locks import Room

room, order = Room(folder=Path(sys.argv[1])), random.Random(int(sys.argv[2]))
log = os.open(sys.argv[1] + "/log", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
for _ in range(15):
    alone = order.random() < 0.4
    with room.alone("time") if alone else room.shared("build"):
        start = time.monotonic_ns()
        time.sleep(order.uniform(0.001, 0.006))
        os.write(log, f"{int(alone)} {start} {time.monotonic_ns()}\\n".encode())
"""


@pytest.fixture
def started():
    """Start processes; end those that are left."""
    running = []

    def start(code, *arguments):
        running.append(subprocess.Popen([sys.executable, "-c", code, *map(str, arguments)], stdout=subprocess.PIPE))
        return running[-1]

    yield start
    for process in running:
        process.kill()
        process.wait()
        process.stdout.close()


def wait_for(condition, seconds=20):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.005)


def test_who_is_alone_is_beside_nobody_and_others_are_side_by_side(tmp_path, started):
    """Four processes, sixty spells, their own clocks: no spell alone meets another; of the shared ones some do meet."""
    processes = [started(WORKER, tmp_path, seed) for seed in range(4)]
    assert [process.wait(60) for process in processes] == [0] * 4

    rows = [tuple(map(int, line.split())) for line in (tmp_path / "log").read_text().splitlines()]
    assert len(rows) == 60
    meetings = [
        (one, other) for i, one in enumerate(rows) for other in rows[i + 1 :] if one[1] < other[2] and other[1] < one[2]
    ]
    assert meetings
    assert not [pair for pair in meetings if pair[0][0] or pair[1][0]]


HOLDER = """
import subprocess, sys, time
from pathlib import Path
from quantkit.pipeline.locks import Room
with Room(folder=Path(sys.argv[1])).alone("time tiny"):
    child = subprocess.Popen(["sleep", "30"])
    print(child.pid, flush=True)
    time.sleep(60)
"""


def test_kill_9_gives_the_lock_back_even_while_a_child_lives(tmp_path, started):
    holder = started(HOLDER, tmp_path)
    child = int(holder.stdout.readline())
    assert busy(tmp_path / "room.lock")

    holder.kill()
    holder.wait()

    try:
        with Room(folder=tmp_path).alone("go on"):
            os.kill(child, 0)  # it is still there
    finally:
        os.kill(child, 9)


@pytest.fixture
def visit(tmp_path):
    """Let somebody enter a room in a thread of its own: `visit("name", alone)`; it stays until `leave` is set."""
    room, order, leave, threads = Room(folder=tmp_path), [], threading.Event(), []

    def enter(name, alone):
        with room.alone(name) if alone else room.shared(name):
            order.append(name)
            leave.wait(20)

    def start(name, *, alone):
        threads.append(threading.Thread(target=enter, args=(name, alone)))
        threads[-1].start()

    def waiting_in_the_door(name):
        wait_for(lambda: f"waits to {name}" in (tmp_path / "door.lock").read_text())

    def all_leave():
        leave.set()
        for thread in threads:
            thread.join(20)
        return order

    start.order, start.in_the_door, start.all_leave = order, waiting_in_the_door, all_leave
    yield start
    all_leave()


def test_timed_work_that_waits_goes_before_untimed_work_that_comes_later(visit):
    """One shares the room, one waits to be alone, then a third comes to share: it has to wait for the second."""
    visit("first", alone=False)
    wait_for(lambda: visit.order)
    visit("second", alone=True)
    visit.in_the_door("second")
    visit("third", alone=False)
    time.sleep(0.2)  # longer than the pause between two tries

    assert visit.order == ["first"]
    assert visit.all_leave() == ["first", "second", "third"]


def test_untimed_work_that_waits_goes_before_the_next_timed_work(visit):
    """One is alone, one waits to share, then a third comes to be alone: it has to wait for the second."""
    visit("first", alone=True)
    wait_for(lambda: visit.order)
    visit("second", alone=False)
    visit.in_the_door("second")
    visit("third", alone=True)
    time.sleep(0.2)

    assert visit.order == ["first"]
    assert visit.all_leave() == ["first", "second", "third"]


def test_waiting_is_said_once_with_who_and_what(tmp_path, monkeypatch, started):
    monkeypatch.setattr(locks, "PATIENCE_S", 0.02)
    holder, told = started(HOLDER, tmp_path), []
    child = int(holder.stdout.readline())
    room, entered = Room(told.append, folder=tmp_path), threading.Event()

    def share():
        with room.shared("build and judge"):
            entered.set()

    thread = threading.Thread(target=share)
    thread.start()
    wait_for(lambda: told)
    time.sleep(0.3)
    assert not entered.is_set()
    holder.kill()
    os.kill(child, 9)
    thread.join(20)

    assert entered.is_set()
    assert told == [f"waiting   to build and judge: process {holder.pid} is alone to time tiny"]


def test_waiting_ends_with_the_run(tmp_path):
    class Ended(Exception):
        pass

    def check():
        raise Ended

    with locked(tmp_path / "room.lock"), pytest.raises(Ended), Room(check=check, folder=tmp_path).shared("build"):
        raise AssertionError("entered a room that is not free")
    with Room(check=check, folder=tmp_path).alone("time"):
        """Who need not wait is not asked; and the failed try has left nothing behind."""


def test_who_is_alone_stays_alone_when_entering_again(tmp_path):
    room = Room(folder=tmp_path)
    with room.alone("time"):
        with room.alone("time more"), room.shared("look"):
            assert busy(tmp_path / "room.lock")
        assert busy(tmp_path / "room.lock")
    assert not busy(tmp_path / "room.lock")


def test_asking_to_be_alone_within_shared_work_is_an_error_and_not_a_deadlock(tmp_path):
    room = Room(folder=tmp_path)
    with room.shared("build"), pytest.raises(AssertionError, match="would wait for itself"), room.alone("time"):
        pass
    assert not busy(tmp_path / "room.lock")


def test_a_lock_folder_of_somebody_else_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(locks.tempfile, "gettempdir", lambda: str(tmp_path))
    locks.lock_place().symlink_to(tmp_path)

    with pytest.raises(StorageError, match="is not this user's own folder: remove it, or set TMPDIR"):
        locks.lock_folder()

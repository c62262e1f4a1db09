"""pytest-xdist: its workers prepare all cases together and time one model on one target after the other.

Which worker is given which test does not matter (see `pipeline.together`), so every `--dist` gives the same results.
The controller runs no test: what it shows at the end stands on the board of the run and in the results file.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import time
import uuid
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from quantkit.pytest_plugin import session as sessions

PLACE = "quantkit_board"  # in what a worker is given at its start: the name of the board's folder
BOARD = pytest.StashKey[str]()
LEFT_OUT = pytest.StashKey[int]()
FORGOTTEN_S = 7 * 24 * 3600.0  # no run takes that long


def invite(node: Any) -> None:
    """Tell a new worker where the board of this run is."""
    config: pytest.Config = node.config
    node.workerinput[PLACE] = config.stash.setdefault(BOARD, f"run-{uuid.uuid4().hex}")


def said_goodbye(node: Any) -> None:
    """End the run when a worker has ended with an error of ours, as it ends without workers: with one line."""
    message, status = getattr(node, "workeroutput", {}).get(sessions.EXIT, ("", 0))
    if message:
        pytest.exit(message, returncode=status)


def prepare(session: pytest.Session) -> None:
    """In a worker, before its first test: build and judge cases, side by side with the other workers."""
    config = session.config
    given, cases = sessions.worker(config), [item for item in session.items if sessions.case_of(item) is not None]
    if given is None or not cases:
        return
    from quantkit import pytest_benchmark_bridge
    from quantkit.errors import QuantizationError
    from quantkit.pipeline import together
    from quantkit.pipeline.locks import lock_folder

    pytest_benchmark_bridge.no_false_warning(config, session.items, cases)
    count = given["workercount"]
    try:
        run = sessions.of(config, lock_folder() / given[PLACE]).run
        refused = [(asdict(case), reason) for case, reason in sessions.refused(session)]
        run.crew.board.note("selected", cases=len(cases), left_out=config.stash.get(LEFT_OUT, 0), refused=refused)
        number = int("0" + re.sub(r"\D", "", given["workerid"]))  # gw0, gw1; one that replaces a dead one: gw2 of 2
        together.prepare(sessions.selected(session), run, number=number % count, of=count)
    except QuantizationError as error:
        sessions.leave(config, error)


def board(config: pytest.Config) -> Path | None:
    """Return the folder of the board where this is a controller whose workers have opened one."""
    if BOARD not in config.stash:
        return None
    from quantkit.pipeline.locks import lock_place

    folder = lock_place() / config.stash[BOARD]
    return folder if folder.exists() else None


def clean(config: pytest.Config) -> None:
    """Take down the board of the workers, and those that runs have left which were killed."""
    folder = board(config)
    if folder is not None:
        shutil.rmtree(folder, ignore_errors=True)
        for other in folder.parent.glob("run-*"):
            with contextlib.suppress(OSError):  # another run may be taking it down
                if time.time() - other.stat().st_mtime > FORGOTTEN_S:
                    shutil.rmtree(other, ignore_errors=True)

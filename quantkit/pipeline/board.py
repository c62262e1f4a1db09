"""What the processes of one run tell each other: notes that all can read, and claims on work that one of them does.

It is a folder of this machine that lives as long as the run: a file of notes for each process, one JSON object a line
(whole lines only are read, so a process may be killed at any moment), and a lock file for each claim.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from quantkit.files import storage_error
from quantkit.pipeline.locks import PATIENCE_S, busy, locked

CLAIMS = "claims"


class Board:
    """The board as one process sees it. Without a folder it belongs to a run of one process, and does nothing.

    Args:
        writer: the name under which this process writes: letters and digits.
        check: called again and again while waiting for a claim; what it raises ends the waiting.
    """

    def __init__(self, folder: Path | None = None, writer: str = "", check: Callable[[], None] = lambda: None):
        self.folder, self.writer, self.check = folder, writer, check
        self._lock = threading.Lock()
        if folder is not None:
            try:
                (folder / CLAIMS).mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise storage_error(error, folder) from error

    def note(self, kind: str, **facts: Any) -> None:
        """Put up a note: facts that JSON can hold.

        Raises:
            StorageError: it cannot be written.
        """
        if self.folder is None:
            return
        file = self.folder / f"{self.writer}.jsonl"
        line = json.dumps({"kind": kind, "writer": self.writer} | facts) + "\n"
        try:
            with self._lock, file.open("a") as notes:
                notes.write(line)
        except OSError as error:
            raise storage_error(error, file) from error

    def notes(self, *kinds: str) -> list[dict[str, Any]]:
        """Return the notes of these kinds by all processes, each writer's in the order written."""
        files = sorted(self.folder.glob("*.jsonl")) if self.folder is not None else []
        lines = [line for file in files for line in file.read_text().splitlines(keepends=True)]
        notes = [json.loads(line) for line in lines if line.endswith("\n")]
        return [note for note in notes if note["kind"] in kinds]

    @contextmanager
    def claim(self, work: str, waiting: Callable[[float], None] = lambda seconds: None) -> Iterator[None]:
        """Have a piece of work for this process; wait while another has it, and look again whether it is done then."""

        def wait(seconds: float) -> None:
            self.check()
            if seconds > PATIENCE_S:
                waiting(seconds)

        if self.folder is None:
            yield
            return
        with locked(self._file(work), waiting=wait):
            yield

    def claimed(self, work: str) -> bool:
        """Return whether another process, or another thread of this one, has the piece of work at this moment."""
        return self.folder is not None and busy(self._file(work))

    def _file(self, work: str) -> Path:
        assert self.folder is not None
        return self.folder / CLAIMS / hashlib.sha256(work.encode()).hexdigest()[:32]

"""Results in SQLite: one row per result, raw values kept, every row with its own hash.

The table `results` keeps every result ever measured; the newest of a case is the current one, or the one that a later
run took instead of measuring, which `taken` knows. `parts` keeps the pieces of a run that has not ended, so that it
continues after `kill -9`. All are written in transactions.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from quantkit.errors import CorruptFile, NoBaseline, NothingMeasured, StorageError
from quantkit.records import SCHEMA_VERSION, Case, Result

TABLES = f"""
CREATE TABLE IF NOT EXISTS results (
    number INTEGER PRIMARY KEY AUTOINCREMENT, key TEXT NOT NULL, model TEXT NOT NULL, method TEXT NOT NULL,
    backend TEXT NOT NULL, target TEXT NOT NULL, status TEXT NOT NULL, machine TEXT NOT NULL, created TEXT NOT NULL,
    payload TEXT NOT NULL, sha256 TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS results_key ON results (key);
CREATE TABLE IF NOT EXISTS taken (
    model TEXT, method TEXT, backend TEXT, target TEXT, number INTEGER NOT NULL, top INTEGER NOT NULL,
    PRIMARY KEY (model, method, backend, target));
CREATE TABLE IF NOT EXISTS parts (
    key TEXT NOT NULL, part TEXT NOT NULL, payload TEXT NOT NULL, sha256 TEXT NOT NULL, PRIMARY KEY (key, part));
PRAGMA user_version = {SCHEMA_VERSION};
"""


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


class Store:
    """A results file; opened at once, so that a file that cannot be used is said before anything is measured.

    Raises:
        StorageError: the folder cannot be written, or the disk is full.
        CorruptFile: it is not a SQLite database, is damaged, or has a newer schema.
    """

    def __init__(self, path: Path, *, write: bool = True):
        self.path = path
        if not write and not path.exists():
            raise NothingMeasured(f"no results at {path}: measure first with 'pytest benchmarks' or 'quantkit run'")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(
                f"cannot create {path.parent}: {error.strerror}; choose another place with --results"
            ) from error
        with self._connection() as connection:
            found = connection.execute("PRAGMA user_version").fetchone()[0]
            if found > SCHEMA_VERSION:
                raise CorruptFile(
                    f"{path} has schema {found}, this quantkit reads up to {SCHEMA_VERSION}: update quantkit"
                )
            if connection.execute("PRAGMA quick_check").fetchone()[0] != "ok":
                raise CorruptFile(_damaged(path, "its pages do not agree"))
            if write:
                connection.executescript(TABLES)
            elif found == 0:
                raise CorruptFile(f"{path} holds no results of quantkit: name another file with --results")

    @contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        """Open for one transaction; say in one line what SQLite says."""
        connection = None
        try:
            connection = sqlite3.connect(self.path, timeout=30)
            with connection:
                yield connection
        except sqlite3.OperationalError as error:
            raise StorageError(
                f"cannot use {self.path}: {error}; check the folder and the space on its disk"
            ) from error
        except sqlite3.DatabaseError as error:
            raise CorruptFile(_damaged(self.path, str(error))) from error
        finally:
            if connection is not None:
                connection.close()

    def add(self, result: Result) -> None:
        """Append a result."""
        payload, case = result.to_json(), result.case
        row = (result.key, case.model, case.method, case.backend, case.target, result.status,
               result.fingerprint.get("id", ""), result.created, payload, _hash(payload))  # fmt: skip
        columns = "key, model, method, backend, target, status, machine, created, payload, sha256"
        with self._connection() as connection:
            connection.execute(f"INSERT INTO results ({columns}) VALUES ({','.join('?' * 10)})", row)

    def find(self, key: str, status: str = "ok") -> Result | None:
        """Return the newest result of this key that has the status (anything but `ok` is tried again)."""
        query = "SELECT payload, sha256 FROM results WHERE key = ? AND status = ? ORDER BY number DESC"
        with self._connection() as connection:
            row = connection.execute(query, (key, status)).fetchone()
        return self._result(row) if row else None

    def take(self, keys: Iterable[str]) -> None:
        """Note that a run takes the stored results of these keys instead of measuring: they are the current ones.

        They may be older than others of their case: code that was changed, and changed back.
        """
        query = """INSERT OR REPLACE INTO taken SELECT model, method, backend, target, number, (SELECT MAX(number)
            FROM results AS other WHERE (other.model, other.method, other.backend, other.target) =
            (results.model, results.method, results.backend, results.target))
            FROM results WHERE key = ? AND status = 'ok' ORDER BY number DESC LIMIT 1"""
        with self._connection() as connection:
            connection.executemany(query, [(key,) for key in keys])

    def newest(self, case: Case | None = None) -> list[Result]:
        """Return the current result of every case, or of one: the newest, or the one that a run took since then."""
        query = """SELECT payload, sha256 FROM results WHERE number IN
            (SELECT CASE WHEN taken.top = MAX(results.number) THEN taken.number ELSE MAX(results.number) END
            FROM results LEFT JOIN taken USING (model, method, backend, target)
            GROUP BY model, method, backend, target)
            ORDER BY model, backend, target, number"""
        with self._connection() as connection:
            if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'taken'").fetchone():
                connection.execute("CREATE TEMP TABLE taken (model, method, backend, target, number, top)")
            results = [self._result(row) for row in connection.execute(query)]
        return [result for result in results if case is None or result.case == case]

    def every(self) -> Iterator[Result]:
        """Yield every result ever stored, in the order stored; one at a time, since a history can be large."""
        with self._connection() as connection:
            numbers = connection.execute("SELECT number FROM results ORDER BY number").fetchall()
        for number in numbers:  # nothing is locked between two of them: somebody may be measuring
            with self._connection() as connection:
                row = connection.execute("SELECT payload, sha256 FROM results WHERE number = ?", number).fetchone()
            yield self._result(row)

    def _result(self, row: tuple[str, str]) -> Result:
        payload, recorded = row
        if _hash(payload) != recorded:
            raise CorruptFile(_damaged(self.path, "a result's hash is not the recorded one"))
        return Result.from_json(payload)

    def keep_part(self, key: str, part: str, value: Any) -> None:
        """Keep a piece of work of a case that has not ended."""
        payload = json.dumps(value)
        with self._connection() as connection:
            connection.execute("INSERT OR REPLACE INTO parts VALUES (?, ?, ?, ?)", (key, part, payload, _hash(payload)))

    def parts(self, key: str) -> dict[str, Any]:
        """Return the pieces that are kept under this key, by name."""
        with self._connection() as connection:
            rows = connection.execute("SELECT part, payload, sha256 FROM parts WHERE key = ?", (key,)).fetchall()
        return {part: json.loads(payload) for part, payload, recorded in rows if _hash(payload) == recorded}

    def drop_parts(self, key: str) -> None:
        """Forget the pieces of a case that has ended."""
        with self._connection() as connection:
            connection.execute("DELETE FROM parts WHERE key = ?", (key,))


def older_results(baseline: Path, results: Path) -> list[Result]:
    """Return the newest results of an older run, to compare those of `results` with.

    Raises:
        NoBaseline: there is no such file, or it is the very file that the new results are in.
    """
    if not baseline.is_file():
        raise NoBaseline(f"no baseline at {baseline}: name the results file of an older run")
    if results.exists() and baseline.samefile(results):
        raise NoBaseline(
            f"{baseline} holds the results themselves: copy the file before the new run, and name the copy"
        )
    return Store(baseline, write=False).newest()


def _damaged(path: Path, why: str) -> str:
    return f"results file {path} is damaged ({why}): it is not used; move it away or restore it, then run again"

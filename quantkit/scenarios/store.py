"""Outcomes of load scenarios in the results file, in a table of their own; each row has its own hash."""

from __future__ import annotations

import hashlib
from pathlib import Path

from quantkit.errors import CorruptFile
from quantkit.pipeline.store import Store
from quantkit.scenarios.load import LoadResult

TABLE = """
CREATE TABLE IF NOT EXISTS loads (
    number INTEGER PRIMARY KEY AUTOINCREMENT, key TEXT NOT NULL, what TEXT NOT NULL, payload TEXT NOT NULL,
    sha256 TEXT NOT NULL);
"""


class Loads(Store):
    """The results file, seen by who puts cases under load.

    Raises:
        StorageError, CorruptFile, NothingMeasured: as `Store`.
    """

    def __init__(self, path: Path, *, write: bool = True):
        super().__init__(path, write=write)
        if write:
            with self._connection() as connection:
                connection.executescript(TABLE)

    def keep(self, result: LoadResult) -> None:
        """Append an outcome."""
        payload = result.to_json()
        row = (result.key, f"{result.case.id} {result.load.scenario}", payload, _hash(payload))
        with self._connection() as connection:
            connection.execute("INSERT INTO loads (key, what, payload, sha256) VALUES (?, ?, ?, ?)", row)

    def kept(self, key: str) -> LoadResult | None:
        """Return the newest outcome of this key."""
        rows = self._rows("SELECT payload, sha256 FROM loads WHERE key = ? ORDER BY number DESC LIMIT 1", (key,))
        return rows[0] if rows else None

    def newest_loads(self) -> list[LoadResult]:
        """Return the newest outcome of every case and scenario."""
        query = "SELECT payload, sha256 FROM loads WHERE number IN (SELECT MAX(number) FROM loads GROUP BY what)"
        return self._rows(f"{query} ORDER BY what")

    def _rows(self, query: str, values: tuple[str, ...] = ()) -> list[LoadResult]:
        with self._connection() as connection:
            there = connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'loads'").fetchone()
            rows = connection.execute(query, values).fetchall() if there else []
        if any(_hash(payload) != recorded for payload, recorded in rows):
            raise CorruptFile(
                f"results file {self.path} is damaged (the hash of a load result is not the recorded one): move it "
                "away or restore it, then run again"
            )
        return [LoadResult.from_json(payload) for payload, _ in rows]


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()

"""Pieces of Python's documentation as tokens of a byte-level BPE vocabulary; made by training/pydoc_gpt.py."""

from __future__ import annotations

import numpy as np

from quantkit.contracts import DatasetInfo, Split
from quantkit.datasets import _assets

FILE = "pydoc/tokens.npz"


class Tokens:
    """Inputs: tokens [n, 128], int64; targets: the tokens that follow each of them [n, 128].

    Args:
        most: evaluation items of the file that are taken; None takes all.
    """

    def __init__(self, name: str, title: str, *, fast_items: int, most: int | None = None):
        self._most = most
        self.info = DatasetInfo(
            name=name,
            title=title,
            licence="PSF-2.0",
            provenance="Python 3.11 documentation sources (Debian package python3.11-doc), "
            "cut into pieces of 129 tokens",
            fast_items=fast_items,
            sha256={FILE: "32ef6a0c968e4287a2dbf88207d7441a6aba99011da04729dbe5ee42d0c95916"},
        )

    def evaluation(self, limit: int | None = None) -> Split:
        """Return pieces of held-out files; the file's order is a random one."""
        rows = _assets.arrays(self.info, FILE)["test"]
        return self._split("test", rows, _assets.prefix(np.arange(len(rows))[: self._most], limit))

    def calibration(self, limit: int | None = None) -> Split:
        """Return pieces of training files in a fixed shuffled order."""
        rows = _assets.arrays(self.info, FILE)["calibration"]
        return self._split("train", rows, _assets.prefix(_assets.shuffled(len(rows), seed=2026), limit))

    def _split(self, part: str, tokens: np.ndarray, rows: np.ndarray) -> Split:
        chosen = tokens[rows].astype(np.int64)
        return _assets.split(rows, f"{part}/{{}}".format, (chosen[:, :-1],), chosen[:, 1:])

"""Inverse cloze on held-out Python documentation: find the second half of a passage, given the first half.

The task needs no labels (Lee, Chang & Toutanova 2019, arXiv:1906.00300, their pre-training task). The two halves lie
side by side: row 2i is query i, row 2i + 1 its document, so that every even prefix is a task of its own. Made by
training/passages.py with the vocabulary of bert-base-uncased.
"""

from __future__ import annotations

import numpy as np

from quantkit.contracts import DatasetInfo, Split
from quantkit.datasets import _assets

FILE = "pydoc/passages.npz"


class PydocPassages:
    """Inputs: token ids and mask, each [n, 64], int64; targets: the number of the passage [n], two rows each."""

    info = DatasetInfo(
        name="pydoc_passages",
        title="halves of held-out Python documentation passages",
        licence="PSF-2.0",
        provenance="the passages of data set pydoc, cut in two at the space nearest the middle, 64 word pieces at most",
        sha256={"pydoc/passages.npz": "f0bf8195e13a14d822c88b0b7b9fe454791ba5ac969c0ff12e1047d719f55b5a"},
    )

    def evaluation(self, limit: int | None = None) -> Split:
        """Return queries and documents of held-out files in turn; `limit` counts rows, an odd one loses its last."""
        return self._split("test", limit)

    def calibration(self, limit: int | None = None) -> Split:
        """Return rows of the same form from training files; `limit` as above."""
        return self._split("calibration", limit)

    def _split(self, part: str, limit: int | None) -> Split:
        if limit is not None and limit < 2:
            raise ValueError(f"limit must be at least 2, a query and its document: got {limit}")
        tokens = _assets.arrays(self.info, FILE)[part].astype(np.int64)
        rows = np.arange(len(tokens))[: limit and limit // 2 * 2]
        tokens = tokens[rows]
        mask = (tokens != 0).astype(np.int64)  # 0 is [PAD]
        label = {"test": "test", "calibration": "train"}[part]
        return _assets.split(
            rows, lambda i: f"{label}/{i // 2}/{('query', 'document')[i % 2]}", (tokens, mask), rows // 2
        )


plugin = PydocPassages()

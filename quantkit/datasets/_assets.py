"""What the data sets share: committed files with their hash checked, an order that never changes, and prefixes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from quantkit.contracts import DatasetInfo, Split
from quantkit.files import asset


def arrays(info: DatasetInfo, location: str) -> dict[str, np.ndarray]:
    """Return the arrays of a committed .npz file.

    Raises:
        CorruptFile: its hash is not the recorded one.
    """
    with np.load(asset(location, info.sha256[location]), allow_pickle=False) as file:
        return dict(file)


def shuffled(count: int, seed: int) -> np.ndarray:
    """Return 0..count-1 in a fixed order: raw bits are the same in every NumPy, `permutation` need not be."""
    return np.argsort(np.random.PCG64(seed).random_raw(count), kind="stable")


def prefix(order: np.ndarray, limit: int | None) -> np.ndarray:
    """Return the first `limit` of the items, all of them for None.

    Raises:
        ValueError: `limit` is below one.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"limit must be at least 1: got {limit}")
    return order[:limit]


def split(rows: np.ndarray, name: Callable[[int], str], inputs: tuple[np.ndarray, ...], targets: np.ndarray) -> Split:
    """Return the items, each named after its row in the file."""
    return Split(
        tuple(np.ascontiguousarray(x) for x in inputs), np.ascontiguousarray(targets), tuple(name(int(i)) for i in rows)
    )

"""Walk through large arrays a few rows at a time in float64, so that a check of logits needs no second copy of them."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

BLOCK = 1 << 20  # values per array and step: 8 MiB as float64

Floats = NDArray[np.float64]


def rows(*arrays: ArrayLike, columns: int | None = None) -> Iterator[tuple[Floats, ...]]:
    """Yield matching row blocks [rows, columns] of arrays that have one shape, as float64.

    Args:
        arrays: any real dtype, all of one shape [n, ...].
        columns: how many trailing values make one row; None takes everything after the first axis.

    Raises:
        ValueError: the shapes differ, nothing is in them, or a value is nan or infinite.

    >>> [block.shape for (block,) in rows(np.zeros((3, 2, 5)))]
    [(3, 10)]
    """
    given = [np.asarray(x) for x in arrays]
    shapes = [x.shape for x in given]
    if len(set(shapes)) > 1:
        raise ValueError(f"arrays must have one shape: got {shapes[0]} and {next(s for s in shapes if s != shapes[0])}")
    if given[0].size == 0:
        raise ValueError(f"arrays must hold values: got shape {shapes[0]}")
    width = columns or max(1, given[0].size // max(1, len(np.atleast_1d(given[0]))))
    flat = [x.reshape(-1, width) for x in given]
    step = max(1, BLOCK // width)
    for start in range(0, len(flat[0]), step):
        yield tuple(_finite(x[start : start + step]) for x in flat)


def _finite(x: NDArray[Any]) -> Floats:
    """Return the block as float64, or say how many values are not finite."""
    block = x.astype(np.float64)
    bad = block.size - np.count_nonzero(np.isfinite(block))
    if bad:
        raise ValueError(f"values must be finite: got {bad} nan or infinite in a block of {block.size}")
    return block

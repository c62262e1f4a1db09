"""The Pareto front: what no other choice beats in every respect."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray


def front(points: ArrayLike, better: Sequence[Literal["lower", "higher"]]) -> NDArray[np.bool_]:
    """Return which points are not dominated: no other is at least as good everywhere and better somewhere.

    Args:
        points: [n, k], one row per choice; n may be 0.
        better: direction of each of the k columns.

    Returns:
        Mask [n]; equal points stay or go together.

    Raises:
        ValueError: columns and directions differ in number, an unknown direction, or nan.

    >>> front([[1.0, 0.9], [2.0, 0.9], [3.0, 0.95]], ("lower", "higher")).tolist()
    [True, False, True]
    """
    x = np.asarray(points, np.float64)
    if x.size == 0:
        x = x.reshape(0, len(better))
    if x.ndim != 2 or x.shape[1] != len(better):
        raise ValueError(f"points must be [n, {len(better)}], one column per direction: got shape {x.shape}")
    unknown = set(better) - {"lower", "higher"}
    if unknown:
        raise ValueError(f"better must be 'lower' or 'higher': got {sorted(unknown)[0]!r}")
    if np.isnan(x).any():
        raise ValueError(f"points must not hold nan: got {int(np.isnan(x).sum())}; leave out what was not measured")
    cost = x * np.where(np.array(better) == "lower", 1.0, -1.0)
    mask = np.empty(len(cost), bool)
    for i, point in enumerate(cost):
        mask[i] = not ((cost <= point).all(axis=1) & (cost < point).any(axis=1)).any()
    return mask

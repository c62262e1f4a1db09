"""Items to train on: a user's loader as a `Split`, the part that is held out, and batches of even size."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch

from quantkit.contracts import Split
from quantkit.errors import CalibrationError


def from_loader(loader: Iterable[Any], most: int | None = None) -> Split:
    """Return the items of a DataLoader, or of any iterable of batches, in its order.

    Args:
        loader: batches; each is one tensor or array of inputs [n, ...], or a sequence of inputs whose last is taken
            as the targets [n, ...].
        most: items that are taken; None takes all.

    Raises:
        CalibrationError: no batch, or batches that differ in their number of parts.
    """
    rows: list[tuple[np.ndarray, ...]] = []
    count = 0
    for batch in loader:
        parts = tuple(batch) if isinstance(batch, tuple | list) else (batch,)
        rows.append(tuple(np.asarray(part) for part in parts))
        count += len(rows[-1][0])
        if most is not None and count >= most:
            break
    if not rows or len({len(row) for row in rows}) != 1:
        raise CalibrationError(f"the loader must give batches of the same parts, at least one: got {len(rows)} batches")
    columns = [np.concatenate(column)[:most] for column in zip(*rows, strict=True)]
    n = len(columns[0])
    targets = columns.pop() if len(columns) > 1 else np.zeros((n, 0), np.float32)
    return Split(tuple(columns), targets, tuple(f"loader/{index}" for index in range(n)))


def part(items: Split, rows: np.ndarray) -> Split:
    """Return some of the items."""
    return Split(tuple(x[rows] for x in items.inputs), items.targets[rows], tuple(items.ids[int(i)] for i in rows))


def held_out(items: Split, share: float, seed: int) -> tuple[Split, Split]:
    """Return training and validation items; the draw depends on nothing but the seed and the count.

    Raises:
        CalibrationError: fewer than four items: nothing to learn from and nothing to choose by.
    """
    n = len(items)
    if n < 4:
        raise CalibrationError(f"training needs at least 4 items, 2 of them to validate on: got {n}")
    order = np.argsort(np.random.PCG64(seed).random_raw(n), kind="stable")
    held = min(max(2, round(n * share)), n - 2)
    return part(items, np.sort(order[held:])), part(items, np.sort(order[:held]))


def batches(rows: torch.Tensor, size: int) -> Iterator[torch.Tensor]:
    """Yield rows in parts of nearly the same size, at most `size` each: no last batch of one."""
    yield from rows.tensor_split(max(1, math.ceil(len(rows) / size)))


def targets_of(items: Split) -> torch.Tensor | None:
    """Return the targets, or None where there are none (an empty array per item)."""
    return torch.from_numpy(np.ascontiguousarray(items.targets)) if items.targets.size else None

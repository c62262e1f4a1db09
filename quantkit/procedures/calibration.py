"""Is calibration data fit to take ranges from? Refusals with the next step, warnings, and a cleaned set.

What makes ranges meaningless is refused (no items, wrong shapes, nan). What makes a quality figure worthless is refused
too: an item that is also judged. What only makes ranges worse is warned of. Pure NumPy: every build runs it.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np

from quantkit.contracts import Arrays, Split
from quantkit.errors import CalibrationError

MINIMUM = 100  # items; the lower end of what LiteRT's documentation asks of a representative data set (100 to 500)
IMBALANCE = 10.0  # largest over smallest class
DUPLICATES = 0.1  # share of items that repeat an earlier one
SHORT, MOSTLY_SHORT = 0.5, 0.5  # more than this share of items uses less than this share of the length
NAMED = 3  # ids that a message gives
TOKEN_VALUES = 3  # fewer different integers are a mask, not tokens


def check(
    split: Split, *, example: Arrays | None = None, evaluation: Split | None = None, minimum: int = MINIMUM
) -> tuple[str, ...]:
    """Refuse calibration data that would give meaningless ranges or figures; return warnings on what is doubtful.

    Args:
        split: the calibration items.
        example: inputs of one item, batch of one: the shapes and dtypes that the network takes.
        evaluation: items that quality is judged on; none of them may be among the calibration items.
        minimum: fewer items than this are warned of.

    Raises:
        CalibrationError: no items; rows that disagree with the ids; another number of inputs, shape or dtype than the
            example; nan or inf, with the name of the first such item; evaluation items, with their number and names.
    """
    _rows(split)
    if example is not None:
        _like(split, example)
    bad = _not_finite(split)
    if bad.any():
        first = split.ids[int(np.argmax(bad))]
        where = f"{int(bad.sum())} of {len(split)} items, the first is {first}"
        raise CalibrationError(f"calibration data holds nan or inf in {where}: remove or repair them")
    content = digests(split)
    if evaluation is not None:
        _apart(split, content, evaluation)
    return tuple(_doubts(split, content, minimum))


def cleaned(split: Split) -> tuple[Split, list[str]]:
    """Return the items but those that hold nan or inf or repeat an earlier one, and a line on each that was dropped.

    Raises:
        CalibrationError: no item is left, or rows disagree with the ids.
    """
    _rows(split)
    bad, content = _not_finite(split), digests(split)
    first: dict[bytes, str] = {}
    kept, dropped = [], []
    for index, (name, digest) in enumerate(zip(split.ids, content, strict=True)):
        if bad[index]:
            dropped.append(f"{name}: holds nan or inf")
        elif digest in first:
            dropped.append(f"{name}: equal to {first[digest]}")
        else:
            first[digest] = name
            kept.append(index)
    if not kept:
        raise CalibrationError(f"all {len(split)} calibration items hold nan or inf: give others")
    inputs, targets = tuple(x[kept] for x in split.inputs), _targets(split)
    return Split(inputs, targets[kept], tuple(split.ids[i] for i in kept)), dropped


def digests(split: Split) -> list[bytes]:
    """Return the hash of each item's inputs: equal where shapes, types and values are."""
    found = []
    rows = [np.ascontiguousarray(x) for x in split.inputs]
    for index in range(len(split)):
        content = hashlib.blake2b(digest_size=16)
        for x in rows:
            content.update(f"{x.dtype}{x.shape[1:]}".encode())
            content.update(x[index].tobytes())
        found.append(content.digest())
    return found


def _rows(split: Split) -> None:
    if not len(split) or not split.inputs:
        raise CalibrationError(
            "calibration data is empty: got 0 items, expected at least 1; give the data set a calibration split"
        )
    for position, values in enumerate(split.inputs):
        if len(values) != len(split):
            raise CalibrationError(
                f"calibration input {position} has {len(values)} rows for {len(split)} items: give one row an item"
            )


def _targets(split: Split) -> np.ndarray:
    """Return the targets, or zeros where there is not one for each item: ranges need none."""
    targets = np.asarray(split.targets)
    return targets if targets.ndim and len(targets) == len(split) else np.zeros(len(split))


def _like(split: Split, example: Arrays) -> None:
    if len(split.inputs) != len(example):
        raise CalibrationError(
            f"calibration data has {len(split.inputs)} inputs, expected {len(example)}: give one array for each input "
            "of the network"
        )
    for position, (got, expected) in enumerate(zip(split.inputs, example, strict=True)):
        if got.shape[1:] != expected.shape[1:] or got.dtype != expected.dtype:
            raise CalibrationError(
                f"calibration input {position} must be like the example: got {got.dtype} {list(got.shape[1:])} an "
                f"item, expected {expected.dtype} {list(expected.shape[1:])}; prepare it as the evaluation items are"
            )


def _not_finite(split: Split) -> np.ndarray:
    """Return which items hold nan or inf, [n]."""
    bad = np.zeros(len(split), bool)
    for values in split.inputs:
        if values.dtype.kind in "fc":
            bad |= ~np.isfinite(values.reshape(len(values), -1)).all(axis=1)
    return bad


def _apart(split: Split, content: Sequence[bytes], evaluation: Split) -> None:
    judged = set(digests(evaluation))
    both = [name for name, digest in zip(split.ids, content, strict=True) if digest in judged]
    if both:
        raise CalibrationError(
            f"calibration data holds {len(both)} items that quality is judged on, the first: "
            f"{', '.join(both[:NAMED])}; take calibration items from the training part"
        )


def _doubts(split: Split, content: Sequence[bytes], minimum: int) -> Iterator[str]:
    """Yield a sentence on each thing that makes ranges worse than they could be."""
    items = len(split)
    if items < minimum:
        yield f"{items} calibration items are few: ranges from fewer than {minimum} miss rare values"
    different = len(set(content))
    if items > 1 and different == 1:
        yield f"all {items} calibration items are equal: they count as one"
    elif items - different > DUPLICATES * items:
        yield f"{items - different} of {items} calibration items repeat an earlier one: they add nothing"
    yield from _constant(split)
    yield from _classes(split)
    yield from _lengths(split)


def _constant(split: Split) -> Iterator[str]:
    for position, values in enumerate(split.inputs):
        if values.dtype.kind != "f":
            continue
        flat = values.reshape(len(values), -1)
        even = int((flat == flat[:, :1]).all(axis=1).sum()) if flat.shape[1] > 1 else 0
        if even:
            yield f"calibration input {position} is one constant value in {even} of {len(flat)} items"


def _classes(split: Split) -> Iterator[str]:
    """Yield what is wrong with the balance of whole-number targets, one an item and each used more than once."""
    targets = _targets(split)
    if targets.ndim != 1 or targets.dtype.kind not in "iu" or not len(targets) or targets.min() < 0:
        return
    counts = np.bincount(targets)
    held = counts[counts > 0]
    if len(counts) < 2 or len(held) > len(targets) / 2:  # nothing to tell apart, or names of items rather than classes
        return
    if absent := np.flatnonzero(counts == 0).tolist():
        names = ", ".join(map(str, absent[:NAMED])) + (" ..." if len(absent) > NAMED else "")
        yield f"calibration data has no item of {len(absent)} of {len(counts)} classes: {names}"
    if held.max() > IMBALANCE * held.min():
        yield f"calibration classes are uneven: the largest has {held.max()} items, the smallest {held.min()}"


def _lengths(split: Split) -> Iterator[str]:
    """Yield a sentence where most token sequences are mostly padding: a run of one same token at their ends."""
    for position, values in enumerate(split.inputs):
        if values.dtype.kind not in "iu" or values.ndim != 2 or values.shape[1] < 2:
            continue
        padding = Counter(values[:, -1].tolist()).most_common(1)[0][0]
        if len(np.unique(values)) < TOKEN_VALUES:
            continue
        used = np.where(values == padding, 0, np.arange(1, values.shape[1] + 1)).max(axis=1)
        short = int((used < SHORT * values.shape[1]).sum())
        if short > MOSTLY_SHORT * len(values):
            yield (
                f"calibration input {position} is mostly padding: {short} of {len(values)} sequences fill less than "
                f"half of {values.shape[1]} positions (median {int(np.median(used))})"
            )

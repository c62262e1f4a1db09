"""From any DataLoader to arrays: what goes into the network, what it should answer, both item by item."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import nn

from quantkit.contracts import Split
from quantkit.errors import CalibrationError
from quantkit.procedures import calibration

TARGETS = ("labels", "label", "targets", "target")
Row = tuple[tuple[Any, ...], Any]  # inputs and targets of one batch


@dataclass(frozen=True)
class Items:
    """Items of a loader.

    Args:
        calibration: items that ranges are taken from.
        evaluation: others, that the result is judged on; the same ones where the loader has hardly any.
        names: of the inputs where batches are dictionaries; else empty.
        labelled: whether the loader gave targets.
        notes: what was left out or done to them.
    """

    calibration: Split
    evaluation: Split
    names: tuple[str, ...] = ()
    labelled: bool = False
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Parts:
    """How a loader is divided.

    Args:
        calibration: most items to calibrate with.
        evaluation: most items to judge with.
        share: of the loader that is kept apart to judge with, where it is too small for both.
    """

    calibration: int
    evaluation: int = 256
    share: float = 0.2


def items_of(
    network: nn.Module, data: Any, parts: Parts, clean: Callable[[Split], tuple[Split, list[str]]] | None = None
) -> Items:
    """Return items to calibrate with and others to judge with, spread evenly over what is read of the loader.

    Args:
        clean: what makes usable items of unusable ones (a fallback); None refuses those.

    Raises:
        CalibrationError: no items, not finite, no tensors, or shapes that differ from item to item.
    """
    split, names, labelled, notes = _read(network, data, parts.calibration + parts.evaluation)
    if clean is not None:
        before, (split, dropped) = len(split), clean(split)
        notes = (*notes, f"{len(dropped)} of {before} items left out ({', '.join(dropped[:1])})") if dropped else notes
    calibration.check(split, minimum=0)
    count = len(split)
    kept = min(parts.evaluation, max(count - parts.calibration, int(count * parts.share)))
    held = np.linspace(0, count - 1, kept).astype(int).tolist()
    content = calibration.digests(split)
    evaluation, seen = _rows(split, held), {content[i] for i in held}
    rest = [i for i in range(count) if content[i] not in seen][: parts.calibration]
    if not held or not rest:
        few = f"the loader has {len(set(content))} different items: the result is judged on what it is calibrated on"
        return Items(_rows(split, range(min(parts.calibration, count))), split, names, labelled, (*notes, few))
    doubts = calibration.check(_rows(split, rest), evaluation=evaluation)
    return Items(_rows(split, rest), evaluation, names, labelled, (*notes, *doubts))


def _rows(split: Split, rows: Sequence[int] | range) -> Split:
    index = np.array(list(rows), int)
    inputs = tuple(np.ascontiguousarray(x[index]) for x in split.inputs)
    return replace(split, inputs=inputs, targets=split.targets[index], ids=tuple(split.ids[i] for i in index))


def _read(network: nn.Module, data: Any, limit: int) -> tuple[Split, tuple[str, ...], bool, tuple[str, ...]]:
    """Return the first items of the loader as one split; the loader's random numbers are not taken from the user's."""
    if isinstance(data, torch.Tensor | np.ndarray | str | bytes) or not isinstance(data, Iterable):
        raise CalibrationError(
            f"calibration data must be a DataLoader or another iterable of batches: got {type(data).__name__}"
        )
    with torch.random.fork_rng(devices=[]):
        batches = list(_until(iter(data), limit))
    if not batches:
        raise CalibrationError("calibration data is empty: got 0 batches, expected at least 1; check the data set")
    if isinstance(batches[0], Mapping):
        rows, names, notes = _mapped(network, batches)
    else:
        rows, names, notes = [_sequence(network, batch) for batch in batches], (), ()
    counts = {len(inputs) for inputs, _ in rows}
    if counts != {len(rows[0][0])} or not rows[0][0]:
        raise CalibrationError(f"every batch must have the same inputs, at least 1: got {sorted(counts)} of them")
    inputs = tuple(_joined(f"input {i}", [row[0][i] for row in rows])[:limit] for i in range(len(rows[0][0])))
    for i, values in enumerate(inputs):
        if len(values) != len(inputs[0]):
            raise CalibrationError(f"input {i} has {len(values)} rows and input 0 has {len(inputs[0])}: one an item")
    labelled = all(target is not None for _, target in rows)
    targets = _joined("targets", [t for _, t in rows])[:limit] if labelled else np.zeros(len(inputs[0]))
    labelled = labelled and len(targets) == len(inputs[0])
    ids = tuple(f"item {i}" for i in range(len(inputs[0])))
    return Split(inputs, targets if labelled else np.zeros(len(ids)), ids), names, labelled, notes


def _until(batches: Iterator[Any], limit: int) -> Iterator[Any]:
    """Yield batches until they hold `limit` items."""
    seen = 0
    while seen < limit:
        try:
            batch = next(batches)
        except StopIteration:
            return
        except RuntimeError as error:  # torch's default collate: items of one batch differ in shape
            raise CalibrationError(f"the loader cannot make a batch: {' '.join(str(error).split())[:300]}") from error
        yield batch
        seen += _length(batch)


def _length(batch: Any) -> int:
    parts = batch.values() if isinstance(batch, Mapping) else batch if isinstance(batch, tuple | list) else [batch]
    return next((_length(p) if isinstance(p, tuple | list | Mapping) else len(p) for p in parts if _sized(p)), 1)


def _sized(part: Any) -> bool:
    return isinstance(part, tuple | list | Mapping) or getattr(part, "ndim", 0) > 0


def _sequence(network: nn.Module, batch: Any) -> Row:
    """Return inputs and targets of a tensor or tuple: its last part is the target where forward takes fewer."""
    if not isinstance(batch, tuple | list):
        return (batch,), None
    if len(batch) == 2 and isinstance(batch[0], tuple | list):
        return tuple(batch[0]), batch[1]
    if len(batch) == 2 and isinstance(batch[0], Mapping):
        raise CalibrationError("a batch is a dictionary, or a tuple of tensors: got a tuple with a dictionary in it")
    least, most = _places(network)
    if len(batch) == 1 or len(batch) == least or len(batch) > most + 1:
        return tuple(batch), None
    return tuple(batch[:-1]), batch[-1]


def _places(network: nn.Module) -> tuple[int, float]:
    """Return how many inputs a network's forward needs and how many it takes."""
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = inspect.signature(network.forward).parameters.values()
    taken = [p for p in parameters if p.kind in kinds]
    endless = any(p.kind is inspect.Parameter.VAR_POSITIONAL for p in parameters)
    return sum(p.default is inspect.Parameter.empty for p in taken), float("inf") if endless else len(taken)


def _mapped(network: nn.Module, batches: list[Any]) -> tuple[list[Row], tuple[str, ...], tuple[str, ...]]:
    """Return inputs and targets of batches that are dictionaries, in the order of the first, and what was left out."""
    parameters = inspect.signature(network.forward).parameters
    anything = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())
    first, target = batches[0], next((name for name in TARGETS if name in batches[0]), None)
    names = tuple(
        name for name, value in first.items()
        if name != target and _arrays(value) and (name in parameters or anything)
    )  # fmt: skip
    if not names:
        got, takes = ", ".join(map(str, first)) or "nothing", ", ".join(parameters)
        raise CalibrationError(f"a batch has no tensor that forward({takes}) takes: got {got}")
    left = [str(name) for name in first if name not in (*names, target)]
    notes = (f"left out of each batch, since forward does not take it: {', '.join(left)}",) if left else ()
    try:
        return [(tuple(b[n] for n in names), b[target] if target else None) for b in batches], names, notes
    except (KeyError, TypeError) as error:
        raise CalibrationError(f"every batch must have the same keys as the first: {error} is missing") from error


def _arrays(value: Any) -> bool:
    return isinstance(value, torch.Tensor | np.ndarray)


def _joined(name: str, parts: Sequence[Any]) -> np.ndarray:
    """Return the parts of all batches as one array [n, ...].

    Raises:
        CalibrationError: no tensors, or shapes that differ from batch to batch.
    """
    for part in parts:
        if not _arrays(part) or part.ndim == 0:
            raise CalibrationError(f"{name} of a batch must be a tensor [items, ...]: got {_word(part)}")
    arrays = [p.detach().cpu().numpy() if isinstance(p, torch.Tensor) else p for p in map(_plain, parts)]
    shapes = list(dict.fromkeys(str(list(array.shape[1:])) for array in arrays))
    if len(shapes) > 1:
        raise CalibrationError(
            f"{name} must have one shape in all batches: got {' and '.join(shapes[:3])}; "
            "pad or crop the items to one length (in the data set, or with collate_fn)"
        )
    return np.ascontiguousarray(np.concatenate(arrays))


def _plain(part: Any) -> Any:
    """Return a tensor in a type that NumPy has."""
    if isinstance(part, torch.Tensor) and part.dtype in (torch.bfloat16, torch.float16):
        return part.float()
    return part


def _word(part: Any) -> str:
    return f"a {type(part).__name__}" + (" without axes" if _arrays(part) else "")

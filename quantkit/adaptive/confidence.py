"""How sure an answer is of itself, from class scores; the same function judges validation items and requests."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from quantkit.errors import InvalidSetting, UnknownName

FEW = 64  # classes
Confidence = Callable[[np.ndarray], np.ndarray]


def margin(logits: np.ndarray) -> np.ndarray:
    """Return the probability of the likeliest class less that of the second, [n], from class scores [n, classes].

    >>> margin(np.log([[0.7, 0.2, 0.1]])).round(6).tolist()
    [0.5]
    """
    if logits.size == logits.shape[1] <= FEW:
        return np.array([_margin(logits[0].tolist())])
    ordered = np.sort(logits, axis=1)
    odds = np.exp(ordered - ordered[:, -1:])  # against the likeliest class
    return (1.0 - odds[:, -2]) / odds.sum(axis=1)


def _margin(row: list[float]) -> float:
    """Return the margin of one row: for few classes a quarter of NumPy's time, and it is on every request's way."""
    row.sort()
    top = row[-1]
    return (1.0 - math.exp(row[-2] - top)) / sum([math.exp(score - top) for score in row])


def max_softmax(logits: np.ndarray) -> np.ndarray:
    """Return the probability of the likeliest class, [n] (Hendrycks & Gimpel 2017, arXiv:1610.02136).

    >>> max_softmax(np.log([[0.7, 0.2, 0.1]])).round(6).tolist()
    [0.7]
    """
    return 1.0 / np.exp(logits - logits.max(axis=1, keepdims=True)).sum(axis=1)


KINDS: dict[str, Confidence] = {"margin": margin, "max_softmax": max_softmax}


def kind(name: str) -> Confidence:
    """Return a confidence by name.

    Raises:
        UnknownName: no such confidence.
    """
    if name not in KINDS:
        raise UnknownName(f"no confidence named '{name}'. Known: {', '.join(KINDS)}")
    return KINDS[name]


def scores(output: np.ndarray) -> np.ndarray:
    """Return what is decided by, [n, classes]: the output itself, or of a sequence [n, t, classes] the last position.

    For a language model that is the next token after the prompt.

    Raises:
        InvalidSetting: another shape, e.g. an embedding's single column.
    """
    if output.ndim not in (2, 3) or output.shape[-1] < 2:
        shape = list(output.shape)
        raise InvalidSetting(f"a cascade needs scores [n, classes] or [n, t, classes], 2 or more classes: got {shape}")
    return output if output.ndim == 2 else output[:, -1]

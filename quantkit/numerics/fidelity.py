"""How close a candidate's outputs are to the reference's: SQNR, cosine, top-1 agreement and KL divergence.

All are computed in float64 and a block of rows at a time. They compare outputs with outputs and need no labels, so they
also judge models with random weights; they say nothing about quality (see `quantkit.stats.retention` for that).
"""

import math

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import log_softmax

from quantkit.numerics.blocks import Floats, rows


def sqnr_db(reference: ArrayLike, candidate: ArrayLike) -> float:
    """Return the signal to quantization noise ratio 10·log10(sum ref² / sum (ref - cand)²), decibels.

    Args:
        reference: what it should be, any shape.
        candidate: what it is, same shape.

    Returns:
        `math.inf` for identical arrays (all zeros included); `-math.inf` for noise on an all-zero reference.

    Raises:
        ValueError: shapes differ, empty, nan or infinite.

    >>> round(sqnr_db([3.0, 4.0], [3.0, 4.5]), 9)  # 25 / 0.25 = 100
    20.0
    """
    signal = noise = 0.0
    for ref, cand in rows(reference, candidate):
        signal += float(np.sum(ref**2))
        noise += float(np.sum((ref - cand) ** 2))
    if noise == 0:
        return math.inf
    return 10 * math.log10(signal / noise) if signal else -math.inf


def cosine(reference: ArrayLike, candidate: ArrayLike) -> float:
    """Return the mean over items of the cosine between reference and candidate, each item flattened.

    Args:
        reference: [n, ...], one item per entry of the first axis.
        candidate: same shape.

    Returns:
        A number in -1..1. Two all-zero items count as 1 (equal), one all-zero item as 0 (no direction kept).

    Raises:
        ValueError: shapes differ, empty, nan or infinite.

    >>> cosine([[1.0, 0.0], [0.0, 2.0]], [[3.0, 0.0], [1.0, 0.0]])  # (1 + 0) / 2
    0.5
    """
    total, items = 0.0, 0
    for ref, cand in rows(reference, candidate):
        left, right = unit_rows(ref), unit_rows(cand)
        both_zero = ~left.any(axis=1) & ~right.any(axis=1)
        total += float(np.sum(np.where(both_zero, 1.0, np.sum(left * right, axis=1))))
        items += len(ref)
    return min(1.0, max(-1.0, total / items))


def top1_agreement(reference: ArrayLike, candidate: ArrayLike) -> float:
    """Return the share of positions at which both have their largest value in the same place of the last axis.

    Args:
        reference: logits [..., classes]; a tie goes to the lowest class.
        candidate: same shape.

    Returns:
        A share in 0..1.

    Raises:
        ValueError: shapes differ, empty, nan or infinite.

    >>> top1_agreement([[1.0, 2.0], [5.0, 2.0]], [[0.0, 9.0], [1.0, 2.0]])
    0.5
    """
    same, positions = 0, 0
    for ref, cand in rows(reference, candidate, columns=_classes(reference)):
        same += int(np.count_nonzero(ref.argmax(axis=1) == cand.argmax(axis=1)))
        positions += len(ref)
    return same / positions


def kl_divergence(reference: ArrayLike, candidate: ArrayLike) -> float:
    """Return the mean of KL(softmax(reference) || softmax(candidate)) over all positions, nats.

    Args:
        reference: logits [..., classes], any size: computed from log-softmax, so that nothing overflows.
        candidate: same shape.

    Returns:
        A number >= 0; 0 when the logits differ by a constant per position only. Rounding below 0 is cut off.

    Raises:
        ValueError: shapes differ, empty, nan or infinite.

    Source: Kullback and Leibler 1951; as a yardstick for quantized language models: llama.cpp, tools/perplexity.

    >>> round(kl_divergence([[0.0, 0.0]], [[0.0, math.log(3)]]), 6)  # .5 ln(.5/.25) + .5 ln(.5/.75) = .143841
    0.143841
    """
    total, positions = 0.0, 0
    for ref, cand in rows(reference, candidate, columns=_classes(reference)):
        log_p, log_q = log_softmax(ref, axis=1), log_softmax(cand, axis=1)
        total += float(np.sum(np.exp(log_p) * (log_p - log_q)))
        positions += len(ref)
    return max(0.0, total / positions)


def unit_rows(x: Floats) -> Floats:
    """Return the rows of [n, d] scaled to length 1; an all-zero row stays zero."""
    largest = np.max(np.abs(x), axis=1, keepdims=True)
    scaled = np.divide(x, largest, out=np.zeros_like(x), where=largest > 0)  # squares of tiny values would underflow
    norm = np.linalg.norm(scaled, axis=1, keepdims=True)
    return np.divide(scaled, norm, out=scaled, where=norm > 0)


def _classes(logits: ArrayLike) -> int:
    """Return the length of the last axis; a scalar has none."""
    shape = np.shape(logits)
    if not shape:
        raise ValueError("logits need a last axis of classes: got a single number")
    return shape[-1]

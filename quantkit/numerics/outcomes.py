"""One outcome per evaluation item, from outputs and targets: what paired quality tests compare.

Right or wrong items are 1.0 or 0.0; losses are real numbers. Outcomes stay in item order: item i of the baseline and
item i of the candidate are a pair (`quantkit.stats.retention`).
"""

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import logsumexp

from quantkit.numerics.blocks import Floats, rows
from quantkit.numerics.fidelity import unit_rows

STEP = 256  # queries per step: bounds the similarity matrix to [256, n]


def top1(logits: ArrayLike, labels: ArrayLike) -> Floats:
    """Return 1.0 where the largest logit is the label's, else 0.0; a tie goes to the lowest class.

    Args:
        logits: [n, classes].
        labels: [n] integers.

    Returns:
        [n].

    Raises:
        ValueError: shapes do not fit, nan or infinite.

    >>> top1([[0.1, 0.9], [0.8, 0.2]], [1, 1]).tolist()
    [1.0, 0.0]
    """
    logits, labels = _fit(logits, labels, dimensions=2)
    guesses = [block.argmax(axis=1) for (block,) in rows(logits)]
    return (np.concatenate(guesses) == labels).astype(np.float64)


def nats_per_token(logits: ArrayLike, tokens: ArrayLike) -> Floats:
    """Return the mean negative log-likelihood of each item's tokens, nats per token.

    Args:
        logits: [n, t, vocabulary]; position j predicts `tokens[:, j]` (the caller has shifted them already).
        tokens: [n, t] integers in 0..vocabulary - 1.

    Returns:
        [n]; its mean is the log of the perplexity.

    Raises:
        ValueError: shapes do not fit, a token outside the vocabulary, nan or infinite.

    >>> nats_per_token(np.zeros((1, 3, 8)), [[0, 5, 7]]).round(6).tolist()  # ln 8
    [2.079442]
    """
    logits, tokens = _fit(logits, tokens, dimensions=3)
    n, t, vocabulary = logits.shape
    if tokens.min() < 0 or tokens.max() >= vocabulary:
        raise ValueError(f"tokens must be in 0..{vocabulary - 1}: got {tokens.min()}..{tokens.max()}")
    flat, losses, start = tokens.reshape(-1), np.empty(n * t), 0
    for (block,) in rows(logits, columns=vocabulary):
        stop = start + len(block)
        chosen = block[np.arange(len(block)), flat[start:stop]]
        losses[start:stop] = logsumexp(block, axis=1) - chosen
        start = stop
    return losses.reshape(n, t).mean(axis=1)


def nearest_neighbour(embeddings: ArrayLike, labels: ArrayLike) -> Floats:
    """Return 1.0 where the nearest other item by cosine has the same label (leave-one-out), else 0.0.

    Args:
        embeddings: [n, d], n >= 2; a tie goes to the lowest index, an all-zero embedding is 0 from everything.
        labels: [n] integers.

    Returns:
        [n].

    Raises:
        ValueError: shapes do not fit, fewer than two items, nan or infinite.

    >>> nearest_neighbour([[1, 0], [2, 0.1], [0, 1]], [7, 7, 8]).tolist()  # the third's nearest is the second
    [1.0, 1.0, 0.0]
    """
    embeddings, labels = _fit(embeddings, labels, dimensions=2)
    if len(embeddings) < 2:
        raise ValueError(f"leave-one-out needs at least 2 items: got {len(embeddings)}")
    items = _units(embeddings)
    nearest = _best(items, items, skip_self=True)
    return (labels[nearest] == labels).astype(np.float64)


def retrieval(queries: ArrayLike, documents: ArrayLike) -> Floats:
    """Return 1.0 where document i is the best match of query i by cosine among all documents, else 0.0.

    Args:
        queries: [n, d].
        documents: [n, d]; a tie goes to the lowest index, so that a collapsed model scores 1/n.

    Returns:
        [n].

    Raises:
        ValueError: shapes differ, nan or infinite.

    >>> retrieval([[1, 0], [0, 1]], [[5, 1], [4, 1]]).tolist()  # .981 > .970 and .243 > .196
    [1.0, 1.0]
    """
    if np.ndim(queries) != 2 or np.shape(queries) != np.shape(documents):
        raise ValueError(f"queries and documents must be [n, d]: got {np.shape(queries)} and {np.shape(documents)}")
    best = _best(_units(queries), _units(documents), skip_self=False)
    return (best == np.arange(len(best))).astype(np.float64)


def _best(queries: Floats, items: Floats, *, skip_self: bool) -> np.ndarray:
    """Return for every query row the index of the most similar item row, [n]."""
    best = np.empty(len(queries), np.intp)
    for start in range(0, len(queries), STEP):
        similarity = queries[start : start + STEP] @ items.T  # [step, n]
        own = np.arange(len(similarity))
        if skip_self:
            similarity[own, start + own] = -np.inf
        best[start : start + STEP] = similarity.argmax(axis=1)
    return best


def _units(x: ArrayLike) -> Floats:
    """Return the rows scaled to length 1, checked for nan and infinity."""
    return np.concatenate([unit_rows(block) for (block,) in rows(x)])


def _fit(outputs: ArrayLike, targets: ArrayLike, *, dimensions: int) -> tuple[np.ndarray, np.ndarray]:
    """Return both as arrays when targets have the outputs' shape without the last axis and hold integers."""
    outputs, targets = np.asarray(outputs), np.asarray(targets)
    if outputs.ndim != dimensions or targets.shape != outputs.shape[:-1]:
        raise ValueError(
            f"outputs need {dimensions} axes and targets all but the last: got {outputs.shape} and {targets.shape}"
        )
    if not np.issubdtype(targets.dtype, np.integer):
        raise ValueError(f"targets must be integers: got {targets.dtype}")
    return outputs, targets

"""A session against single precisions on held-out items: block by block in turn, whole time per request.

Arms take turns in blocks of neighbouring requests, not request by request: an arm that serves a stream finds its own
weights and code in the caches, and turns of a few milliseconds still meet every drift of the machine alike.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from quantkit.contracts import Arrays, Split, Target
from quantkit.stats.interval import Estimate

Arm = Callable[[Arrays], np.ndarray]  # inputs of one request -> class scores [1, classes]
BLOCK = 50  # neighbouring requests that one arm answers before the next one does, where there are enough for
BLOCKS = 50  # blocks to resample: fewer would make the interval too narrow
RESAMPLES = 4_000


@dataclass(frozen=True)
class Race:
    """What every arm answered and how long each answer took.

    Args:
        outputs: name -> [n, classes].
        seconds: name -> [n], from inputs to answer in NumPy, all overhead included.
    """

    outputs: Mapping[str, np.ndarray]
    seconds: Mapping[str, np.ndarray]

    def speedup(self, reference: str, candidate: str, *, seed: int = 0) -> Estimate:
        """Return mean time per request of the reference over that of the candidate, with its interval."""
        return ratio_of_means(self.seconds[reference], self.seconds[candidate], seed=seed)


def race(arms: Mapping[str, Arm], items: Split, target: Target, *, seed: int = 0, warmup: int = 50) -> Race:
    """Give every item to every arm, arms in a new random order for each block of items, and time each answer.

    Args:
        arms: each answers one request at a time.
        warmup: items that all arms answer before the clock counts; they are answered again afterwards.
    """
    names, rng = list(arms), np.random.default_rng(seed)
    outputs: dict[str, list[np.ndarray]] = {name: [] for name in names}
    seconds = {name: np.empty(len(items)) for name in names}
    for i in range(min(warmup, len(items))):
        for arm in arms.values():
            arm(items.item(i))
    block = block_of(len(items))
    for start in range(0, len(items), block):
        for place in rng.permutation(len(names)):
            name = names[place]
            for i in range(start, min(start + block, len(items))):
                output, seconds[name][i] = _timed(arms[name], items.item(i), target)
                outputs[name].append(output)
    return Race({name: np.concatenate(rows) for name, rows in outputs.items()}, seconds)


def block_of(count: int) -> int:
    """Return how many of that many requests make a block.

    >>> block_of(10_000), block_of(256)
    (50, 5)
    """
    return max(1, min(BLOCK, count // BLOCKS))


def _timed(arm: Arm, item: Arrays, target: Target) -> tuple[np.ndarray, float]:
    target.synchronize()
    started = target.clock()
    output = arm(item)
    target.synchronize()
    return output, target.clock() - started


def ratio_of_means(
    reference: Sequence[float] | np.ndarray, candidate: Sequence[float] | np.ndarray, *, seed: int = 0
) -> Estimate:
    """Return sum(reference) / sum(candidate) with its 95 % bootstrap interval over blocks of neighbouring requests.

    Args:
        reference: [n] seconds.
        candidate: [n] seconds of the same requests.

    >>> ratio_of_means([2.0] * 100, [1.0] * 100)
    Estimate(value=2.0, low=2.0, high=2.0, confidence=0.95)
    """
    starts = np.arange(0, len(reference), block_of(len(reference)))
    sums = np.stack([np.add.reduceat(np.asarray(x, np.float64), starts) for x in (reference, candidate)])
    picks = np.random.default_rng(seed).integers(0, len(starts), (RESAMPLES, len(starts)))
    above, below = sums[:, picks].sum(-1)
    low, high = np.quantile(above / below, (0.025, 0.975)).tolist()
    total = sums.sum(1)
    return Estimate(float(total[0] / total[1]), low, high, 0.95)

"""Climbs the precisions with a batch of requests: each goes up only while it is unsure and allowed to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from quantkit.adaptive import load
from quantkit.adaptive.cascade import NEVER
from quantkit.adaptive.confidence import Confidence, scores
from quantkit.adaptive.counters import Counters
from quantkit.contracts import Arrays, Session

Reason = Literal["cascade", "out of calibration", "load"]
NONE = np.empty((0, 0), np.float32)


@dataclass(frozen=True)
class Precision:
    """One precision of the model: opened artifacts by the batch size that they were built for; 1 is among them."""

    name: str
    sessions: Mapping[int, Session]

    def outputs(self, items: Sequence[Arrays]) -> np.ndarray:
        """Return the answers to some items, [n, ...]: in the largest batches that they fill, the rest smaller."""
        found, start = [], 0
        for size in load.parts(len(items), tuple(self.sessions)):
            group = items[start : start + size]
            inputs = group[0] if size == 1 else tuple(map(np.concatenate, zip(*group, strict=True)))
            session = self.sessions[size]
            found.append(session.fetch(session.run(session.feed(inputs))))
            start += size
        return found[0] if len(found) == 1 else np.concatenate(found)


@dataclass(slots=True)
class Request:
    """A request on its way up.

    Args:
        at: index of the precision that is to answer next, at the end of the one that had the last word.
        last: index of the precision that has the last word in any case.
        reason: why that one is the last.
    """

    inputs: Arrays
    arrived_s: float
    future: Future | None = None
    at: int = 0
    last: int = 0
    reason: Reason = "cascade"
    confidence: float = 0.0
    audited: bool = False
    output: np.ndarray = field(default_factory=lambda: NONE)


def climb(
    precisions: Sequence[Precision],
    requests: Sequence[Request],
    values: Sequence[float],
    sure: Confidence,
    counters: Counters,
) -> None:
    """Give every request its output and the precision that had the last word.

    Args:
        requests: each with `at`, where it starts, and `last`.
        values: thresholds, one for each precision but the last; `NEVER` for one that is not asked.
    """
    waiting = list(requests)
    for k, precision in enumerate(precisions):
        group = [request for request in waiting if request.at == k]
        if not group:
            continue
        outputs = precision.outputs([request.inputs for request in group])
        counters.called(precision.name, len(group))
        for i, (request, confidence) in enumerate(zip(group, sure(scores(outputs)).tolist(), strict=True)):
            request.output, request.confidence = outputs[i : i + 1], confidence
            if k == len(values) or confidence >= values[k]:
                continue
            if k == request.last:  # unsure (nan is, too), and load lets it go no further
                request.reason = "load"
            else:
                request.at = following(k + 1, values, request.last)
                counters.add(escalations=1)


def following(first: int, values: Sequence[float], last: int) -> int:
    """Return the index of the next precision that is asked, from `first` on; `last` in any case.

    >>> following(0, [NEVER, 0.5], 2), following(0, [NEVER, NEVER], 2)
    (1, 2)
    """
    return next((k for k in range(first, last) if values[k] < NEVER), last)

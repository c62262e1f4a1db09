"""A model that a test tells what to answer and how long to take: time passes only when it runs."""

from __future__ import annotations

import numpy as np

from quantkit.adaptive.ladder import Precision


class Clock:
    """A target whose time a test moves."""

    simulated = True

    def __init__(self):
        self.now = 0.0

    def clock(self):
        return self.now

    def synchronize(self):
        pass


class Told:
    """Answers the class that the item names with the confidence that the item names, plus what the test tells.

    An item is [1, 2]: the true class 0 or 1, and the margin between the two probabilities.
    """

    load_s = compile_s = 0.0

    def __init__(self, clock, latency_s, *, size=1, sure=None, wrong=lambda item: False):
        self.clock, self.latency_s, self.size = clock, latency_s, size
        self.sure, self.wrong, self.calls, self.closed = sure, wrong, 0, False

    def feed(self, inputs):
        assert inputs[0].shape == (self.size, 2)
        return inputs[0]

    def run(self, fed):
        self.clock.now += self.latency_s
        self.calls += 1
        return fed

    def fetch(self, fed):
        return np.concatenate([self._scores(row) for row in fed])

    def _scores(self, row):
        margin = row[1] if self.sure is None else self.sure
        best = int(row[0]) ^ bool(self.wrong(row))
        probabilities = np.where(np.arange(2) == best, (1 + margin) / 2, (1 - margin) / 2)
        return np.log(np.maximum(probabilities, 1e-12))[None]

    def close(self):
        self.closed = True


def item(label=0, margin=0.5):
    return (np.array([[label, margin]]),)


def ladder(clock, *, cheap_s=0.001, full_s=0.01, sizes=(1,), wrong=lambda row: False):
    """Return two precisions: a cheap one as sure as the item says, and full precision, always sure and right."""
    cheap = {n: Told(clock, cheap_s * n**0.5, size=n, wrong=wrong) for n in sizes}
    full = {n: Told(clock, full_s * n**0.5, size=n, sure=0.999) for n in sizes}
    return [Precision("cheap", cheap), Precision("full", full)]

"""Points in 16 dimensions and the side of a plane they lie on: a data set that takes no time."""

import os

import numpy as np

from quantkit.contracts import DatasetInfo, Split


class TinyPoints:
    """2,000 points to evaluate, 64 to calibrate with."""

    info = DatasetInfo(
        "tiny_points", "points beside a plane", "CC0-1.0", "made by this file", {"tiny": "1"}, fast_items=500
    )

    def evaluation(self, limit=None) -> Split:
        return _points("test", 2_000, seed=1, limit=limit)

    def calibration(self, limit=None) -> Split:
        split = _points("train", 64, seed=2, limit=limit)
        if os.environ.get("TINY_BREAKS") == "nan":
            split.inputs[0][3, 0] = np.nan
        if os.environ.get("TINY_BREAKS") == "empty":
            return Split(tuple(x[:0] for x in split.inputs), split.targets[:0], ())
        return split


def _points(name, count, *, seed, limit):
    points = np.random.default_rng(seed).standard_normal((count, 16)).astype(np.float32)[:limit]
    return Split((points,), (points.sum(1) > 0).astype(int), tuple(f"{name}/{i}" for i in range(len(points))))


plugin = TinyPoints()

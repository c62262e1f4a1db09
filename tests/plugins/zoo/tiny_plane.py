"""A linear classifier that is right by construction, up to a little noise in its weights."""

import numpy as np

from quantkit.contracts import ModelInfo, Quality, Source
from quantkit.numerics.outcomes import top1


class TinyPlane:
    """One Linear layer, 16 -> 2."""

    info = ModelInfo(
        "tiny_plane", "plane", "mixed", "vision", "tiny_points", Quality("top1_accuracy", "binary"),
        (Source("random", "tiny"),), "CC0-1.0", "made by this file", ("linear",), profiles=("fast",),
    )  # fmt: skip

    def load(self):
        import torch

        network = torch.nn.Linear(16, 2, bias=False)
        weights = np.ones(16) + 0.2 * np.random.default_rng(0).standard_normal(16)
        network.weight.data = torch.from_numpy(np.stack([-weights, weights])).float()
        return network.eval()

    def outcomes(self, outputs, targets):
        return top1(outputs, targets)


plugin = TinyPlane()

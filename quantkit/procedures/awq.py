"""AWQ: weights that read large activations are scaled up before rounding, so that their rounding errors weigh less.

s = mean|x|^r for each channel, divided by sqrt(max s · min s); the exponent r is searched for each input on a grid of
20 from 0 (nothing is moved) so that the rounded layers behind it come closest to their own float outputs.
Source: Lin et al. 2023, arXiv:2306.00978, section 3.2 (their search; the clipping of weights is not done here).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from quantkit.contracts import Arrays, Split
from quantkit.procedures import norms
from quantkit.scheme import Scheme

GRID = 20
SMALLEST = 1e-4  # of a scale: a channel that is always zero keeps a finite one


def activation_aware(network: nn.Module, example: Arrays, items: Split, scheme: Scheme) -> nn.Module:
    """Return a copy that computes the same, its weights scaled so that rounding them by a scheme costs least.

    Args:
        network: in eval mode, float32; not changed.
        example: inputs of one item.
        items: calibration items.
        scheme: what the weights will be rounded by.

    Raises:
        CalibrationError: no items.
        Unsupported: torch.export refuses the network, or no norm or gated layer feeds linear layers alone.
    """

    def choose(seen: norms.Seen, weights: Sequence[torch.Tensor]) -> torch.Tensor:
        return norms.best(seen, weights, [importance(seen.mean, step / GRID) for step in range(GRID)], scheme)

    return norms.rescaled(network, example, items, choose)


def importance(means: torch.Tensor, exponent: float) -> torch.Tensor:
    """Return s = means^exponent, its largest and smallest value at equal distances from 1, [in].

    >>> importance(torch.tensor([16.0, 1.0]), 0.5)
    tensor([2.0000, 0.5000])
    """
    scale = (means**exponent).clamp_min(SMALLEST)
    return scale / (scale.max() * scale.min()).sqrt()

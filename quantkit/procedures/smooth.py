"""SmoothQuant: outliers in the channels of activations are moved into the weights, which take them more easily.

s_j = max|x_j|^alpha / max|W_j|^(1 - alpha) for channel j: activations of one tensor share a scale, so a channel ten
times larger than the others costs these more than three bits. Beside norms, which the paper smooths, linear layers
behind a gate take scales too (`norms`): the last layer of a SwiGLU reads a product, with the largest outliers of all.
Source: Xiao et al. 2022, arXiv:2211.10438, equation 4.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from quantkit.contracts import Arrays, Split
from quantkit.procedures import norms
from quantkit.scheme import Scheme

ALPHAS = tuple(step / 10 for step in range(1, 10))
SMALLEST = 1e-5  # of a magnitude: a channel that is always zero gets a finite scale


def smoothed(
    network: nn.Module, example: Arrays, items: Split, scheme: Scheme, *, alpha: float | None = None
) -> nn.Module:
    """Return a copy that computes the same, the outliers of activations moved into the linear layers that read them.

    Args:
        network: in eval mode, float32; not changed.
        example: inputs of one item.
        items: calibration items.
        scheme: what candidates are judged by.
        alpha: how much is moved: 0.5 is the paper's middle; None searches 0.1 to 0.9 for each input, and leaves it as
            it is where none lessens the error of the outputs of the layers that read it.

    Raises:
        CalibrationError: no items.
        Unsupported: torch.export refuses the network, or no norm or gated layer feeds linear layers alone.
        ValueError: alpha outside 0..1.
    """
    if alpha is not None and not 0 <= alpha <= 1:
        raise ValueError(f"alpha must lie in 0..1: got {alpha}")

    def choose(seen: norms.Seen, weights: Sequence[torch.Tensor]) -> torch.Tensor:
        inputs = torch.maximum(seen.low.abs(), seen.high.abs())
        columns = torch.cat([w.abs() for w in weights]).amax(0)
        if alpha is not None:
            return smoothing(inputs, columns, alpha)
        candidates = [torch.ones_like(inputs), *(smoothing(inputs, columns, a) for a in ALPHAS)]
        return norms.best(seen, weights, candidates, scheme)

    return norms.rescaled(network, example, items, choose)


def smoothing(inputs: torch.Tensor, columns: torch.Tensor, alpha: float) -> torch.Tensor:
    """Return s = inputs^alpha / columns^(1 - alpha), for the largest magnitudes of activations and of weights, [in].

    >>> smoothing(torch.tensor([16.0, 1.0]), torch.tensor([1.0, 0.25]), 0.5)
    tensor([4., 2.])
    """
    return (inputs.clamp_min(SMALLEST) ** alpha / columns.clamp_min(SMALLEST) ** (1 - alpha)).clamp_min(SMALLEST)

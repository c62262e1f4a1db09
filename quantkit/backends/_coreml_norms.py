"""RMSNorm for Core ML in float32: written out, because coremltools' own form is not exact there."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn


def write_out(network: nn.Module) -> None:
    """Replace each RMSNorm by its formula, in place.

    coremltools 9 divides by the largest value before it adds epsilon, which moves epsilon: 64 dB in float32, where the
    formula gives 132. In float16 the square of 256 is infinite, so there its way is the better one and is kept.
    """
    import torch
    from torch import nn

    class Norm(nn.Module):
        """x / sqrt(mean(x^2) + epsilon) * weight (Zhang & Sennrich 2019, arXiv:1910.07467)."""

        def __init__(self, norm: nn.RMSNorm):
            super().__init__()
            self.weight, self.axes = norm.weight, tuple(range(-len(norm.normalized_shape), 0))
            self.eps = torch.finfo(torch.float32).eps if norm.eps is None else norm.eps

        def forward(self, x):
            scaled = x * torch.rsqrt((x * x).mean(self.axes, keepdim=True) + self.eps)
            return scaled if self.weight is None else scaled * self.weight

    for module in list(network.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.RMSNorm):
                setattr(module, name, Norm(child))

"""A small depthwise network on Fashion-MNIST: MobileNetV2's inverted residuals (Sandler et al. 2018, arXiv:1801.04381).

Depthwise channels are scaled one by one by their batch norms, so that after folding the ranges of the channels of one
weight lie far apart: the kind of network that one scale per tensor ruins (Nagel et al. 2019, arXiv:1906.04721).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from quantkit.contracts import Source
from quantkit.zoo._fashion import FashionClassifier

if TYPE_CHECKING:
    from torch import nn

BLOCKS = ((16, 1), (24, 2), (24, 1), (32, 1), (32, 1))  # output channels and stride
EXPANSION = 4


def network() -> nn.Module:
    """Return the untrained network: images [n, 1, 28, 28] in 0..1 -> logits [n, 10]; 33 thousand weights."""
    from torch import nn

    def unit(inputs: int, outputs: int, size: int, *, stride: int = 1, groups: int = 1) -> list[nn.Module]:
        """Return a convolution and its batch norm."""
        conv = nn.Conv2d(inputs, outputs, size, stride, size // 2, groups=groups, bias=False)
        return [conv, nn.BatchNorm2d(outputs)]

    class Inverted(nn.Module):
        """Widen, filter every channel by itself, narrow; a shortcut where the shape stays."""

        def __init__(self, inputs: int, outputs: int, stride: int):
            super().__init__()
            wide = inputs * EXPANSION
            self.keep = stride == 1 and inputs == outputs
            self.branch = nn.Sequential(
                *unit(inputs, wide, 1),
                nn.ReLU6(),
                *unit(wide, wide, 3, stride=stride, groups=wide),
                nn.ReLU6(),
                *unit(wide, outputs, 1),
            )

        def forward(self, x):
            return x + self.branch(x) if self.keep else self.branch(x)

    widths = (16, *(outputs for outputs, _ in BLOCKS))
    blocks = [Inverted(inputs, *block) for inputs, block in zip(widths, BLOCKS, strict=False)]
    return nn.Sequential(
        *unit(1, 16, 3, stride=2),  # [n, 16, 14, 14]
        nn.ReLU6(),
        *blocks,  # [n, 32, 7, 7]
        *unit(32, 96, 1),
        nn.ReLU6(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(96, 10),
    )


plugin = FashionClassifier(
    "fmnist_mobile",
    "small depthwise CNN",
    "cnn",
    network=network,
    layers=("conv2d", "linear"),
    source=Source(
        "asset", "weights/fmnist_mobile.safetensors", "541b1efacb17ac5669560e587ec260323a9c538a50f8dc58decb86857717788b"
    ),
    profiles=("regular", "full"),
)

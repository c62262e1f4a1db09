"""A small residual CNN on Fashion-MNIST (He et al. 2016, arXiv:1512.03385, basic blocks)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from quantkit.contracts import Source
from quantkit.zoo._fashion import FashionClassifier

if TYPE_CHECKING:
    from torch import nn


def network() -> nn.Module:
    """Return the untrained network: images [n, 1, 28, 28] in 0..1 -> logits [n, 10]."""
    from torch import nn
    from torch.nn import functional

    class Block(nn.Module):
        """Two 3x3 convolutions beside a 1x1 shortcut."""

        def __init__(self, inputs: int, outputs: int, stride: int):
            super().__init__()
            self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
            self.norm1 = nn.BatchNorm2d(outputs)
            self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
            self.norm2 = nn.BatchNorm2d(outputs)
            self.shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.norm3 = nn.BatchNorm2d(outputs)

        def forward(self, x):
            branch = functional.relu(self.norm1(self.conv1(x)))
            return functional.relu(self.norm2(self.conv2(branch)) + self.norm3(self.shortcut(x)))

    return nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1, bias=False),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.MaxPool2d(2),  # [n, 32, 14, 14]
        Block(32, 64, stride=1),
        Block(64, 128, stride=2),  # [n, 128, 7, 7]
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(128, 10),
    )


plugin = FashionClassifier(
    "fmnist_cnn",
    "small residual CNN",
    "cnn",
    network=network,
    layers=("conv2d", "linear"),
    source=Source(
        "asset",
        "weights/fmnist_cnn.safetensors",
        "e282445a83d9ef09dcdfe0e3c002634a41b697898f6f0cad03920db078e7ecc7",
    ),
)

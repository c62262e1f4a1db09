"""A small vision transformer on Fashion-MNIST (Dosovitskiy et al. 2021, arXiv:2010.11929)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from quantkit.contracts import Source
from quantkit.zoo._fashion import FashionClassifier

if TYPE_CHECKING:
    from torch import nn


def network() -> nn.Module:
    """Return the untrained network: images [n, 1, 28, 28] in 0..1 -> logits [n, 10]."""
    import torch
    from torch import nn
    from torch.nn import functional

    width, heads, depth, hidden, patch = 96, 4, 6, 192, 4

    class Attention(nn.Module):
        """Multi-head self-attention over [n, tokens, width]."""

        def __init__(self):
            super().__init__()
            self.qkv = nn.Linear(width, 3 * width)
            self.out = nn.Linear(width, width)

        def forward(self, x):
            n, tokens, _ = x.shape
            q, k, v = self.qkv(x).reshape(n, tokens, 3, heads, width // heads).permute(2, 0, 3, 1, 4)
            mixed = functional.scaled_dot_product_attention(q, k, v)  # [n, heads, tokens, width / heads]
            return self.out(mixed.transpose(1, 2).reshape(n, tokens, width))

    class Layer(nn.Module):
        """Pre-norm transformer layer."""

        def __init__(self):
            super().__init__()
            self.norm1, self.attention = nn.LayerNorm(width), Attention()
            self.norm2 = nn.LayerNorm(width)
            self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))

        def forward(self, x):
            x = x + self.attention(self.norm1(x))
            return x + self.mlp(self.norm2(x))

    class VisionTransformer(nn.Module):
        """Patches of 4x4, a learned position for each of the 49, mean pooling."""

        def __init__(self):
            super().__init__()
            self.embed = nn.Conv2d(1, width, patch, patch)
            self.position = nn.Parameter(torch.randn(1, (28 // patch) ** 2, width) * 0.02)
            self.layers = nn.Sequential(*(Layer() for _ in range(depth)))
            self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 10)

        def forward(self, x):
            tokens = self.embed(x).flatten(2).transpose(1, 2) + self.position  # [n, 49, width]
            return self.head(self.norm(self.layers(tokens)).mean(1))

    return VisionTransformer()


plugin = FashionClassifier(
    "fmnist_vit",
    "small vision transformer",
    "transformer",
    network=network,
    layers=("conv2d", "linear"),
    source=Source(
        "asset",
        "weights/fmnist_vit.safetensors",
        "893b4efd068a38d6555b945e2585bd9da299bf6d0e70efad26fe7cbbb05a8f01",
    ),
)

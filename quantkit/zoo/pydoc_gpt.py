"""A small decoder language model on Python's documentation and library (Llama's layer: arXiv:2302.13971).

RMSNorm, rotary positions, SwiGLU, tied embedding; a byte-level BPE vocabulary of 2,048 pieces.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from quantkit.contracts import ModelInfo, Quality, Source
from quantkit.zoo import _load

if TYPE_CHECKING:
    import numpy as np
    from torch import nn


def network() -> nn.Module:
    """Return the untrained network: token ids [n, t <= 512] -> logits [n, t, 2048]."""
    import torch
    from torch import nn
    from torch.nn import functional

    vocabulary, width, heads, depth, hidden, longest = 2048, 256, 4, 6, 704, 512
    size = width // heads

    def rotate(x, cos, sin):
        """Rotate pairs of channels by the angle of their position (Su et al. 2021, arXiv:2104.09864)."""
        first, second = x.chunk(2, -1)
        return torch.cat((first * cos - second * sin, second * cos + first * sin), -1)

    class Attention(nn.Module):
        """Causal multi-head self-attention over [n, t, width]."""

        def __init__(self):
            super().__init__()
            self.qkv = nn.Linear(width, 3 * width, bias=False)
            self.out = nn.Linear(width, width, bias=False)

        def forward(self, x, cos, sin):
            n, t, _ = x.shape
            q, k, v = self.qkv(x).reshape(n, t, 3, heads, size).permute(2, 0, 3, 1, 4)
            mixed = functional.scaled_dot_product_attention(rotate(q, cos, sin), rotate(k, cos, sin), v, is_causal=True)
            return self.out(mixed.transpose(1, 2).reshape(n, t, width))

    class Layer(nn.Module):
        """Pre-norm decoder layer with a SwiGLU feed-forward."""

        def __init__(self):
            super().__init__()
            self.norm1, self.attention = nn.RMSNorm(width, eps=1e-5), Attention()
            self.norm2 = nn.RMSNorm(width, eps=1e-5)
            self.gate, self.up = nn.Linear(width, hidden, bias=False), nn.Linear(width, hidden, bias=False)
            self.down = nn.Linear(hidden, width, bias=False)

        def forward(self, x, cos, sin):
            x = x + self.attention(self.norm1(x), cos, sin)
            h = self.norm2(x)
            return x + self.down(functional.silu(self.gate(h)) * self.up(h))

    class Decoder(nn.Module):
        """The input embedding is also the output projection."""

        def __init__(self):
            super().__init__()
            self.embed = nn.Embedding(vocabulary, width)
            nn.init.normal_(self.embed.weight, std=0.02)
            self.layers = nn.ModuleList(Layer() for _ in range(depth))
            self.norm = nn.RMSNorm(width, eps=1e-5)
            self.head = nn.Linear(width, vocabulary, bias=False)
            self.head.weight = self.embed.weight
            angle = torch.outer(torch.arange(longest), 1e4 ** (-torch.arange(0, size, 2) / size))
            self.register_buffer("cos", angle.cos(), persistent=False)  # [longest, size / 2]
            self.register_buffer("sin", angle.sin(), persistent=False)

        def forward(self, tokens):
            x = self.embed(tokens)
            cos, sin = self.cos[: tokens.shape[1]], self.sin[: tokens.shape[1]]
            for layer in self.layers:
                x = layer(x, cos, sin)
            return self.head(self.norm(x))

    return Decoder()


class PydocGpt:
    """Linear layers around a tied embedding (satisfies `contracts.Model`)."""

    info = ModelInfo(
        name="pydoc_gpt",
        title="small decoder language model",
        family="transformer",
        domain="llm",
        dataset="pydoc",
        quality=Quality("nats_per_token", "score", better="lower", margin=0.01),
        sources=(
            Source(
                "asset",
                "weights/pydoc_gpt.safetensors",
                "79fd8ddd9a76760aa9df4f1b260a765713329d8788370d2f66535a55f7e38630",
            ),
        ),
        licence="Apache-2.0",
        provenance="trained by training/pydoc_gpt.py on the Python 3.11 documentation and library (PSF-2.0)",
        layers=("embedding", "linear"),
        preprocessing="text as token ids of the byte-level BPE vocabulary in quantkit/assets (2,048 pieces)",
        profiles=("fast", "regular", "full"),
    )

    def load(self) -> nn.Module:
        """Return the trained network, its weights checked against the recorded hash."""
        return _load.fill(network(), _load.safetensors(self.info.sources))

    def outcomes(self, outputs: np.ndarray, targets: np.ndarray) -> np.ndarray:
        """Return the mean negative log likelihood of each item, nats per token: [n], from [n, t, 2048] and [n, t]."""
        from quantkit.numerics import outcomes

        return outcomes.nats_per_token(outputs, targets)


plugin = PydocGpt()

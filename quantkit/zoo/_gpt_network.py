"""The decoder in PyTorch, twice: all positions at once, and one position at a time with a cache of keys and values.

RMSNorm, rotary positions, SwiGLU, tied embedding (Llama's layer: arXiv:2302.13971). Importing this imports torch.
"""

import torch
from torch import nn
from torch.nn import functional

VOCABULARY, WIDTH, HEADS, DEPTH, HIDDEN = 2048, 256, 4, 6, 704
SIZE = WIDTH // HEADS


def rotate(x, cos, sin):
    """Rotate pairs of channels by the angle of their position (Su et al. 2021, arXiv:2104.09864)."""
    first, second = x.chunk(2, -1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), -1)


class Projections(nn.Module):
    """The weights of multi-head self-attention."""

    def __init__(self):
        super().__init__()
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH, bias=False)
        self.out = nn.Linear(WIDTH, WIDTH, bias=False)


class Attention(Projections):
    """Causal multi-head self-attention over [n, t, width]."""

    def forward(self, x, cos, sin):
        n, t, _ = x.shape
        q, k, v = self.qkv(x).reshape(n, t, 3, HEADS, SIZE).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(rotate(q, cos, sin), rotate(k, cos, sin), v, is_causal=True)
        return self.out(mixed.transpose(1, 2).reshape(n, t, WIDTH))


class CachedAttention(Projections):
    """The same for one position [1, 1, width]: its key and value join those of all positions before."""

    def forward(self, x, cos, sin, cache):
        """`cache` takes key and value [1, heads, 1, size] and returns all keys, all values and the mask."""
        q, k, v = self.qkv(x).reshape(1, 1, 3, HEADS, SIZE).permute(2, 0, 3, 1, 4)
        keys, values, mask = cache(rotate(k, cos, sin), v)
        mixed = functional.scaled_dot_product_attention(rotate(q, cos, sin), keys, values, attn_mask=mask)
        return self.out(mixed.transpose(1, 2).reshape(1, 1, WIDTH))


class Layer(nn.Module):
    """Pre-norm decoder layer with a SwiGLU feed-forward."""

    def __init__(self, attention):
        super().__init__()
        self.norm1, self.attention = nn.RMSNorm(WIDTH, eps=1e-5), attention
        self.norm2 = nn.RMSNorm(WIDTH, eps=1e-5)
        self.gate, self.up = nn.Linear(WIDTH, HIDDEN, bias=False), nn.Linear(WIDTH, HIDDEN, bias=False)
        self.down = nn.Linear(HIDDEN, WIDTH, bias=False)

    def forward(self, x, *context):
        x = x + self.attention(self.norm1(x), *context)
        h = self.norm2(x)
        return x + self.down(functional.silu(self.gate(h)) * self.up(h))


class Weights(nn.Module):
    """Everything that a decoder holds; the input embedding is also the output projection."""

    def __init__(self, attention, longest):
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, WIDTH)
        nn.init.normal_(self.embed.weight, std=0.02)
        self.layers = nn.ModuleList(Layer(attention()) for _ in range(DEPTH))
        self.norm = nn.RMSNorm(WIDTH, eps=1e-5)
        self.head = nn.Linear(WIDTH, VOCABULARY, bias=False)
        self.head.weight = self.embed.weight
        angle = torch.outer(torch.arange(longest), 1e4 ** (-torch.arange(0, SIZE, 2) / SIZE))
        self.register_buffer("cos", angle.cos(), persistent=False)  # [longest, size / 2]
        self.register_buffer("sin", angle.sin(), persistent=False)


class Decoder(Weights):
    """Token ids [n, t] -> logits [n, t, 2048]."""

    def __init__(self, longest):
        super().__init__(Attention, longest)

    def forward(self, tokens):
        x = self.embed(tokens)
        cos, sin = self.cos[: tokens.shape[1]], self.sin[: tokens.shape[1]]
        for layer in self.layers:
            x = layer(x, cos, sin)
        return self.head(self.norm(x))


class CachedDecoder(Weights):
    """A token [1, 1] and its position [1] -> logits [1, 1, 2048]; `states` are written at that position.

    What lies behind the position is masked, so a new sequence may start at 0 with a used cache.
    """

    states = ("k_cache", "v_cache")

    def __init__(self, longest):
        super().__init__(CachedAttention, longest)
        for name in self.states:
            self.register_buffer(name, torch.zeros(DEPTH, 1, HEADS, longest, SIZE), persistent=False)
        self.register_buffer("places", torch.arange(longest, dtype=torch.int32), persistent=False)

    def forward(self, tokens, position):
        x = self.embed(tokens)
        cos, sin = self.cos[position], self.sin[position]  # [1, size / 2]
        mask = torch.where(self.places <= position, 0.0, -1e4)[None]  # added to the scores; finite in float16 too
        for number, layer in enumerate(self.layers):

            def cache(key, value, number=number):
                self.k_cache[number, :, :, position : position + 1] = key
                self.v_cache[number, :, :, position : position + 1] = value
                return self.k_cache[number], self.v_cache[number], mask

            x = layer(x, cos, sin, cache)
        return self.head(self.norm(x))

"""A small decoder language model on Python's documentation and library (Llama's layer: arXiv:2302.13971).

RMSNorm, rotary positions, SwiGLU, tied embedding; a byte-level BPE vocabulary of 2,048 pieces.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from quantkit.zoo._gpt import Gpt

if TYPE_CHECKING:
    from torch import nn


def network() -> nn.Module:
    """Return the untrained network: token ids [n, t <= 512] -> logits [n, t, 2048]."""
    from quantkit.zoo import _gpt_network

    return _gpt_network.Decoder(longest=512)


plugin = Gpt(
    "pydoc_gpt", "small decoder language model", "pydoc", network=network, profiles=("fast", "regular", "full")
)

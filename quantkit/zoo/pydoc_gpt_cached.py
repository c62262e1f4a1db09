"""The decoder of pydoc_gpt as it generates: one position at a time, keys and values of the earlier ones in a cache."""

from __future__ import annotations

from typing import TYPE_CHECKING

from quantkit.zoo._gpt import Gpt

if TYPE_CHECKING:
    from torch import nn


def network() -> nn.Module:
    """Return the untrained network: token [1, 1], its position [1] below 128 -> logits [1, 1, 2048]."""
    from quantkit.zoo import _gpt_network

    return _gpt_network.CachedDecoder(longest=128)


plugin = Gpt(
    "pydoc_gpt_cached",
    "small decoder language model, one position at a time",
    "pydoc_short",
    network=network,
    profiles=("regular", "full"),
    stepwise=True,
)

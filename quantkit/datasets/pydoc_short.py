"""The first 64 evaluation pieces of pydoc, for networks that are called once a token: 8,192 calls."""

from quantkit.datasets._pydoc import Tokens

plugin = Tokens("pydoc_short", "held-out Python documentation, 64 pieces", fast_items=16, most=64)

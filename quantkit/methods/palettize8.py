"""Palettization: 8-bit codes into one table of 256 values a tensor, found by k-means (Lloyd 1982)."""

from quantkit.methods._uniform import Uniform
from quantkit.scheme import PerTensor, Scheme

plugin = Uniform("palettize8", "palette of 256 values", Scheme(8, "lut", PerTensor()), profiles=("full",))

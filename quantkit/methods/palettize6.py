"""Palettization: 6-bit codes into one table of 64 values a tensor, found by k-means (Lloyd 1982)."""

from quantkit.methods._uniform import Uniform
from quantkit.scheme import PerTensor, Scheme

plugin = Uniform("palettize6", "palette of 64 values", Scheme(6, "lut", PerTensor()), profiles=("full",))

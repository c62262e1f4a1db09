"""Palettization: 2-bit codes into one table of 4 values a tensor, found by k-means (Lloyd 1982)."""

from quantkit.methods._uniform import Uniform
from quantkit.scheme import PerTensor, Scheme

plugin = Uniform("palettize2", "palette of 4 values", Scheme(2, "lut", PerTensor()), profiles=("full",))

"""Palettization: 4-bit codes into one table of 16 values a tensor, found by k-means (Lloyd 1982)."""

from quantkit.methods._uniform import Uniform
from quantkit.scheme import PerTensor, Scheme

plugin = Uniform("palettize4", "palette of 16 values", Scheme(4, "lut", PerTensor()), profiles=("regular", "full"))

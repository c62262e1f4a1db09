"""Palettization with a 4-bit table for every 16 output channels."""

from quantkit.methods._uniform import Uniform
from quantkit.scheme import PerChannelGroup, Scheme

plugin = Uniform(
    "palettize4_grouped",
    "palette of 16 values a group of 16 channels",
    Scheme(4, "lut", PerChannelGroup(16)),
    profiles=("full",),
)

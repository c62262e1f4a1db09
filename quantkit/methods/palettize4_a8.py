"""Joint compression: 4-bit palette for the weights, static int8 for the activations."""

from quantkit.methods._uniform import Uniform
from quantkit.scheme import PerTensor, Scheme

plugin = Uniform(
    "palettize4_a8",
    "palette of 16 values, int8 activations",
    Scheme(4, "lut", PerTensor(), activations="static"),
    profiles=("full",),
)

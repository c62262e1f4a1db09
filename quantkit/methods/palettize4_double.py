"""Joint compression: a 4-bit palette whose 16 values are themselves int8."""

from quantkit.methods._uniform import Uniform
from quantkit.scheme import PerTensor, Scheme

plugin = Uniform(
    "palettize4_double", "palette of 16 int8 values", Scheme(4, "lut", PerTensor(), double=True), profiles=("full",)
)

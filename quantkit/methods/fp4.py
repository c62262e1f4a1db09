"""4-bit floating point (two exponent bits, one mantissa bit), blocks of 64 weights share a scale."""

from quantkit.methods._uniform import Uniform
from quantkit.scheme import PerGroup, Scheme

plugin = Uniform("fp4", "FP4, blocks of 64", Scheme(4, "fp4", PerGroup(64)), profiles=("full",))

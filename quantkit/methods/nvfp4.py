"""NVFP4: 4-bit floats (e2m1), 16 weights share an 8-bit floating-point scale."""

from quantkit.methods._uniform import Uniform
from quantkit.scheme import PerGroup, Scheme

plugin = Uniform("nvfp4", "NVFP4", Scheme(4, "nvfp4", PerGroup(16)), profiles=("full",))

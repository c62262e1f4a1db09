"""OCP microscaling: 8-bit floats (e4m3), 32 weights share a power of two (OCP MX specification 1.0)."""

from quantkit.methods._uniform import Uniform
from quantkit.scheme import PerGroup, Scheme

plugin = Uniform("mxfp8", "MXFP8", Scheme(8, "mxfp8", PerGroup(32)), profiles=("full",))

"""OCP microscaling: 4-bit floats (e2m1), 32 weights share a power of two (OCP MX specification 1.0)."""

from quantkit.methods._uniform import Uniform
from quantkit.scheme import PerGroup, Scheme

plugin = Uniform("mxfp4", "MXFP4", Scheme(4, "mxfp4", PerGroup(32)), profiles=("regular", "full"))

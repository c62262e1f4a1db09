"""Weight-only int4: neighbouring groups of 32 weights share a scale; activations stay in floating point."""

from quantkit.methods._uniform import Uniform
from quantkit.scheme import PerGroup, Scheme

plugin = Uniform("int4_weight_only", "weight-only int4, groups of 32", Scheme(bits=4, granularity=PerGroup(32)))

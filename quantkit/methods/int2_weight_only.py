"""Weight-only int2 with a zero point, groups of 64 weights share a scale."""

from quantkit.methods._uniform import Uniform
from quantkit.scheme import PerGroup, Scheme

plugin = Uniform(
    "int2_weight_only",
    "weight-only int2, groups of 64",
    Scheme(2, granularity=PerGroup(64), symmetric=False),
    profiles=("full",),
)

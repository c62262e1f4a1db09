"""Weight-only int3 with a zero point, groups of 64 weights share a scale."""

from quantkit.methods._uniform import Uniform
from quantkit.scheme import PerGroup, Scheme

plugin = Uniform(
    "int3_weight_only",
    "weight-only int3, groups of 64",
    Scheme(3, granularity=PerGroup(64), symmetric=False),
    profiles=("full",),
)

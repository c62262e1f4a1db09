"""Weight-only int6 with a zero point, groups of 64 weights share a scale."""

from quantkit.methods._uniform import Uniform
from quantkit.scheme import PerGroup, Scheme

plugin = Uniform(
    "int6_weight_only",
    "weight-only int6, groups of 64",
    Scheme(6, granularity=PerGroup(64), symmetric=False),
    profiles=("full",),
)

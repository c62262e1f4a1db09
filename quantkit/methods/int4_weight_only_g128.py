"""Weight-only int4 in large groups: 128 neighbouring weights share a scale."""

from quantkit.methods._uniform import Uniform
from quantkit.scheme import PerGroup, Scheme

plugin = Uniform(
    "int4_weight_only_g128", "weight-only int4, groups of 128", Scheme(4, granularity=PerGroup(128)), profiles=("full",)
)

"""Weight-only int4 with second-order error feedback (Frantar et al. 2023, arXiv:2210.17323)."""

from quantkit.methods._uniform import Uniform
from quantkit.scheme import PerGroup, Scheme

plugin = Uniform(
    "int4_gptq",
    "weight-only int4 by GPTQ, groups of 32",
    Scheme(4, granularity=PerGroup(32), codes="gptq"),
    profiles=("regular", "full"),
)

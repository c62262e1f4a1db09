"""Weight-only int4 after weights were scaled by the activations they read (Lin et al. 2023, arXiv:2306.00978)."""

from quantkit.methods._rewritten import Rewritten
from quantkit.scheme import PerGroup, Scheme

plugin = Rewritten(
    "int4_awq",
    "weight-only int4 by AWQ, groups of 32",
    Scheme(4, granularity=PerGroup(32)),
    profiles=("regular", "full"),
    steps=("awq",),
)

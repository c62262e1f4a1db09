"""Weight-only int4 by half-quadratic quantization (Badri & Shaji 2023): scales fitted without data."""

from quantkit.methods._uniform import Uniform
from quantkit.scheme import PerGroup, Scheme

plugin = Uniform(
    "int4_hqq",
    "weight-only int4 by HQQ, groups of 32",
    Scheme(4, granularity=PerGroup(32), symmetric=False, codes="hqq"),
    profiles=("regular", "full"),
)

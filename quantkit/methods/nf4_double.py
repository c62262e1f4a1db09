"""4-bit NormalFloat with double quantization: the scales are kept in 8 bits (arXiv:2305.14314)."""

from quantkit.methods._uniform import Uniform
from quantkit.scheme import PerGroup, Scheme

plugin = Uniform(
    "nf4_double",
    "NF4 with double quantization",
    Scheme(4, "nf4", PerGroup(64), double=True),
    profiles=("regular", "full"),
)

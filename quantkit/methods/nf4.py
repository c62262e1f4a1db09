"""4-bit NormalFloat, blocks of 64 weights share a scale (Dettmers et al. 2023, arXiv:2305.14314)."""

from quantkit.methods._uniform import Uniform
from quantkit.scheme import PerGroup, Scheme

plugin = Uniform("nf4", "NF4, blocks of 64", Scheme(4, "nf4", PerGroup(64)), profiles=("regular", "full"))

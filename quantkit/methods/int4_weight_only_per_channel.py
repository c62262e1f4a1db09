"""Weight-only int4 with one scale per output channel: the coarsest sharing that is common; what training repairs."""

from quantkit.methods._uniform import Uniform
from quantkit.scheme import Scheme

plugin = Uniform("int4_weight_only_per_channel", "weight-only int4, per channel", Scheme(4), profiles=("full",))

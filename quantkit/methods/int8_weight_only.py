"""Weight-only int8: weights per output channel, activations stay in floating point."""

from quantkit.methods._uniform import Uniform
from quantkit.scheme import Scheme

plugin = Uniform("int8_weight_only", "weight-only int8", Scheme(bits=8))

"""Static int8: weights per output channel, activations by calibrated ranges (Jacob et al. 2018, arXiv:1712.05877)."""

from quantkit.methods._uniform import Uniform
from quantkit.scheme import Scheme

plugin = Uniform("int8_static", "static int8, per channel", Scheme(bits=8, activations="static"))

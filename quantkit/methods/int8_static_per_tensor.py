"""Static int8 with one scale for a whole weight tensor: the coarsest and most portable form."""

from quantkit.methods._uniform import Uniform
from quantkit.scheme import PerTensor, Scheme

plugin = Uniform(
    "int8_static_per_tensor",
    "static int8, per tensor",
    Scheme(bits=8, granularity=PerTensor(), activations="static"),
    profiles=("regular", "full"),
)

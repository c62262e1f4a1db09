"""Weight-only int4, one scale for a whole weight tensor: the coarsest form; depthwise networks collapse in it."""

from quantkit.methods._uniform import Uniform
from quantkit.scheme import PerTensor, Scheme

plugin = Uniform(
    "int4_per_tensor", "weight-only int4, per tensor", Scheme(4, granularity=PerTensor()), profiles=("full",)
)

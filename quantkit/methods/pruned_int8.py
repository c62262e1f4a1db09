"""Joint compression: the smaller half of the weights is dropped, the others are int8."""

from quantkit.methods._uniform import Uniform
from quantkit.scheme import Scheme

plugin = Uniform(
    "pruned_int8", "half of the weights zero, the others int8", Scheme(8, sparsity=0.5), profiles=("full",)
)

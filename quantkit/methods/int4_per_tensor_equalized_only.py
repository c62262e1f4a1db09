"""Weight-only int4, one scale a weight tensor, after cross-layer equalisation alone (arXiv:1906.04721, 4.1)."""

from quantkit.methods._rewritten import Rewritten
from quantkit.scheme import PerTensor, Scheme

plugin = Rewritten(
    "int4_per_tensor_equalized_only",
    "weight-only int4, per tensor, layers equalised, biases as they are",
    Scheme(4, granularity=PerTensor()),
    profiles=("full",),
    steps=("equalize",),
)

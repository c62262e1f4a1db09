"""Weight-only int4, one scale a weight tensor, biases that take back the mean errors (arXiv:1906.04721, 4.2)."""

from quantkit.methods._rewritten import Rewritten
from quantkit.scheme import PerTensor, Scheme

plugin = Rewritten(
    "int4_per_tensor_bias_corrected",
    "weight-only int4, per tensor, bias correction",
    Scheme(4, granularity=PerTensor()),
    profiles=("full",),
    steps=("correct",),
)

"""Weight-only int4, one scale a weight tensor, after equalisation and with corrected biases (arXiv:1906.04721)."""

from quantkit.methods._rewritten import Rewritten
from quantkit.scheme import PerTensor, Scheme

plugin = Rewritten(
    "int4_per_tensor_equalized",
    "weight-only int4, per tensor, layers equalised, bias correction",
    Scheme(4, granularity=PerTensor()),
    profiles=("full",),
    steps=(
        "equalize",
        "correct",
    ),
)

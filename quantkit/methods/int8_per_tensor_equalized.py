"""Static int8, one scale a weight tensor, after equalisation and with corrected biases (arXiv:1906.04721)."""

from quantkit.methods._rewritten import Rewritten
from quantkit.scheme import PerTensor, Scheme

plugin = Rewritten(
    "int8_per_tensor_equalized",
    "static int8, per tensor, layers equalised, bias correction",
    Scheme(8, granularity=PerTensor(), activations="static"),
    profiles=("full",),
    steps=(
        "equalize",
        "correct",
    ),
)

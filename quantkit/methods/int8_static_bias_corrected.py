"""Static int8 with biases that take back the mean rounding errors (Nagel et al. 2019, arXiv:1906.04721, 4.2)."""

from quantkit.methods._rewritten import Rewritten
from quantkit.scheme import Scheme

plugin = Rewritten(
    "int8_static_bias_corrected",
    "static int8, bias correction",
    Scheme(8, activations="static"),
    profiles=("full",),
    steps=("correct",),
)

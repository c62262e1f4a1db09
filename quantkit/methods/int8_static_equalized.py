"""Static int8 after cross-layer equalisation, biases corrected (as DFQ: Nagel et al. 2019, arXiv:1906.04721)."""

from quantkit.methods._rewritten import Rewritten
from quantkit.scheme import Scheme

plugin = Rewritten(
    "int8_static_equalized",
    "static int8, layers equalised, bias correction",
    Scheme(8, activations="static"),
    profiles=("regular", "full"),
    steps=("equalize", "correct"),
)

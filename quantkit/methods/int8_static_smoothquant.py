"""Static int8 after outliers of activations were moved into weights (Xiao et al. 2022, arXiv:2211.10438)."""

from quantkit.methods._rewritten import Rewritten
from quantkit.scheme import Scheme

plugin = Rewritten(
    "int8_static_smoothquant",
    "static int8, SmoothQuant",
    Scheme(8, activations="static"),
    profiles=("regular", "full"),
    steps=("smooth",),
)

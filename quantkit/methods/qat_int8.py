"""Static int8 after quantization-aware training, norms fused as at inference (Jacob et al. 2018, arXiv:1712.05877)."""

from quantkit.methods._trained import Trained
from quantkit.scheme import Scheme

plugin = Trained(
    "qat_int8",
    "static int8 after training",
    Scheme(8, activations="static"),
    profiles=("full",),
    epochs=3,
    gentleness=10.0,
    freeze_norms_after=0,
)

"""Weight-only int4 in groups of 32 after quantization-aware training (Jacob et al. 2018, arXiv:1712.05877)."""

from quantkit.methods._trained import Trained
from quantkit.scheme import PerGroup, Scheme

plugin = Trained(
    "qat_int4", "int4 after training, groups of 32", Scheme(4, granularity=PerGroup(32)), profiles=("full",)
)

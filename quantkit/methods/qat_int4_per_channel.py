"""Weight-only int4 with one scale per output channel after quantization-aware training (arXiv:1712.05877)."""

from quantkit.methods._trained import Trained
from quantkit.scheme import Scheme

plugin = Trained("qat_int4_per_channel", "int4 after training, per channel", Scheme(4), profiles=("full",))

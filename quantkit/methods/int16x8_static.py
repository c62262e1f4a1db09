"""Static quantization to 8-bit weights and 16-bit activations (TFLite's 16x8)."""

from quantkit.methods._uniform import Uniform
from quantkit.scheme import Scheme

plugin = Uniform(
    "int16x8_static",
    "static, int8 weights, int16 activations",
    Scheme(8, activations="static", activation_bits=16),
    profiles=("regular", "full"),
)

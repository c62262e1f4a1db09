"""Static int8 whose activation ranges have the least squared error on the calibration values."""

from quantkit.methods._uniform import Uniform
from quantkit.scheme import Scheme

plugin = Uniform(
    "int8_static_mse",
    "static int8, least squared error",
    Scheme(8, activations="static", ranges="mse"),
    profiles=("full",),
)

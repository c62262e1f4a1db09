"""Static int8 whose activation ranges leave out the outermost share of the calibration values."""

from quantkit.methods._uniform import Uniform
from quantkit.scheme import Scheme

plugin = Uniform(
    "int8_static_percentile",
    "static int8, percentile calibration",
    Scheme(8, activations="static", ranges="percentile"),
    profiles=("full",),
)

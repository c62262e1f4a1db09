"""Static int8 whose activation ranges lose least information (Kullback-Leibler divergence of histograms)."""

from quantkit.methods._uniform import Uniform
from quantkit.scheme import Scheme

plugin = Uniform(
    "int8_static_entropy",
    "static int8, entropy calibration",
    Scheme(8, activations="static", ranges="entropy"),
    profiles=("full",),
)

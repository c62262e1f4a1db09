"""Static int8 whose activation ranges average the extremes of the calibration items, the next with weight 0.01."""

from quantkit.methods._uniform import Uniform
from quantkit.scheme import Scheme

plugin = Uniform(
    "int8_static_moving_average",
    "static int8, moving average of extremes",
    Scheme(8, activations="static", ranges="moving_average"),
    profiles=("full",),
)

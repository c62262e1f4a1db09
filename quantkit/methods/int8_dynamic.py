"""Dynamic int8: weights per output channel, activation ranges taken anew at every call. Needs no calibration."""

from quantkit.methods._uniform import Uniform
from quantkit.scheme import Scheme

plugin = Uniform("int8_dynamic", "dynamic int8", Scheme(bits=8, activations="dynamic"))

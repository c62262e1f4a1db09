"""Full precision: the reference that every other method is compared with."""

from quantkit.methods._uniform import Uniform
from quantkit.scheme import Scheme

plugin = Uniform("fp32", "full precision", Scheme(bits=32, format="fp32"), baseline=True)

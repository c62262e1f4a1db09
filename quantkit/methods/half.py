"""16-bit weights and activations; a backend whose hardware or runtime prefers float16 takes that and says so."""

from quantkit.methods._uniform import Uniform
from quantkit.scheme import Scheme

plugin = Uniform("half", "16-bit floating point", Scheme(bits=16, format="bf16"))

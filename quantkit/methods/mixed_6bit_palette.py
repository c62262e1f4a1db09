"""Weights in 16, 8, 6 or 4 bits, layer by layer, within the bytes of uniform 6 bits: integers, and palettes of 64.

Uniform 6 bits is one of the plans it chooses from. Only Core ML holds all of these forms.
"""

from quantkit.methods._mixed import MixedByBytes
from quantkit.scheme import PerGroup, PerTensor, Scheme

EIGHT, SIX, FOUR = Scheme(8), Scheme(6, "lut", PerTensor()), Scheme(4, granularity=PerGroup(32))


def recipe():
    """Return the candidates; the palette's own bytes are the budget."""
    from quantkit.procedures.mixed import Budget, Recipe

    return Recipe((Scheme(16, "bf16"), EIGHT, SIX, FOUR), EIGHT, Budget(SIX))


plugin = MixedByBytes("mixed_6bit_palette", "16, 8, 6 and 4 bits in the bytes of 6", EIGHT, recipe, profiles=("full",))

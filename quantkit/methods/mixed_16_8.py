"""Static int8 with the most sensitive layers left in 16 bits, within 9 bits a weight (HAWQ-V3, arXiv:2011.10680)."""

from quantkit.methods._mixed import MixedByBytes
from quantkit.scheme import Scheme

HALF, EIGHT = Scheme(16, "bf16"), Scheme(8, activations="static")


def recipe():
    """Return the candidates; an eighth of the way from 8 to 16 bits."""
    from quantkit.procedures.mixed import Budget, Recipe

    return Recipe((HALF, EIGHT), EIGHT, Budget(EIGHT, HALF, 1 / 8))


plugin = MixedByBytes("mixed_16_8", "static int8, the most sensitive layers in 16 bits", EIGHT, recipe)

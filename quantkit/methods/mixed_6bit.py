"""Weights in 16, 8 or 4 bits, layer by layer, within the bytes of uniform 6 bits (as HAWQ-V3, arXiv:2011.10680).

Integers per channel and per group of 32: the forms that Core ML, MLX, ONNX Runtime and PyTorch all have.
"""

from quantkit.methods._mixed import MixedByBytes
from quantkit.scheme import PerGroup, PerTensor, Scheme

EIGHT, FOUR = Scheme(8), Scheme(4, granularity=PerGroup(32))


def recipe():
    """Return the candidates; a palette of 64 values a tensor is the smallest form of uniform 6 bits."""
    from quantkit.procedures.mixed import Budget, Recipe

    return Recipe((Scheme(16, "bf16"), EIGHT, FOUR), EIGHT, Budget(Scheme(6, "lut", PerTensor())))


plugin = MixedByBytes("mixed_6bit", "16, 8 and 4 bits in the bytes of 6", EIGHT, recipe)

"""Text of Python's documentation as tokens of a byte-level BPE vocabulary: predict the next token.

Evaluation is 512 pieces of documentation files that no part of training has seen; calibration is 256 pieces of the
training part. Made by training/pydoc_gpt.py.
"""

from quantkit.datasets._pydoc import Tokens

plugin = Tokens("pydoc", "held-out Python documentation", fast_items=256)

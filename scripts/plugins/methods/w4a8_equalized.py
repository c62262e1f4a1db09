"""W4A8 foretold: layers equalised, bias correction."""

from methods_rewrites_grid import method

from quantkit.procedures import bias, equalize, graph, layers  # noqa: F401  (their text is part of an artifact's key)

plugin = method("w4a8_equalized", "layers equalised, bias correction", "equalize", "correct")

"""W4A8 foretold: layers equalised."""

from methods_rewrites_grid import method

from quantkit.procedures import bias, equalize, graph, layers  # noqa: F401  (their text is part of an artifact's key)

plugin = method("w4a8_equalized_only", "layers equalised", "equalize")

"""W4A8 foretold: as it is."""

from methods_rewrites_grid import method

from quantkit.procedures import bias, equalize, graph, layers  # noqa: F401  (their text is part of an artifact's key)

plugin = method("w4a8", "as it is")

"""Numbers in, numbers out: fidelity of outputs, outcomes of items, and number grids. NumPy and SciPy only."""

"""From raw values to estimates and verdicts: summaries, intervals, paired quality tests. NumPy and SciPy only."""

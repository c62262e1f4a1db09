"""Procedures that decide the numbers: rewrites that cost nothing in float, sensitivity, assignment, training.

They take and give PyTorch networks and know no file format; `methods/` makes cases of them, `engines/` a Python face.
"""

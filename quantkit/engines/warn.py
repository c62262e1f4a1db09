"""Warnings that point at the caller's own line, and the list of fallbacks that goes into a result."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

PACKAGE = str(Path(__file__).parents[1])


class QuantizationWarning(UserWarning):
    """Something a user should know: a fallback was taken, or accuracy fell below the threshold."""


def warn(message: str) -> str:
    """Warn at the nearest line outside this package; return the message."""
    level, frame = 1, sys._getframe()
    while frame.f_back is not None and frame.f_code.co_filename.startswith(PACKAGE):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, QuantizationWarning, stacklevel=level)
    return message

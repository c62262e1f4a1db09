"""Quantize networks, measure what it costs and what it gains, and say so with evidence.

The names below are the Python face (docs/python.md). They are loaded when they are first used: `import quantkit` alone
imports no toolchain.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from quantkit.controller import QuantizationController
    from quantkit.engines.architecture import analyze
    from quantkit.engines.config import HardwareTarget, QuantizationConfig, QuantizationMethod
    from quantkit.engines.dynamic import DynamicQuantizationEngine
    from quantkit.engines.exporting import load
    from quantkit.engines.hardware import HardwareSpecificOptimizer
    from quantkit.engines.mixed import MixedPrecisionEngine
    from quantkit.engines.ptq import PTQEngine
    from quantkit.engines.qat import QATEngine
    from quantkit.engines.quantized import QuantizedModel
    from quantkit.engines.records import BenchmarkResults, ModelArchitectureInfo, QuantizationMetrics
    from quantkit.engines.suite import QuantizationBenchmarkSuite
    from quantkit.engines.warn import QuantizationWarning
    from quantkit.errors import CalibrationError, HardwareCompatibilityError, QuantizationError, Unsupported
    from quantkit.latency.own import compare_latency

_PLACES = {
    "controller": ("QuantizationController",),
    "engines.architecture": ("analyze",),
    "engines.config": ("HardwareTarget", "QuantizationConfig", "QuantizationMethod"),
    "engines.dynamic": ("DynamicQuantizationEngine",),
    "engines.exporting": ("load",),
    "engines.hardware": ("HardwareSpecificOptimizer",),
    "engines.mixed": ("MixedPrecisionEngine",),
    "engines.ptq": ("PTQEngine",),
    "engines.qat": ("QATEngine",),
    "engines.quantized": ("QuantizedModel",),
    "engines.records": ("BenchmarkResults", "ModelArchitectureInfo", "QuantizationMetrics"),
    "engines.suite": ("QuantizationBenchmarkSuite",),
    "engines.warn": ("QuantizationWarning",),
    "errors": ("CalibrationError", "HardwareCompatibilityError", "QuantizationError", "Unsupported"),
    "latency.own": ("compare_latency",),
}
_HOME = {name: module for module, names in _PLACES.items() for name in names}

__all__ = [
    "BenchmarkResults",
    "CalibrationError",
    "DynamicQuantizationEngine",
    "HardwareCompatibilityError",
    "HardwareSpecificOptimizer",
    "HardwareTarget",
    "MixedPrecisionEngine",
    "ModelArchitectureInfo",
    "PTQEngine",
    "QATEngine",
    "QuantizationBenchmarkSuite",
    "QuantizationConfig",
    "QuantizationController",
    "QuantizationError",
    "QuantizationMethod",
    "QuantizationMetrics",
    "QuantizationWarning",
    "QuantizedModel",
    "Unsupported",
    "analyze",
    "compare_latency",
    "load",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'quantkit' has no attribute {name!r}")
    return getattr(importlib.import_module(f"quantkit.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

"""Which method and target to take: by a rule from the architecture, or, where data is given, by measurement."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from quantkit.engines import config
from quantkit.engines.architecture import analyze, stored_bytes
from quantkit.engines.config import HardwareTarget, QuantizationMethod
from quantkit.engines.records import BenchmarkResults, ModelArchitectureInfo
from quantkit.engines.suite import QuantizationBenchmarkSuite
from quantkit.environment import apple_silicon
from quantkit.errors import InvalidSetting, Unsupported

MEASURED = ("max_latency_s", "min_accuracy_retention")
KNOWN = ("target", "training", "max_size_bytes", *MEASURED, "data")
ON_A_MAC = {"cnn": HardwareTarget.ANE, "transformer": HardwareTarget.MPS_GPU}
TRAINED = QuantizationMethod.QAT


@dataclass(frozen=True)
class Constraints:
    """What a strategy must keep.

    Args:
        target: where it is to run; None takes the CPU, on a Mac the unit that suits the architecture.
        training: whether training is allowed.
        max_size_bytes: of all weights as stored.
        max_latency_s: of one call with one item, median. Needs `data`.
        min_accuracy_retention: share of the original's accuracy. Needs `data`.
        data: a DataLoader to measure with.
    """

    target: HardwareTarget | None = None
    training: bool = True
    max_size_bytes: float = float("inf")
    max_latency_s: float = float("inf")
    min_accuracy_retention: float = 0.0
    data: Any = None

    @classmethod
    def of(cls, raw: Mapping[str, Any]) -> Constraints:
        """Return the constraints of a dictionary.

        Raises:
            InvalidSetting: an unknown key, a value that makes no sense, or one that can only be measured, without data.
        """
        for name in raw:
            config.known("constraint", name, KNOWN)
        found = cls(**raw)
        if found.target is not None:
            config.member("target", found.target, HardwareTarget)
        for name in ("max_size_bytes", "max_latency_s"):
            if not getattr(found, name) > 0:
                raise InvalidSetting(f"{name} must be positive: got {getattr(found, name)!r}")
        asked = [name for name in MEASURED if name in raw]
        if asked and found.data is None:
            raise InvalidSetting(f"{asked[0]} can only be measured: give 'data' too, a DataLoader")
        return found


def recommend(
    model: nn.Module, raw: Mapping[str, Any], suite: Callable[[], QuantizationBenchmarkSuite]
) -> tuple[QuantizationMethod, HardwareTarget]:
    """Return the strategy to take.

    Without data: the first of the architecture's methods that some backend can build, that needs no more bytes than
    allowed and, where training is not, no training. With data: all of those are measured, and of those that keep the
    constraints the fastest is taken, where none was timed the one that keeps most accuracy.

    Raises:
        InvalidSetting: constraints that make no sense; Unsupported: no method keeps them, with what each reached.
    """
    wanted = Constraints.of(raw)
    found = analyze(model)
    target = wanted.target or (ON_A_MAC.get(found.architecture_type) if apple_silicon() else None) or HardwareTarget.CPU
    methods = [QuantizationMethod(name) for name in found.recommended_methods]
    methods = [method for method in methods if wanted.training or method is not TRAINED]
    if wanted.data is None:
        return _by_rule(model, methods, found, wanted), target
    results = suite().benchmark(model, wanted.data, methods, target)
    return _measured(results, wanted)


def _by_rule(
    model: nn.Module, methods: list[QuantizationMethod], found: ModelArchitectureInfo, wanted: Constraints
) -> QuantizationMethod:
    sizes = {method: stored_bytes(model, method) for method in methods}
    for method, size in sizes.items():
        if size <= wanted.max_size_bytes:
            return method
    reached = ", ".join(f"{method.value} about {size} bytes" for method, size in sizes.items())
    why = "; ".join(f"{name}: {reason}" for name, reason in found.reasons.items())
    raise Unsupported(f"no method keeps max_size_bytes={wanted.max_size_bytes:g}: {reached or why}")


def _measured(results: list[BenchmarkResults], wanted: Constraints) -> tuple[QuantizationMethod, HardwareTarget]:
    """Return the best of what keeps the constraints; a latency that was not measured keeps no limit."""
    kept = [
        r for r in results
        if r.accuracy_retention >= wanted.min_accuracy_retention
        and r.quantized_metrics.model_size <= wanted.max_size_bytes
        and (wanted.max_latency_s == float("inf") or r.quantized_metrics.inference_time <= wanted.max_latency_s)
    ]  # fmt: skip
    if not kept:
        raise Unsupported(f"no method keeps the constraints: {'; '.join(map(_reached, results))}")
    timed = [r for r in kept if r.quantized_metrics.inference_time == r.quantized_metrics.inference_time]
    if timed:
        best = min(timed, key=lambda r: r.quantized_metrics.inference_time)
    else:
        best = max(kept, key=lambda r: r.accuracy_retention)
    return QuantizationMethod(best.method), HardwareTarget(best.hardware_target)


def _reached(result: BenchmarkResults) -> str:
    after = result.quantized_metrics
    if "build" in result.reasons:
        return f"{result.method}: {result.reasons['build']}"
    return (
        f"{result.method}: {result.accuracy_retention:.1%} of the accuracy, {after.model_size:.0f} bytes, "
        f"{after.inference_time:.3g} s"
    )

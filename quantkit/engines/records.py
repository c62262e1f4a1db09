"""What the façade gives back: metrics of one model, a comparison of two, facts of an architecture."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class QuantizationMetrics:
    """Figures of one artifact on one target; `nan` where a number cannot be had (`BenchmarkResults.reasons` says why).

    Args:
        accuracy: mean outcome over the items that were kept apart (see `BenchmarkResults.accuracy_metric`).
        inference_time: median seconds of one call with one item.
        memory_usage: bytes that loading and running it added to a process that had imported the runtime.
        model_size: bytes of all weights as stored, scales and zero points included.
        compression_ratio: `model_size` over the bytes of the given network's weights and buffers.
        hardware_utilization: where the runtime tells it, the share of operations on each device.
    """

    accuracy: float
    inference_time: float
    memory_usage: float
    model_size: float
    compression_ratio: float
    hardware_utilization: Mapping[str, float]


@dataclass(frozen=True)
class BenchmarkResults:
    """One method beside full precision, same items, same rounds, same backend and target.

    Args:
        accuracy_retention: share of the original's accuracy that is left (1 = all).
        speedup_factor: median latency of full precision over this one's (2 = twice as fast).
        memory_reduction: share of `memory_usage` that was saved; negative where it grew.
        accuracy_metric: `top1_accuracy` or `mean_squared_error` where the loader has targets; else agreement with the
            original: `top1_agreement`, or `cosine` where outputs are no class scores.
        verdict: of the paired test of accuracy: `pass`, `regression`, `inconclusive` or `unavailable`.
        speed: `faster`, `slower`, `inconclusive` or `unavailable`, from the interval of the speed-up.
        speedup_interval: where a repeat of the run is expected (95 %); None where nothing was timed.
        reasons: figure -> why it cannot be had.
        backend: who built and ran it.
    """

    method: str
    hardware_target: str
    original_metrics: QuantizationMetrics
    quantized_metrics: QuantizationMetrics
    accuracy_retention: float
    speedup_factor: float
    memory_reduction: float
    accuracy_metric: str = ""
    verdict: str = "unavailable"
    speed: str = "unavailable"
    speedup_interval: tuple[float, float] | None = None
    sqnr_db: float = float("nan")
    backend: str = ""
    reasons: Mapping[str, str] = field(default_factory=dict)
    fallbacks: tuple[str, ...] = ()


@dataclass(frozen=True)
class ModelArchitectureInfo:
    """What a network is and what can be done with it on this machine.

    Args:
        parameters: number of them.
        architecture_type: `transformer`, `cnn`, `rnn` or `mixed`: what most weights belong to.
        quantization_compatibility: method -> whether some installed backend can build it for the CPU.
        recommended_methods: methods that are compatible, the one to try first in front.
        reasons: method -> why it is not compatible.
    """

    name: str
    parameters: int
    architecture_type: str
    quantization_compatibility: Mapping[str, bool]
    recommended_methods: list[str]
    reasons: Mapping[str, str] = field(default_factory=dict)

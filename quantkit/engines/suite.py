"""Benchmarks methods side by side: every artifact built, judged on the same items, timed in the same rounds."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from quantkit.conclude.compare import Comparison, comparisons
from quantkit.engines import config
from quantkit.engines.config import HardwareTarget, QuantizationMethod
from quantkit.engines.dynamic import DynamicQuantizationEngine
from quantkit.engines.engine import Engine
from quantkit.engines.job import Job
from quantkit.engines.judge import NAN, accuracy_of, value
from quantkit.engines.mixed import MixedPrecisionEngine
from quantkit.engines.ptq import PTQEngine
from quantkit.engines.qat import QATEngine
from quantkit.engines.records import BenchmarkResults, QuantizationMetrics
from quantkit.errors import InvalidSetting, MissingExtra, QuantizationError, Unsupported
from quantkit.pipeline import cache
from quantkit.pipeline.settings import Settings
from quantkit.records import Case, Result
from quantkit.stats import pareto

ORDER = {"cpu": ("pytorch", "onnx"), "mps": ("coreml",), "ane": ("coreml",)}  # frameworks, the first that can
FIGURES = (("latency", "inference_time"), ("model_memory", "memory_usage"), ("sqnr_db", "sqnr_db"))


def engines_of(settings: Settings | None = None, **options: Any) -> dict[QuantizationMethod, Engine]:
    """Return an engine for every method, all with the same options."""
    options |= {"settings": settings}
    return {
        QuantizationMethod.PTQ_8BIT: PTQEngine(bits=8, **options),
        QuantizationMethod.PTQ_4BIT: PTQEngine(bits=4, **options),
        QuantizationMethod.QAT: QATEngine(**options),
        QuantizationMethod.MIXED_PRECISION: MixedPrecisionEngine(**options),
        QuantizationMethod.DYNAMIC: DynamicQuantizationEngine(**options),
    }


class QuantizationBenchmarkSuite:
    """Compares methods on one model.

    Args:
        engines: method -> engine; None takes each with its defaults.
        settings: of the pipeline: rounds, threads, limits.
    """

    def __init__(self, engines: Mapping[QuantizationMethod, Engine] | None = None, settings: Settings | None = None):
        self.settings = settings or Settings()
        self.engines = dict(engines) if engines is not None else engines_of(self.settings)

    def benchmark(
        self,
        model: nn.Module,
        test_data: Any,
        methods: Sequence[QuantizationMethod] = tuple(QuantizationMethod),
        target: HardwareTarget = HardwareTarget.CPU,
    ) -> list[BenchmarkResults]:
        """Return one record for each method and target, in their order.

        A method that cannot be built stays in the list, with `nan` for its figures and the reason.

        Args:
            test_data: a DataLoader; a fifth of it, at most 256 items, judges, the rest calibrates and trains.

        Raises:
            InvalidSetting: no methods, or something else than methods.
            CalibrationError, QuantizationError: as `PTQEngine.quantize_model`.
        """
        if isinstance(methods, QuantizationMethod) or not methods:
            raise InvalidSetting(f"methods is a list of at least one QuantizationMethod: got {methods!r}")
        for method in methods:
            config.member("method", method, QuantizationMethod)
        config.member("target", target, HardwareTarget)
        with Job(model, test_data, self.settings) as job:
            return [record for name in names_of(target) for record in self.records(job, methods, name)]

    def records(self, job: Job, methods: Sequence[QuantizationMethod], target: str) -> list[BenchmarkResults]:
        """Return the records of an open job's methods on one target."""
        waiting, done = list(dict.fromkeys(methods)), {}
        reasons: dict[QuantizationMethod, tuple[str, ...]] = dict.fromkeys(waiting, ())
        for framework in ORDER[target]:
            cases, refused = self._cases(job, waiting, framework, target)
            found = job.benchmark(list(dict.fromkeys(cases.values()))) if cases else {}
            compared = {pair.result.case: pair for pair in comparisons(found.values())}
            for method in waiting:
                case = cases.get(method)
                if case is not None and found[case].measured and case in compared:
                    done[method] = record_of(job, method.value, compared[case], reasons[method])
                else:
                    why = refused.get(method) or (found[case].reason if case else "")
                    reasons[method] = (*reasons[method], f"{framework}: {why}")
            waiting = [method for method in waiting if method not in done]
        return [done.get(m) or failed(job, m.value, target, reasons[m]) for m in dict.fromkeys(methods)]

    def _cases(
        self, job: Job, methods: Sequence[QuantizationMethod], framework: str, target: str
    ) -> tuple[dict[QuantizationMethod, Case], dict[QuantizationMethod, str]]:
        """Return the case of each method that a framework can build, and why it cannot build the others."""
        cases: dict[QuantizationMethod, Case] = {}
        refused: dict[QuantizationMethod, str] = {}
        for method in methods:
            try:
                name, _ = self.engines[method].method(job, framework, target)
                case = Case(job.model, name, config.FORMATS[framework], target)
                job.refuse(case)
                cases[method] = case
            except (Unsupported, MissingExtra) as error:
                refused[method] = str(error)
        return cases, refused

    def front(self, results: Sequence[BenchmarkResults]) -> list[BenchmarkResults]:
        """Return the results that no other beats in retention, time and size at once, of those that were timed."""
        timed = [r for r in results if r.quantized_metrics.inference_time == r.quantized_metrics.inference_time]
        points = [
            (r.accuracy_retention, r.quantized_metrics.inference_time, r.quantized_metrics.model_size) for r in timed
        ]
        mask = pareto.front(points, ("higher", "lower", "lower"))
        return [result for result, on_it in zip(timed, mask, strict=True) if on_it]


def names_of(target: HardwareTarget) -> list[str]:
    """Return the names of the pipeline's targets that are meant."""
    every = [one.value for one in HardwareTarget if one is not HardwareTarget.ALL]
    return every if target is HardwareTarget.ALL else [target.value]


def record_of(job: Job, method: str, pair: Comparison, fallbacks: tuple[str, ...]) -> BenchmarkResults:
    """Return the record of a method that was measured beside its baseline."""
    result, baseline = pair.result, pair.baseline
    if baseline is None:
        raise QuantizationError(f"{result.case.backend} cannot build the network in full precision: {pair.reason}")
    accuracy = accuracy_of(result, baseline.outcomes or None)
    before, after = metrics_of(job, baseline), metrics_of(job, result)
    after = replace(after, accuracy=accuracy.quantized)
    interval = (pair.speedup.low, pair.speedup.high) if pair.speedup else None
    return BenchmarkResults(
        method=method,
        hardware_target=result.case.target,
        original_metrics=replace(before, accuracy=accuracy.original),
        quantized_metrics=after,
        accuracy_retention=accuracy.retention,
        speedup_factor=pair.speedup.value if pair.speedup else NAN,
        memory_reduction=1 - after.memory_usage / before.memory_usage if before.memory_usage > 0 else NAN,
        accuracy_metric=accuracy.metric,
        verdict=pair.verdict,
        speed=pair.speed,
        speedup_interval=interval,
        sqnr_db=value(result, "sqnr_db"),
        backend=result.case.backend,
        reasons=unavailable(result),
        fallbacks=(*job.fallbacks, *fallbacks),
    )


def unavailable(result: Result) -> dict[str, str]:
    """Return figure -> why it cannot be had, under the names that the façade gives them."""
    found = {ours: result.measurements[theirs].reason for theirs, ours in FIGURES if theirs in result.measurements}
    return {name: f"unavailable: {reason}" for name, reason in found.items() if reason}


def metrics_of(job: Job, result: Result) -> QuantizationMetrics:
    """Return the figures of one artifact; its accuracy is filled in by who compares."""
    entry = cache.read(job.run.cache / "artifacts" / result.context["artifact"][:32])
    size = entry.facts["report"]["weight_bytes"]
    latencies, memory = (result.measurements[name].values for name in ("latency", "model_memory"))
    operations = sum(result.context["residency"].values())
    return QuantizationMetrics(
        accuracy=NAN,
        inference_time=statistics.median(latencies) if latencies else NAN,
        memory_usage=statistics.median(memory) if memory else NAN,
        model_size=float(size),
        compression_ratio=size / job.original_bytes,
        hardware_utilization={device: n / operations for device, n in result.context["residency"].items()},
    )


def failed(job: Job, method: str, target: str, reasons: tuple[str, ...]) -> BenchmarkResults:
    """Return the record of a method that no framework could build."""
    none = QuantizationMetrics(NAN, NAN, NAN, NAN, NAN, {})
    return BenchmarkResults(
        method, target, none, none, NAN, NAN, NAN,
        reasons={"build": "; ".join(reasons)}, fallbacks=tuple(job.fallbacks),
    )  # fmt: skip

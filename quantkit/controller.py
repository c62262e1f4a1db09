"""One controller over all engines: quantize for a target, compare methods, recommend one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from quantkit.engines import exporting
from quantkit.engines.config import HardwareTarget, QuantizationConfig, QuantizationMethod
from quantkit.engines.engine import Engine, opened
from quantkit.engines.hardware import HardwareSpecificOptimizer
from quantkit.engines.job import Job, Made
from quantkit.engines.recommend import recommend
from quantkit.engines.records import BenchmarkResults
from quantkit.engines.suite import ORDER, QuantizationBenchmarkSuite, engines_of, names_of
from quantkit.engines.warn import warn
from quantkit.errors import HardwareCompatibilityError, InvalidSetting, MissingExtra, Unsupported
from quantkit.pipeline.settings import Settings

Quantized = tuple[Made, dict[str, Any]]


class QuantizationController:
    """Does what a configuration says.

    Args:
        config: method, target, threshold and formats.
        settings: of the pipeline (threads, rounds of timing, limits); None takes the profile `fast`.
        engines: engines to use instead of the defaults, e.g. a QATEngine with a loss of its own.

    Raises:
        InvalidSetting: `config` is no QuantizationConfig.
    """

    def __init__(
        self,
        config: QuantizationConfig,
        *,
        settings: Settings | None = None,
        engines: Mapping[QuantizationMethod, Engine] | None = None,
    ):
        if not isinstance(config, QuantizationConfig):
            raise InvalidSetting(f"config must be a QuantizationConfig: got {type(config).__name__}")
        self.config, self.settings = config, settings or Settings()
        made = engines_of(
            self.settings,
            calibration_dataset_size=config.calibration_dataset_size,
            accuracy_threshold=config.accuracy_threshold,
            strict=config.strict,
        )
        self.quantization_engines: dict[QuantizationMethod, Engine] = made | dict(engines or {})
        self.hardware_optimizer = HardwareSpecificOptimizer(self.settings)
        self.benchmarker = QuantizationBenchmarkSuite(self.quantization_engines, self.settings)

    def quantize_model(self, model: nn.Module, calibration_data: Any, output_path: Path | str) -> dict[str, Any]:
        """Quantize by the configured method, write the artifacts below `output_path`, and tell all about them.

        Args:
            model: not changed.
            calibration_data: a DataLoader; see `PTQEngine.quantize_model`.
            output_path: a folder; each artifact gets a folder `METHOD-TARGET` or `METHOD-FORMAT` in it, with
                manifest and golden data (docs/export.md). An older one of that name is replaced.

        Returns:
            `model` (the quantized module on the first target), `stats` (its figures, as engines give them), `targets`
            (target -> figures), `artifacts` (target or format -> folder), `benchmarks` (target -> BenchmarkResults,
            where `benchmark_baseline`), `fallbacks`, `warnings`, and the most wanted figures once more:
            `quantization_method`, `compression_ratio`, `size_reduction`, `accuracy`, `accuracy_retention`.

        Raises:
            CalibrationError, Unsupported, MissingExtra, QuantizationError: as the engines do, when no fallback is left.
        """
        place, wanted = Path(output_path).expanduser().absolute(), self.config
        with Job(model, calibration_data, self._engine.settings) as job:
            done = {target: self._for_target(job, target) for target in names_of(wanted.hardware_target)}
            artifacts = {
                target: exporting.write(job, made, place / f"{wanted.method.value}-{target}", wanted.method.value)
                for target, (made, _) in done.items()
            } | self._exports(job, place)
            benchmarks = self._benchmarks(job, list(done)) if wanted.benchmark_baseline else {}
            made, stats = next(iter(done.values()))
            told = {"fallbacks": list(job.fallbacks), "warnings": [w for _, s in done.values() for w in s["warnings"]]}
            found = {
                "model": opened(job, made),
                "method": wanted.method.value,
                "hardware_target": wanted.hardware_target.value,
                "output_path": str(place),
                "artifacts": {name: str(path) for name, path in artifacts.items()},
                "stats": stats | told,
                "targets": {target: figures for target, (_, figures) in done.items()},
                "benchmarks": benchmarks,
            }
        first = ("quantization_method", "compression_ratio", "size_reduction", "accuracy", "accuracy_retention")
        return found | told | {name: stats[name] for name in first}

    @property
    def _engine(self) -> Engine:
        return self.quantization_engines[self.config.method]

    def _for_target(self, job: Job, target: str) -> Quantized:
        """Return the artifact of a target, or a generic one for the CPU where its toolchain refuses the network."""
        if target == "cpu":
            return self._generic(job)
        try:
            return self._on_unit(job, target)
        except HardwareCompatibilityError as error:
            job.fall_back(f"hardware: {error}; instead: generic quantization for the CPU")
            return self._generic(job)

    def _on_unit(self, job: Job, target: str) -> Quantized:
        """Return a Core ML artifact.

        Raises:
            HardwareCompatibilityError: Core ML or coremltools refuse it.
        """
        try:
            return self._engine.quantize(job, "coreml", target)
        except Unsupported as error:
            raise HardwareCompatibilityError(f"{target}: {error}") from error

    def _generic(self, job: Job) -> Quantized:
        """Return the artifact of the first toolchain for the CPU that takes the network.

        Raises:
            Unsupported: none does; the message has all reasons.
        """
        reasons: list[str] = []
        for framework in ORDER["cpu"]:
            try:
                done = self._engine.quantize(job, framework)
            except (Unsupported, MissingExtra) as error:
                reasons.append(f"{framework}: {error}")
                continue
            if reasons:
                job.fall_back(f"toolchain: {'; '.join(reasons)}; instead: {framework}")
            return done
        raise Unsupported(f"no toolchain can quantize this network by {self.config.method.value}: {'; '.join(reasons)}")

    def _exports(self, job: Job, place: Path) -> dict[str, Path]:
        """Return format -> folder of the formats that were asked for; one that cannot be had is warned of."""
        written: dict[str, Path] = {}
        method = self.config.method.value
        for name in dict.fromkeys(self.config.export_formats or ()):
            try:
                made, _ = self._engine.quantize(job, name, "cpu")
                written[name] = exporting.write(job, made, place / f"{method}-{name}", method)
            except (Unsupported, MissingExtra) as error:
                job.fallbacks.append(warn(f"export to {name} is left out: {error}"))
        return written

    def _benchmarks(self, job: Job, targets: Sequence[str]) -> dict[str, BenchmarkResults]:
        return {target: self.benchmarker.records(job, [self.config.method], target)[0] for target in targets}

    def benchmark_quantization_methods(
        self, model: nn.Module, test_data: Any, methods: Sequence[QuantizationMethod]
    ) -> dict[str, dict[str, float]]:
        """Return method -> figures, each method beside full precision on the same items, in the same rounds.

        Figures are those of `BenchmarkResults`; `nan` where a number cannot be had (`benchmarker.benchmark` has the
        reasons and the verdicts). With the target ALL, keys are `METHOD on TARGET`.

        Raises:
            InvalidSetting: `methods` is no list of methods; CalibrationError, QuantizationError: as the engines.
        """
        results = self.benchmarker.benchmark(model, test_data, methods, self.config.hardware_target)
        several = self.config.hardware_target is HardwareTarget.ALL
        return {f"{r.method} on {r.hardware_target}" if several else r.method: _floats(r) for r in results}

    def recommend_quantization_strategy(
        self, model: nn.Module, constraints: Mapping[str, Any]
    ) -> tuple[QuantizationMethod, HardwareTarget]:
        """Return the method and target to take; see `quantkit.engines.recommend`.

        Args:
            constraints: any of `target`, `training` (False forbids it), `max_size_bytes`, and with `data` (a
                DataLoader, which makes it measure) `max_latency_s` and `min_accuracy_retention`.

        Raises:
            InvalidSetting: an unknown constraint, or one that needs data; Unsupported: no method keeps them.
        """
        return recommend(model, constraints, lambda: self.benchmarker)


def _floats(result: BenchmarkResults) -> dict[str, float]:
    before, after = result.original_metrics, result.quantized_metrics
    return {
        "accuracy": after.accuracy,
        "original_accuracy": before.accuracy,
        "accuracy_retention": result.accuracy_retention,
        "sqnr_db": result.sqnr_db,
        "inference_time": after.inference_time,
        "original_inference_time": before.inference_time,
        "speedup_factor": result.speedup_factor,
        "memory_usage": after.memory_usage,
        "memory_reduction": result.memory_reduction,
        "model_size": after.model_size,
        "compression_ratio": after.compression_ratio,
    }

"""Makes a model fit a target: compiled for this processor, or converted for the units of Apple silicon.

Off a Mac, Core ML artifacts are built and their answers checked by the reference executor; their speed is
"unavailable: needs macOS", never guessed.
"""

from __future__ import annotations

import platform
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

from quantkit.catalog import TARGETS
from quantkit.contracts import Arrays
from quantkit.engines import config, judge
from quantkit.engines.config import HardwareTarget
from quantkit.engines.engine import opened
from quantkit.engines.job import Job, Made
from quantkit.engines.quantized import QuantizedModel
from quantkit.environment import apple_silicon, memory_bytes
from quantkit.errors import CalibrationError, HardwareCompatibilityError, InvalidSetting, Unsupported
from quantkit.pipeline.settings import Settings

MADE_UP = 8  # items where no data is given
Done = tuple[nn.Module, dict[str, Any]]


class HardwareSpecificOptimizer:
    """Optimizes any network for a target without quantizing it, and moves quantized ones from target to target.

    Args:
        settings: of the pipeline: threads (of the compiled code), limits.
    """

    def __init__(self, settings: Settings | None = None):
        self.settings = settings or Settings()
        self.hardware_info = self._detect_hardware()
        self.optimization_strategies: dict[HardwareTarget, Callable[[nn.Module, Any], Done]] = {
            HardwareTarget.CPU: self._cpu_optimization,
            HardwareTarget.MPS_GPU: self._mps_optimization,
            HardwareTarget.ANE: self._ane_optimization,
            HardwareTarget.ALL: self._unified_optimization,
        }

    def _detect_hardware(self) -> dict[str, Any]:
        """Return what this machine has; every chip of Apple silicon has a Neural Engine."""
        return {
            "platform": platform.machine(),
            "is_apple_silicon": apple_silicon(),
            "mps_available": torch.backends.mps.is_available(),
            "ane_available": apple_silicon(),
            "memory_gb": memory_bytes() / 2**30,
        }

    def optimize_for_hardware(self, quantized_model: nn.Module, target: HardwareTarget, *, data: Any = None) -> Done:
        """Return the model as it runs on a target, and what was done; the given model is not changed.

        Args:
            quantized_model: what an engine gave (its artifact is opened on the target), or a network in full precision
                (which is compiled for it).
            data: a DataLoader, or one batch of inputs. None makes inputs up, which needs a first layer that says what
                it takes (Linear); values then are normal, and only shapes matter.

        Raises:
            InvalidSetting: no such target, or inputs that cannot be made up.
            HardwareCompatibilityError: the target's toolchain refuses the network, with its reason.
            MissingExtra: the toolchain is not installed.
        """
        config.member("target", target, HardwareTarget)
        if isinstance(quantized_model, QuantizedModel):
            return self._moved(quantized_model, target)
        return self.optimization_strategies[target](quantized_model, loader_of(quantized_model, data))

    def _cpu_optimization(self, model: nn.Module, data: Any) -> Done:
        """Compile it ahead of time for this processor's vector instructions, constants folded, layers fused."""
        done, stats = self._built(model, data, "pytorch", "cpu")
        return done, {
            "cpu_optimized": True,
            "mkldnn_enabled": torch.backends.mkldnn.is_available(),
            "vectorization": torch.backends.cpu.get_cpu_capability(),
        } | stats

    def _mps_optimization(self, model: nn.Module, data: Any) -> Done:
        """Convert it to Core ML for the GPU."""
        done, stats = self._built(model, data, "coreml", "mps")
        return done, {
            "mps_optimized": True,
            "unified_memory": self.hardware_info["is_apple_silicon"],
            "gpu_acceleration": self.hardware_info["mps_available"],
        } | stats

    def _ane_optimization(self, model: nn.Module, data: Any) -> Done:
        """Convert it to Core ML in float16, the Neural Engine's own format."""
        done, stats = self._built(model, data, "coreml", "ane")
        return done, {
            "ane_compatible": True,
            "coreml_conversion_required": True,
            "neural_engine_optimized": self.hardware_info["ane_available"],
        } | stats

    def _unified_optimization(self, model: nn.Module, data: Any) -> Done:
        """Do it for all; the returned module is the one for the CPU, the others' artifacts are named in the figures."""
        done, stats = self._cpu_optimization(model, data)
        combined = {f"cpu_{name}": figure for name, figure in stats.items()}
        for prefix, optimize in (("mps", self._mps_optimization), ("ane", self._ane_optimization)):
            try:
                other, stats = optimize(model, data)
                other.close()
            except HardwareCompatibilityError as error:
                stats = {"unavailable": str(error)}
            combined |= {f"{prefix}_{name}": figure for name, figure in stats.items()}
        return done, combined

    def _built(self, model: nn.Module, data: Any, framework: str, target: str) -> tuple[QuantizedModel, dict[str, Any]]:
        """Return the artifact of a target as a module, and its figures."""
        method = "half" if target == "ane" else "fp32"
        with Job(model, data, self.settings) as job:
            try:
                made = job.quantize(method, config.FORMATS[framework], target)
            except Unsupported as error:
                raise HardwareCompatibilityError(f"{target}: {error}") from error
            return opened(job, made), figures(job, made)

    def _moved(self, model: QuantizedModel, target: HardwareTarget) -> Done:
        """Return a quantized model for a target of its own backend."""
        target = HardwareTarget.CPU if target is HardwareTarget.ALL else target
        moved = model.on(target.value)
        key = {HardwareTarget.CPU: "cpu_optimized", HardwareTarget.MPS_GPU: "mps_optimized"}.get(target)
        return moved, {key or "neural_engine_optimized": True, "artifact": str(model.artifact)}


def figures(job: Job, made: Made) -> dict[str, Any]:
    """Return what is to be known of a target's artifact; a speed that cannot be had says why."""
    untimed = TARGETS.get(made.case.target).untimed()
    return {
        "artifact": str(made.folder),
        "executor": made.result.context["executor"],
        "sqnr_db": judge.value(made.result, "sqnr_db"),
        "notes": [*job.notes, *made.report.notes],
    } | ({"speed": f"unavailable: {untimed}"} if untimed else {})


def loader_of(model: nn.Module, data: Any) -> Any:
    """Return the data as batches; made-up ones where there is none.

    Raises:
        InvalidSetting: nothing says what the network takes.
        CalibrationError: one batch of inputs without items.
    """
    if isinstance(data, torch.Tensor | np.ndarray):
        if not data.ndim or not len(data):
            raise CalibrationError(f"data must hold at least one item: got shape {list(data.shape)}")
        return [torch.as_tensor(data)]
    if data is not None:
        return data
    return [torch.from_numpy(x) for x in made_up(model)]


def made_up(model: nn.Module) -> Arrays:
    """Return inputs for a network whose first layer with weights is a Linear, [8, inputs]: the same at every call."""
    first = next((m for m in model.modules() if any(p.ndim > 1 for p in m.parameters(recurse=False))), None)
    if not isinstance(first, nn.Linear):
        kind = type(first).__name__ if first is not None else "no layer with weights"
        raise InvalidSetting(
            f"shapes are part of a compiled model, and {kind} does not say them: give data, a batch of inputs or a "
            "DataLoader"
        )
    return (np.random.default_rng(0).standard_normal((MADE_UP, first.in_features)).astype(np.float32),)

"""What all engines share: their arguments, and the way from a network and a loader to a module and its figures."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import nn

from quantkit.engines import config, judge
from quantkit.engines.blaming import hold
from quantkit.engines.job import Job, Made
from quantkit.engines.quantized import QuantizedModel
from quantkit.pipeline.settings import Settings


class Engine:
    """One of the five procedures. Given models are never changed.

    Args:
        calibration_dataset_size: at most this many items of the loader are used.
        accuracy_threshold: share of the original's accuracy below which a warning names the layers to blame.
        strict: refuse such a result with a QuantizationError.
        settings: of the pipeline: threads, and limits of time and memory.

    Raises:
        InvalidSetting: a value of the wrong kind or out of range.
    """

    name = ""  # ends the `quantization_method` of its results

    def __init__(
        self,
        *,
        calibration_dataset_size: int = 1000,
        accuracy_threshold: float = 0.95,
        strict: bool = False,
        settings: Settings | None = None,
    ):
        config.share("accuracy_threshold", accuracy_threshold)
        config.whole("calibration_dataset_size", calibration_dataset_size)
        self.accuracy_threshold, self.strict = accuracy_threshold, strict
        self.settings = replace(settings or Settings(), calibration=calibration_dataset_size)

    def quantize_model(
        self, model: nn.Module, calibration_data: Any, framework: str = "pytorch"
    ) -> tuple[QuantizedModel, dict[str, Any]]:
        """Return the quantized model and what is to be known of it; the given model is not changed.

        Args:
            model: any network that returns one tensor, or transformers' records of them.
            calibration_data: a DataLoader whose batches are tensors, (inputs, targets) or dictionaries. A fifth of it,
                at most 256 items, is kept apart to judge the result on.
            framework: `pytorch` (torchao and AOTInductor), `onnx` (ONNX Runtime) or `huggingface` (bitsandbytes).

        Raises:
            InvalidSetting: unknown framework; CalibrationError: no usable items.
            Unsupported: the toolchain cannot take this network; MissingExtra: it is not installed.
            QuantizationError: below the threshold, and `strict`; or the model cannot be copied or called.
        """
        config.known("framework", framework, config.FRAMEWORKS)
        with Job(model, calibration_data, self.settings) as job:
            made, stats = self.quantize(job, framework)
            return opened(job, made), stats

    def quantize(self, job: Job, framework: str, target: str = "cpu") -> tuple[Made, dict[str, Any]]:
        """Do the same for an open job, for any target; `coreml` is a framework here too.

        Raises:
            QuantizationError: as `quantize_model`.
        """
        method, facts = self.method(job, framework, target)
        made = job.quantize(method, config.FORMATS[framework], target)
        stats = judge.stats_of(job, made, f"{framework}_{self.name}") | facts
        hold(job, made, stats, self.accuracy_threshold, strict=self.strict)
        return made, stats

    def method(self, job: Job, framework: str, target: str = "cpu") -> tuple[str, dict[str, Any]]:
        """Return the name of the pipeline's method that does it, and what is to be told besides."""
        raise NotImplementedError


def opened(job: Job, made: Made) -> QuantizedModel:
    """Return an artifact as a module with the inputs of the network that it was made from."""
    case, threads = made.case, job.settings.threads
    return QuantizedModel(
        made.folder, case.backend, case.target, example=job.example, names=job.items.names, threads=threads
    )

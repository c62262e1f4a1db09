"""Quantization-aware training: the network learns to answer like itself while its weights are rounded."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quantkit.catalog import BACKENDS, METHODS
from quantkit.contracts import Plan
from quantkit.engines import config
from quantkit.engines.engine import Engine
from quantkit.engines.job import Job
from quantkit.engines.ptq import checked_bits, method_of
from quantkit.errors import CalibrationError
from quantkit.records import Case

if TYPE_CHECKING:
    import torch

    from quantkit.procedures.qat_settings import Training

LOG = logging.getLogger("quantkit")


class QATEngine(Engine):
    """Trains a copy with simulated quantization, then quantizes it like `PTQEngine`.

    The given network is the teacher, so no labels are needed; the loader's items are what is learned from (as many as
    `calibration_dataset_size`), without those that the result is judged on.

    Args:
        bits: 8 or 4.
        training: the knobs (`quantkit.procedures.qat_settings.Training`); None takes the defaults.
        loss: of the task, from outputs [n, ...] and targets [n, ...]; None learns from the teacher alone.
        folder: where a checkpoint is kept after every epoch; a training that was cut goes on from it.
        options: those of every engine, see `Engine`.
    """

    def __init__(
        self,
        bits: int = 8,
        *,
        training: Training | None = None,
        loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None = None,
        folder: Path | None = None,
        **options: Any,
    ):
        super().__init__(**options)
        self.bits, self.training, self.loss, self.folder = checked_bits("QATEngine", bits), training, loss, folder
        self.name = f"qat_{bits}bit"

    def method(self, job: Job, framework: str, target: str = "cpu") -> tuple[str, dict[str, Any]]:
        """Train for the scheme that the framework has for this width; return the method of the result.

        Raises:
            Unsupported: a layer or scheme that cannot be trained.
            CalibrationError: fewer than four items, or a task's loss and no targets in the loader.
        """
        from quantkit.procedures import qat

        untrained = method_of(framework, self.bits, target)
        job.refuse(Case(job.model, untrained, config.FORMATS[framework], target))  # before it is trained for nothing
        plan = Plan(METHODS.get(untrained).scheme)
        if self.loss is not None and not job.items.labelled:
            raise CalibrationError("a task's loss needs targets: the loader's batches have none")
        training = self._training(config.FORMATS[framework])
        if (known := (untrained, training.grid)) in job.trained:
            return job.trained[known]
        trained = qat.train(
            job.network, plan, job.items.calibration, training,
            loss=self.loss, logits=job.info.logits, folder=self.folder, say=LOG.info,
        )  # fmt: skip
        facts: dict[str, Any] = {
            "training": [asdict(epoch) for epoch in trained.history],
            "best_epoch": trained.best,
            "training_report": asdict(trained.report),
        }
        if not trained.best:
            facts["training_note"] = "no epoch was better than no training: these are the weights as they were"
        job.trained[known] = job.planned(f"QAT to {self.bits} bits", plan, trained.network), facts
        return job.trained[known]

    def _training(self, backend: str) -> Training:
        """Return the knobs, for the grid on which the backend stores integers unless another one was asked for."""
        from quantkit.procedures.qat_settings import Training

        training = self.training or Training()
        if training.grid != "scheme":
            return training
        return training.on(getattr(BACKENDS.get(backend), "integer_grid", "scheme"))

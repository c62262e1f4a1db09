"""A scheme for every layer, after the network was trained with that rounding in its forward pass."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from quantkit.contracts import Arrays, Backend, Model, ModelInfo, Plan, Prepared, Split
from quantkit.errors import CalibrationError
from quantkit.files import cache_folder
from quantkit.methods._uniform import Uniform

if TYPE_CHECKING:
    from quantkit.procedures import qat
    from quantkit.procedures.qat_settings import Grid

LEAST_STEPS = 32  # an epoch; few items are taken in small batches
RATES = {"cnn": 1e-3, "transformer": 2e-4, "mixed": 2e-4}  # batch norms bear larger steps than layer norms


@dataclass(frozen=True)
class Trained(Uniform):
    """A method of one scheme with quantization-aware training before it (satisfies `contracts.Method`).

    Args:
        calibration_items: items that training asks for; ranges are still taken from as many as other methods get.
        epochs: most passes over them.
        rate: peak of the learning rate.
        gentleness: the rate is divided by it: the less rounding loses, the less there is to learn.
        freeze_norms_after: epochs after which batch norms keep their statistics.
        distill: share of the loss that is distance from the full-precision network; the model's own loss has the rest.
        loss: of the task; None distils only.
        logits: whether the network's outputs are class or token scores.
        grid: on which the backend stores integers (`qat_settings.Training`).
    """

    calibration_items: int = 2_000
    epochs: int = 8
    rate: float = 2e-4
    gentleness: float = 1.0
    distill: float = 1.0
    freeze_norms_after: int = 2
    loss: Callable[[Any, Any], Any] | None = None
    logits: bool = False  # unknown until a model says so; the squared distance fits any output
    grid: Grid = "scheme"

    @property
    def needs_calibration(self) -> bool:
        """Training learns from calibration items."""
        return True

    def unsupported(self, model: ModelInfo) -> str | None:
        """Refuse models that cannot be trained this way."""
        if model.stepwise:
            return f"{self.name} trains on whole items; {model.name} takes one position at a time"
        if "lstm" in model.layers:
            return f"{self.name} cannot round LSTM weights while training: one fused call reads them"
        if all(source.kind == "random" for source in model.sources):
            return f"{self.name} learns from a trained network: {model.name} has random weights"
        return None

    def for_model(self, model: Model) -> Trained:
        """Return this method with what a model knows: its task's loss, what its outputs are, a fitting rate."""
        rate = RATES.get(model.info.family, self.rate) / self.gentleness
        return replace(self, loss=getattr(model, "loss", None), logits=model.info.logits, rate=rate)

    def for_backend(self, backend: Backend) -> Trained:
        """Return this method training for the grid on which a backend stores integers."""
        return replace(self, grid=getattr(backend, "integer_grid", self.grid))

    def prepare(self, network, example: Arrays, calibration: Split | None) -> Prepared:
        """Return the trained network, with one scheme for every layer.

        Raises:
            CalibrationError: no calibration items, or too few to hold some out.
            Unsupported: a layer that cannot be trained.
        """
        if calibration is None or not len(calibration):
            raise CalibrationError(f"{self.name} needs calibration items: got none; add a calibration split")
        from quantkit.procedures import qat
        from quantkit.procedures.qat_settings import Training

        batch = min(64, max(8, len(calibration) // LEAST_STEPS))
        training = Training(
            epochs=self.epochs,
            learning_rate=self.rate,
            batch=batch,
            distill=self.distill,
            freeze_norms_after=self.freeze_norms_after,
            grid=self.grid,
        )
        plan = Plan(self.scheme)
        folder = cache_folder() / "trainings"  # one that was cut goes on; backends of one grid share it
        done = qat.train(network, plan, calibration, training, loss=self.loss, logits=self.logits, folder=folder)
        return Prepared(done.network, plan, example, calibration, (_told(done, len(calibration)),))


def _told(done: qat.Trained, items: int) -> str:
    """Return one line on the training for the build report."""
    before, after = done.report.before.sqnr_db, done.report.after.sqnr_db
    epochs = f"{len(done.history)} epochs on {items} items, the weights of epoch {done.best}"
    return f"trained by {done.engine}: {epochs}; simulated {before:.1f} dB before, {after:.1f} dB after"

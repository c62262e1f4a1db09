"""What decides a quantization-aware training: how long, how fast, by which losses, and what is quantized when."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from quantkit.errors import InvalidSetting

Grid = Literal["scheme", "tinygemm", "signed"]


@dataclass(frozen=True, slots=True)
class Stage:
    """What is quantized from an epoch on, while training; validation always sees the whole plan.

    Args:
        epoch: the first epoch of the stage, from 0.
        share: share of the layers, from the input on, that is quantized (incremental quantization: Zhou et al. 2017,
            arXiv:1702.03044).
        bits: fewest bits of an integer weight code in this stage; None for those of the plan.
    """

    epoch: int
    share: float = 1.0
    bits: int | None = None


@dataclass(frozen=True, slots=True)
class Training:
    """All knobs of one training; the same knobs, data and seed give the same weights.

    Args:
        epochs: most passes over the training part of the items.
        learning_rate: peak of Adam's, after a warm-up of one twentieth of the steps; then half a cosine to 0.
        batch: items a step.
        distill: weight of the loss against the full-precision teacher; what is left to 1 goes to the task's own loss.
            Without a task loss or targets it is all distillation.
        temperature: logits are divided by it before both are compared (Hinton et al. 2015, arXiv:1503.02531).
        grid_loss: weight of the mean squared distance of weights from their grid, relative to the weights' own square.
        noise: share of the weights, drawn anew each step, that is quantized while training; 1 quantizes all
            (Quant-Noise: Fan et al. 2020, arXiv:2004.07320).
        schedule: gradual quantization; empty quantizes all from the start. The last stage must be the whole plan.
        freeze_norms_after: epochs after which batch norms keep their statistics.
        patience: epochs without a better validation loss, counted from the last stage on, after which training ends.
        validation_share: share of the items that is held out to choose the epoch.
        grid: what is stored must be what was trained, and not every backend stores integers as the scheme says.
            `scheme` rounds to the plan's own grid. `tinygemm` rounds Linear layers of 4 bits in groups to that of
            PyTorch's int4 kernel (codes 0..15, a float zero point), `signed` weight-only symmetric integers to that
            of ONNX Runtime's blocks (`layers.rounded` tells).
        engine: of the fake quantization. `auto` takes PT2E for static int8 of all layers and rounds layer by layer
            otherwise; `coreml` takes coremltools' own trainer, which has static int8 only.
        seed: of the split, the order, the noise and dropout.
        threads: of torch while training.
    """

    epochs: int = 10
    learning_rate: float = 1e-3
    batch: int = 64
    distill: float = 1.0
    temperature: float = 2.0
    grid_loss: float = 0.0
    noise: float = 1.0
    schedule: tuple[Stage, ...] = ()
    freeze_norms_after: int = 2
    patience: int = 4
    validation_share: float = 0.1
    grid: Grid = "scheme"
    engine: Literal["auto", "coreml"] = "auto"
    seed: int = 0
    threads: int = 1

    def __post_init__(self) -> None:
        """Refuse numbers that make no sense.

        Raises:
            InvalidSetting: what, got, expected.
        """
        counts = {"epochs": 1, "batch": 2, "freeze_norms_after": 0, "patience": 1, "threads": 1}
        for name, least in counts.items():
            if getattr(self, name) < least:
                raise InvalidSetting(f"{name} must be at least {least}: got {getattr(self, name)}")
        for name in ("learning_rate", "temperature"):
            if not getattr(self, name) > 0:
                raise InvalidSetting(f"{name} must be positive: got {getattr(self, name)}")
        if not 0 <= self.distill <= 1:
            raise InvalidSetting(f"distill is a share from 0 to 1: got {self.distill}")
        if not 0 < self.noise <= 1:
            raise InvalidSetting(f"noise is the share of weights quantized at a step, above 0 to 1: got {self.noise}")
        if not 0 < self.validation_share < 1:
            raise InvalidSetting(f"validation_share lies between 0 and 1: got {self.validation_share}")
        if self.grid_loss < 0:
            raise InvalidSetting(f"grid_loss must not be negative: got {self.grid_loss}")
        if self.grid == "tinygemm" and not self.plain:
            raise InvalidSetting("the grid tinygemm is torchao's, which knows neither noise nor the bits of a stage")
        self._check_schedule()

    def _check_schedule(self) -> None:
        starts = [stage.epoch for stage in self.schedule]
        if starts and (starts[0] != 0 or starts != sorted(set(starts)) or starts[-1] >= self.epochs):
            raise InvalidSetting(f"stages start at epoch 0, then later ones below {self.epochs}: got {starts}")
        if any(not 0 <= stage.share <= 1 for stage in self.schedule):
            raise InvalidSetting(f"share of a stage is 0 to 1: got {[stage.share for stage in self.schedule]}")
        if self.schedule and (self.schedule[-1].share, self.schedule[-1].bits) != (1.0, None):
            raise InvalidSetting(f"the last stage must quantize all layers at the plan's bits: got {self.schedule[-1]}")

    def stage(self, epoch: int) -> Stage:
        """Return what is quantized in an epoch."""
        begun = [stage for stage in self.schedule if stage.epoch <= epoch]
        return begun[-1] if begun else Stage(0)

    def on(self, grid: Grid) -> Training:
        """Return the same training for a backend's grid; what torchao cannot simulate keeps the scheme's own."""
        return self if grid == "tinygemm" and not self.plain else replace(self, grid=grid)

    @property
    def whole_from(self) -> int:
        """Return the first epoch in which the whole plan is quantized."""
        return self.schedule[-1].epoch if self.schedule else 0

    @property
    def plain(self) -> bool:
        """True where every stage switches layers on or off only: no noise and no bits in between."""
        return self.noise == 1 and all(stage.bits is None for stage in self.schedule)


def gradual(epochs: int, *, layers: tuple[float, ...] = (), bits: tuple[int, ...] = ()) -> tuple[Stage, ...]:
    """Return stages that take the first half of the epochs: shares of layers, then widths, then the whole plan.

    Raises:
        InvalidSetting: there are not enough epochs for a stage each.

    >>> [(stage.epoch, stage.share, stage.bits) for stage in gradual(8, layers=(0.5,), bits=(8, 6))]
    [(0, 0.5, 8), (1, 1.0, 8), (2, 1.0, 6), (4, 1.0, None)]
    """
    widest = bits[0] if bits else None
    steps = [(share, widest) for share in layers] + [(1.0, width) for width in bits]
    room = epochs // 2
    if room < len(steps):
        raise InvalidSetting(f"{len(steps)} stages before the whole plan need {2 * len(steps)} epochs: got {epochs}")
    starts = [index * room // len(steps) for index in range(len(steps))]
    stages = [Stage(start, share, width) for start, (share, width) in zip(starts, steps, strict=True)]
    return (*stages, Stage(room if steps else 0))

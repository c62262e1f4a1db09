"""What is minimized: the distance from the full-precision teacher and the loss of the task itself."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn import functional

from quantkit.procedures.qat_settings import Training

TaskLoss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def distillation(outputs: torch.Tensor, teacher: torch.Tensor, *, logits: bool, temperature: float) -> torch.Tensor:
    """Return how far a student's outputs are from its teacher's, a scalar.

    Args:
        outputs: of the student, [n, ..., classes] for logits, any shape otherwise.
        teacher: same shape; no gradient flows into it.
        logits: True compares softened distributions by KL(teacher || student) · temperature², the mean over all
            positions (Hinton et al. 2015, arXiv:1503.02531: the factor keeps the size of the gradient);
            False takes the squared distance relative to the teacher's own square, 10^(-SQNR/10).
    """
    if not logits:
        return (outputs - teacher).square().sum() / teacher.square().sum().clamp_min(1e-12)
    classes = outputs.shape[-1]
    own = functional.log_softmax(outputs.reshape(-1, classes) / temperature, -1)
    told = functional.log_softmax(teacher.reshape(-1, classes) / temperature, -1)
    return functional.kl_div(own, told, reduction="batchmean", log_target=True) * temperature**2


def total(
    outputs: torch.Tensor, teacher: torch.Tensor, targets: torch.Tensor | None, training: Training, *,
    logits: bool, task: TaskLoss | None,
) -> torch.Tensor:  # fmt: skip
    """Return the weighted sum of distillation and task loss; all distillation where there is no task loss."""
    near = distillation(outputs, teacher, logits=logits, temperature=training.temperature)
    if task is None or targets is None or training.distill == 1:
        return near
    return training.distill * near + (1 - training.distill) * task(outputs, targets)

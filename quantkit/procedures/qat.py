"""Quantization-aware training: a copy of a network learns to answer like the original while its weights are rounded.

What comes out is a plain float network, its weights on the grid of the plan, so that any backend's own quantizer makes
the artifact: training and rounding after training then differ in the weights only. The original is the teacher
(distillation, arXiv:1503.02531), so that no labels are needed; the task's own loss joins where it is given.
Source of the idea: Jacob et al. 2018, arXiv:1712.05877, section 3.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from quantkit.contracts import Plan, Split
from quantkit.errors import QuantizationError, Unsupported
from quantkit.procedures import qat_checkpoint, qat_coreml, qat_data, qat_graph, qat_loss, qat_report
from quantkit.procedures.qat_fake import Layered, Student
from quantkit.procedures.qat_settings import Training

Say = Callable[[str], None]
KEPT_VALUES = 2**26  # outputs of the teacher that are kept instead of computed anew each epoch: 256 MiB
WARM_UP = 0.05  # share of the steps
LARGEST_GRADIENT = 1.0
SAY_EVERY_S = 20.0


@dataclass(frozen=True, slots=True)
class Epoch:
    """What one epoch gave: mean training loss, loss on the held-out items with the whole plan quantized, seconds."""

    number: int
    loss: float
    validation: float
    seconds: float


@dataclass(frozen=True)
class Trained:
    """A trained network.

    Args:
        network: plain, in eval mode, weights on their grids, names of the original.
        history: every epoch, those of an interrupted run included.
        best: number of the epoch whose weights these are; 0 where no epoch was better than no training.
        engine: whose fake quantization was in the forward pass.
        report: how well the grids are used and how far the answers are from the teacher's, before and after.
    """

    network: nn.Module
    history: tuple[Epoch, ...]
    best: int
    engine: str
    report: qat_report.Report


@dataclass
class _Run:
    """One training as it goes; `best` is its loss, 0 epochs done count as the first candidate."""

    student: Student
    optimizer: torch.optim.Optimizer
    kept: dict[str, torch.Tensor]
    best: float
    best_epoch: int = 0
    done: int = 0
    history: list[Epoch] = field(default_factory=list)


@dataclass(frozen=True)
class _Setting:
    """What does not change while training."""

    teacher: nn.Module
    items: Split
    held: Split
    training: Training
    logits: bool
    task: qat_loss.TaskLoss | None
    say: Say


def train(
    network: nn.Module, plan: Plan, items: Split, training: Training | None = None, *,
    loss: qat_loss.TaskLoss | None = None, logits: bool = True, folder: Path | None = None, say: Say | None = None,
) -> Trained:  # fmt: skip
    """Return a copy of a network that was trained with the plan's rounding in its forward pass.

    Args:
        network: in eval mode, float32; not changed. It is the teacher.
        plan: which layer gets which scheme; static int8 for all goes through PT2E, other plans layer by layer.
        items: to learn from, never evaluation items; a share of them is held out to choose the epoch.
            `qat_data.from_loader` makes them from a DataLoader. Targets are used by `loss` only.
        training: the knobs; None takes the defaults.
        loss: of the task, from outputs [n, ...] and targets [n, ...]; used for the share that `distill` leaves.
        logits: whether outputs are class or token scores (KL divergence), or not (squared distance).
        folder: where trainings are kept, each in a file of its own, written after every epoch: one that was cut goes
            on, one that is done is not done again.
        say: gets a line of progress: a bar, both losses and the time left.

    Raises:
        Unsupported: a layer, scheme or network that cannot be trained, with the reason.
        CalibrationError: too few items.
        CorruptFile: the file of a training that was cut cannot be read.
        QuantizationError: the loss is not finite.
    """
    training = training or Training()
    teacher = copy.deepcopy(network).eval().requires_grad_(False)
    learn, held = qat_data.held_out(items, training.validation_share, training.seed)
    with _apart(training):
        student = _student(network, plan, learn, training)
        rounded = student.network()
        setting = _Setting(teacher, learn, held, training, logits, loss, say or (lambda line: None))
        aim = f"{getattr(loss, '__qualname__', loss and type(loss).__qualname__)}, logits {logits}"
        file = qat_checkpoint.place(folder, network, plan, items, training, aim) if folder else None
        run = _begun(student, setting, file)
        _epochs(run, setting, file)
        if file:
            qat_checkpoint.save(file, _state(run) | {"optimizer": None})  # done: needs no moments any more
        run.student.module.load_state_dict(run.kept)
        trained = run.student.network()
        report = qat_report.report((teacher, rounded, trained), student.schemes, learn, held, logits=logits)
    return Trained(trained, tuple(run.history), run.best_epoch, student.engine, report)


def _student(network: nn.Module, plan: Plan, items: Split, training: Training) -> Student:
    whole = qat_graph.serves(network, plan, training)
    if training.engine == "coreml":
        if not whole:
            raise Unsupported("coremltools' trainer takes static int8 per channel for Conv2d and Linear, one for all")
        return qat_coreml.CoremlGraph(network, plan, items)
    if whole:
        return qat_graph.Graph(network, plan, items)
    return Layered(network, plan, items, training)


@contextmanager
def _apart(training: Training) -> Iterator[None]:
    """Leave the caller's random state and thread count as they were."""
    threads = torch.get_num_threads()
    torch.set_num_threads(training.threads)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(training.seed)
            yield
    finally:
        torch.set_num_threads(threads)


def _begun(student: Student, setting: _Setting, file: Path | None) -> _Run:
    """Return the run at its start, or where its checkpoint was written."""
    parameters = [p for p in student.module.parameters() if p.is_floating_point()]
    for parameter in parameters:
        parameter.requires_grad_(True)
    optimizer = torch.optim.Adam(parameters, lr=setting.training.learning_rate)
    run = _Run(student, optimizer, _copied(student), math.inf)
    state = qat_checkpoint.load(file) if file else None
    if state is None:
        run.best = _validation(run, setting)
        setting.say(f"before training: validation {run.best:.4f} ({student.engine})")
        return run
    student.module.load_state_dict(state["student"])
    if state["optimizer"] is not None:
        optimizer.load_state_dict(state["optimizer"])
    torch.set_rng_state(state["random"])
    history = [Epoch(*entry) for entry in state["history"]]
    setting.say(f"goes on after epoch {len(history)} of {setting.training.epochs}")
    return _Run(student, optimizer, state["kept"], state["best"], state["best_epoch"], len(history), history)


def _epochs(run: _Run, setting: _Setting, file: Path | None) -> None:
    """Train until the last epoch, or until validation has not gained for as long as patience lasts."""
    training, told = setting.training, _teacher(setting)
    while run.done < training.epochs and not _tired(run, training):
        start = time.perf_counter()
        run.student.learn(training.stage(run.done), norms=run.done < training.freeze_norms_after)
        loss = _epoch(run, setting, told)
        validation = _validation(run, setting)
        if not math.isfinite(loss + validation):
            raise QuantizationError(
                f"training gave a loss of {loss}: lower the learning rate ({training.learning_rate})"
            )
        run.done += 1
        run.history.append(Epoch(run.done, loss, validation, time.perf_counter() - start))
        if validation < run.best:
            run.best, run.best_epoch, run.kept = validation, run.done, _copied(run.student)
        setting.say(_line(run, training))
        if file:
            qat_checkpoint.save(file, _state(run))


def _tired(run: _Run, training: Training) -> bool:
    return run.done - max(run.best_epoch, training.whole_from) >= training.patience


def _state(run: _Run) -> dict[str, Any]:
    return {
        "student": run.student.module.state_dict(),
        "optimizer": run.optimizer.state_dict(),
        "random": torch.get_rng_state(),
        "kept": run.kept,
        "best": run.best,
        "best_epoch": run.best_epoch,
        "history": [(epoch.number, epoch.loss, epoch.validation, epoch.seconds) for epoch in run.history],
    }


def _copied(student: Student) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in student.module.state_dict().items()}


def _epoch(run: _Run, setting: _Setting, told: Callable[[torch.Tensor], torch.Tensor]) -> float:
    """Go once through the training items in a random order; return the mean loss."""
    training, targets = setting.training, qat_data.targets_of(setting.items)
    parts = list(qat_data.batches(torch.randperm(len(setting.items)), training.batch))
    losses, last_said = [], time.monotonic()
    for number, rows in enumerate(parts):
        for group in run.optimizer.param_groups:
            group["lr"] = training.learning_rate * _pace(run.done + number / len(parts), training.epochs)
        inputs = tuple(torch.from_numpy(np.ascontiguousarray(x[rows.numpy()])) for x in setting.items.inputs)
        aims = targets[rows] if targets is not None else None
        loss = qat_loss.total(
            run.student(*inputs), told(rows), aims, training, logits=setting.logits, task=setting.task
        )
        if training.grid_loss:
            loss = loss + training.grid_loss * run.student.distance()
        run.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(run.student.module.parameters(), LARGEST_GRADIENT)
        run.optimizer.step()
        losses.append(loss.item())
        if time.monotonic() - last_said > SAY_EVERY_S:
            last_said = time.monotonic()
            setting.say(
                f"epoch {run.done + 1}/{training.epochs}: {(number + 1) / len(parts):.0%}, loss {losses[-1]:.4f}"
            )
    return float(np.mean(losses))


def _pace(epochs: float, all_epochs: int) -> float:
    """Return the learning rate as a share of its peak: a line up, then half a cosine down to 0."""
    part = epochs / all_epochs
    if part < WARM_UP:
        return max(part / WARM_UP, 0.01)
    return 0.5 * (1 + math.cos(math.pi * (part - WARM_UP) / (1 - WARM_UP)))


def _teacher(setting: _Setting) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return a function from rows to the teacher's outputs; kept where they fit into memory."""
    items, teacher = setting.items, setting.teacher

    def asked(rows: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return teacher(*(torch.from_numpy(np.ascontiguousarray(x[rows.numpy()])) for x in items.inputs))

    first = asked(torch.arange(1))
    if first.numel() * len(items) > KEPT_VALUES:
        return asked
    known = torch.cat([asked(rows) for rows in qat_data.batches(torch.arange(len(items)), setting.training.batch)])
    return lambda rows: known[rows]


def _validation(run: _Run, setting: _Setting) -> float:
    """Return the loss on the held-out items, the whole plan quantized; weighted by the items of each batch."""
    run.student.judge()
    held, targets, sum_ = setting.held, qat_data.targets_of(setting.held), 0.0
    with torch.no_grad():
        for rows in qat_data.batches(torch.arange(len(held)), setting.training.batch):
            inputs = tuple(torch.from_numpy(np.ascontiguousarray(x[rows.numpy()])) for x in held.inputs)
            aims = targets[rows] if targets is not None else None
            outputs, told = run.student(*inputs), setting.teacher(*inputs)
            part = qat_loss.total(outputs, told, aims, setting.training, logits=setting.logits, task=setting.task)
            sum_ += part.item() * len(rows)
    return sum_ / len(held)


def _line(run: _Run, training: Training) -> str:
    """Return the line of progress after an epoch."""
    last, width = run.history[-1], 20
    done = round(width * run.done / training.epochs)
    left = (training.epochs - run.done) * float(np.median([epoch.seconds for epoch in run.history]))
    mark = " (best)" if run.best_epoch == last.number else ""
    bar = "#" * done + "." * (width - done)
    losses = f"loss {last.loss:.4f}, validation {last.validation:.4f}{mark}"
    return f"[{bar}] epoch {last.number}/{training.epochs}: {losses}, at most {left:.0f} s left"

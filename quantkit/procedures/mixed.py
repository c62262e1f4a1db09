"""Mixed precision: measure what each layer's schemes cost in quality, then choose a scheme for each within a budget.

This is the part that needs the network alone (`quantkit.search` adds what is measured on a target). Budgets are
bytes of weights: those of one uniform scheme, or a share of the way between two.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import nn

from quantkit.contracts import Plan, Split
from quantkit.procedures import assign, costs, layers, sensitivity
from quantkit.procedures.assign import Assignment, Problem
from quantkit.procedures.sensitivity import Say, Sensitivities
from quantkit.scheme import Scheme

COMMON = costs.Storage(kernel_shared=True, padded=False)  # exactly Core ML's, and near that of the others
LEAST_ITEMS = 16


@dataclass(frozen=True)
class Budget:
    """Bytes of weights: those of a uniform scheme, plus a share of the way to those of a second one."""

    like: Scheme
    towards: Scheme | None = None
    share: float = 0.0

    def bytes(self, network: nn.Module, units: sensitivity.Units, storage: costs.Storage) -> int:
        """Return the budget for this network."""
        low = costs.uniform_bytes(network, units, self.like, storage)
        high = low if self.towards is None else costs.uniform_bytes(network, units, self.towards, storage)
        return low + int(self.share * (high - low))


@dataclass(frozen=True)
class Recipe:
    """How a mixed plan is made.

    Args:
        schemes: the candidates, widest first.
        default: of layers that are not measured, and what backends take the whole for: the widest quantized candidate.
        budget: how many bytes the weights may take.
        rows: about how many answers (classes of an image, next tokens of a text) sensitivity is measured on; never
            less than `LEAST_ITEMS` calibration items.
        transition_share: share of the whole loss that one change of precision between two layers must save.
        storage: how bytes are counted.
    """

    schemes: tuple[Scheme, ...]
    default: Scheme
    budget: Budget
    rows: int = 256
    transition_share: float = 0.002
    storage: costs.Storage = COMMON


@dataclass(frozen=True)
class Mixed:
    """A finished choice.

    Args:
        plan: for backends.
        choices: unit -> scheme.
        assignment: predicted loss, bytes and transitions.
        budget_bytes: what the bytes were to stay within.
        sensitivities: what the choice rests on.
    """

    plan: Plan
    choices: Mapping[str, Scheme]
    assignment: Assignment
    budget_bytes: int
    sensitivities: Sensitivities


def decide(
    network: nn.Module, items: Split, recipe: Recipe, *, cache: Path | None = None, say: Say = lambda _: None
) -> Mixed:
    """Return the mixed plan of a recipe for a network; the network is not changed.

    Raises:
        BudgetTooSmall: even the smallest candidates take more.
    """
    few = enough(network, items, recipe.rows)
    loss = sensitivity.fitting_loss(layers.answers(network, first(few, 2)).numpy(), few.targets[:2])
    found = sensitivity.measure(network, few, recipe.schemes, loss=loss, cache=cache, say=say)
    bytes_ = costs.table(network, found.units, recipe.schemes, recipe.storage)
    budget = recipe.budget.bytes(network, found.units, recipe.storage)
    problem = Problem(found.losses, bytes_.astype(float), budget, edges(len(found.units)))
    picked = assign.solve_sparing_transitions(problem, recipe.transition_share)
    choices = {unit: recipe.schemes[index] for unit, index in zip(found.units, picked.choices, strict=True)}
    return Mixed(sensitivity.plan_of(choices, found.units, recipe.default), choices, picked, budget, found)


def enough(network: nn.Module, items: Split, rows: int) -> Split:
    """Return the first items that give about that many rows of answers, the last axis apart."""
    answer = layers.answers(network, first(items, 1)).numpy()
    each = max(1, math.prod(answer.shape[1:-1]))
    return first(items, max(LEAST_ITEMS, math.ceil(rows / each)))


def edges(count: int) -> list[tuple[int, int]]:
    """Return the pairs of layers that follow each other in the order of their calls."""
    return [(number, number + 1) for number in range(count - 1)]


def first(items: Split, count: int) -> Split:
    """Return the first items."""
    return Split(tuple(x[:count] for x in items.inputs), items.targets[:count], items.ids[:count])


def rest(items: Split, count: int) -> Split:
    """Return what `first` leaves: a validation split that sensitivity never saw."""
    return Split(tuple(x[count:] for x in items.inputs), items.targets[count:], items.ids[count:])


def worst(losses: np.ndarray, choices: tuple[int, ...], count: int) -> list[int]:
    """Return the layers whose choice loses most, most first."""
    own = losses[np.arange(len(choices)), np.asarray(choices, int)]
    return np.argsort(-own, kind="stable")[:count].tolist()

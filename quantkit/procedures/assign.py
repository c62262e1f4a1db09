"""Which layer gets which scheme: the least sum of losses under a budget, as a mixed-integer linear program.

Minimize sum_l sum_s loss[l, s] · x[l, s] + penalty · sum_e t[e] over binary x with sum_s x[l, s] = 1, subject to
sum cost[l, s] · x[l, s] <= budget and t[e] >= x[a, s] - x[b, s] for every edge e = (a, b) and every scheme s: t is 1
where two layers that follow each other have different precisions. Solved by HiGHS (`scipy.optimize.milp`).
The program is that of HAWQ-V3 (Yao et al. 2021, arXiv:2011.10680, section 3.4) and the transitions' linearization.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from scipy import optimize, sparse

from quantkit.errors import BudgetTooSmall

TOLERANCE = 1e-6  # of HiGHS's constraints, after the budget is scaled to 1
Edges = Sequence[tuple[int, int]]


@dataclass(frozen=True)
class Problem:
    """What is to be decided for n layers with k schemes each.

    Args:
        losses: [n, k]; nan forbids a choice.
        costs: [n, k], not negative, in the budget's unit; nan forbids a choice.
        budget: largest sum of costs.
        edges: pairs of layers that follow each other.
        penalty: loss that one transition counts as.
        forbidden: [n, k], choices that must not be taken.
        unit: the budget's unit, for messages.
    """

    losses: np.ndarray
    costs: np.ndarray
    budget: float
    edges: Edges = ()
    penalty: float = 0.0
    forbidden: np.ndarray | None = field(default=None)
    unit: str = "bytes"

    def __post_init__(self) -> None:
        """Refuse arrays that do not belong together.

        Raises:
            ValueError: what, got, expected.
        """
        if self.losses.ndim != 2 or self.losses.shape != self.costs.shape or not self.losses.size:
            raise ValueError(f"losses and costs must be [layers, schemes]: got {self.losses.shape}, {self.costs.shape}")
        if self.forbidden is not None and self.forbidden.shape != self.losses.shape:
            raise ValueError(f"forbidden must be {self.losses.shape} like losses: got {self.forbidden.shape}")
        if np.nanmin(self.costs, initial=0.0) < 0 or self.penalty < 0:
            raise ValueError("costs and penalty must not be negative")

    @property
    def allowed(self) -> np.ndarray:
        """Which choices may be taken, [n, k]."""
        may = ~(np.isnan(self.losses) | np.isnan(self.costs))
        return may if self.forbidden is None else may & ~self.forbidden


@dataclass(frozen=True)
class Assignment:
    """A choice for every layer.

    Args:
        choices: [n], index of each layer's scheme.
        loss: sum of the losses, without penalties.
        cost: sum of the costs.
        transitions: edges whose ends have different schemes.
    """

    choices: tuple[int, ...]
    loss: float
    cost: float
    transitions: int


def solve(problem: Problem) -> Assignment:
    """Return the best assignment within the budget.

    Losses are told apart down to about a millionth of the largest one: HiGHS's own tolerance.

    Raises:
        BudgetTooSmall: no assignment is within the budget; the message has the smallest possible cost.
    """
    least = smallest_cost(problem)
    if not least <= problem.budget:
        raise BudgetTooSmall(
            f"a budget of {problem.budget:g} {problem.unit} is too small: got at least {least:g} {problem.unit} with "
            f"the smallest scheme that each layer may take; raise the budget or add smaller schemes"
        )
    for slack in (0.0, TOLERANCE, 10 * TOLERANCE, 1e-3):  # HiGHS may overstep a bound by its tolerance
        found = _solve(problem, slack)
        if found is not None and found.cost <= problem.budget:
            return found
    return cheapest(problem)


def smallest_cost(problem: Problem) -> float:
    """Return the sum of each layer's smallest allowed cost; infinite where a layer may take nothing."""
    return float(np.where(problem.allowed, problem.costs, np.inf).min(axis=1).sum())


def describe(problem: Problem, choices: Sequence[int]) -> Assignment:
    """Return an assignment with its sums."""
    rows, picked = np.arange(len(choices)), np.asarray(choices, int)
    changes = sum(picked[a] != picked[b] for a, b in problem.edges)
    sums = float(problem.losses[rows, picked].sum()), float(problem.costs[rows, picked].sum())
    return Assignment(tuple(picked.tolist()), *sums, int(changes))


def solve_sparing_transitions(problem: Problem, share: float) -> Assignment:
    """Return the best assignment when every transition must save at least that share of the whole loss.

    The whole loss is that of the best assignment without a penalty.
    """
    free = solve(replace(problem, penalty=0.0))
    return solve(replace(problem, penalty=share * max(free.loss, 0.0))) if share and problem.edges else free


def cheapest(problem: Problem) -> Assignment:
    """Return the assignment of each layer's smallest allowed cost, whatever the budget."""
    return describe(problem, np.where(problem.allowed, problem.costs, np.inf).argmin(axis=1).tolist())


def _solve(problem: Problem, slack: float) -> Assignment | None:
    """Return HiGHS's answer for a budget made smaller by `slack` of itself, or None where that leaves nothing."""
    n, k = problem.losses.shape
    loss, cost = (np.nan_to_num(values, nan=0.0) for values in (problem.losses, problem.costs))
    scale = max(np.abs(loss).max(), problem.penalty) or 1.0
    objective = np.concatenate([loss.ravel(), np.full(len(problem.edges), problem.penalty)]) / scale
    upper = np.concatenate([problem.allowed.ravel().astype(float), np.ones(len(problem.edges))])
    answer = optimize.milp(
        objective,
        integrality=np.concatenate([np.ones(n * k), np.zeros(len(problem.edges))]),
        bounds=optimize.Bounds(0, upper),
        constraints=_constraints(problem, cost, slack),
        options={"mip_rel_gap": 0.0},
    )
    return None if answer.x is None else describe(problem, answer.x[: n * k].reshape(n, k).argmax(axis=1))


def _constraints(problem: Problem, cost: np.ndarray, slack: float) -> list[optimize.LinearConstraint]:
    (n, k), m = cost.shape, len(problem.edges)
    one_each = sparse.hstack([sparse.kron(sparse.eye(n), np.ones((1, k))), sparse.csr_matrix((n, m))])
    scale = problem.budget or 1.0
    within = sparse.hstack([sparse.csr_matrix(cost.reshape(1, -1) / scale), sparse.csr_matrix((1, m))])
    found = [
        optimize.LinearConstraint(one_each.tocsr(), 1, 1),
        optimize.LinearConstraint(within.tocsr(), -np.inf, problem.budget / scale - slack),
    ]
    if m:
        steps = sparse.lil_matrix((m * k, n * k + m))
        for edge, (a, b) in enumerate(problem.edges):
            for s in range(k):
                row = edge * k + s
                steps[row, a * k + s], steps[row, b * k + s], steps[row, n * k + edge] = 1, -1, -1
        found.append(optimize.LinearConstraint(steps.tocsr(), -np.inf, 0))
    return found

"""From plan to plan: solve, build, judge; where quality fails, raise the worst layers and solve again.

The budget is that of the whole artifact. What it holds besides the layers (biases, norms, attention) is found by
building the network in its widest scheme once, and corrected whenever a built artifact exceeds the budget. Every step
is written down before the next begins, and the best artifact so far is kept: a killed search goes on where it was.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from torch import nn

from quantkit.contracts import BuildReport, Plan, Split
from quantkit.errors import BudgetTooSmall
from quantkit.pipeline.cache import digest
from quantkit.procedures import assign, mixed, sensitivity
from quantkit.procedures.costs import unit_shapes
from quantkit.procedures.sensitivity import Sensitivities
from quantkit.scheme import Scheme
from quantkit.search import judge
from quantkit.search import state as state_files
from quantkit.search.judge import Judge, Place, Unit
from quantkit.search.state import State, Step

BEST, WIDEST = "best", "widest"
NO_PLAN_LEFT = "the budget cannot hold the quality: no plan is left after raising the layers that lose most"
NONE_WITHIN = "no plan that was built kept the budget, and none that is foretold to is left"
NEARLY_FLOAT = 0.15  # of the weights; backends refuse below 0.1 of those that they hold
FORETOLD_OFF = 0.25  # of the budget: so much may a time foretold from single layers be off
Say = Callable[[str], None]


@dataclass(frozen=True)
class Request:
    """What is searched.

    Args:
        costs: [units, schemes] of `found`'s units and schemes, in `unit`; nan where there is no form.
        budget: of the whole artifact, in `unit`; where `relative`, as a share of what the most precise artifact takes.
        default: scheme that backends take the whole for (the widest quantized candidate).
        calibration: items that static ranges come from.
        transition_share: share of the whole loss that one change of precision must save.
        most_steps: after how many failed plans to give up.
        raised: share of the layers that one step back raises by a precision, at least one.
    """

    network: nn.Module
    found: Sensitivities
    costs: np.ndarray
    unit: Unit
    budget: float
    default: Scheme
    place: Place
    calibration: Split
    judge: Judge
    transition_share: float = 0.002
    most_steps: int = 8
    raised: float = 0.1
    relative: bool = False


@dataclass(frozen=True)
class Outcome:
    """The end of a search: the best step, its plan's artifact, and why it did not go on."""

    best: Step | None
    artifact: Path
    steps: tuple[Step, ...]
    ended: str

    @property
    def holds(self) -> bool:
        """Whether the best step is within the budget and keeps what was required."""
        return self.best is not None and self.best.holds


def search(request: Request, folder: Path, say: Say = lambda _: None) -> Outcome:
    """Return the best plan found; `folder` holds the search's state and, in `best`, its best artifact.

    A search that was interrupted goes on; one that asks something else starts anew.

    Raises:
        BudgetTooSmall: no plan at all keeps the budget; the message has the smallest possible cost.
        StorageError: the folder cannot be written.
    """
    state_files.repair(folder / BEST)
    state = state_files.read(folder, _key(request))
    if state.widest is None or not (folder / WIDEST).exists():
        _measure_widest(request, state, folder)
        state_files.write(folder, state)
    while not state.ended:
        try:
            picked = _picked(request, state)
        except BudgetTooSmall:
            if not state.steps:
                raise
            state.ended = NO_PLAN_LEFT if any(step.within for step in state.steps) else NONE_WITHIN
            break
        step = _try(request, state, picked, folder)
        _note(state, step)
        _step_back(request, state, step)
        state_files.write(folder, state)  # step and what follows from it at once: a kill leaves both or none
        word, sqnr = step.verdict["word"], step.verdict["sqnr_db"]
        say(f"plan {step.number}: {step.cost:g} {request.unit}, {word}, {sqnr:.1f} dB")
    state_files.write(folder, state)
    best = None if state.best is None else state.steps[state.best]
    return Outcome(best, folder / BEST, tuple(state.steps), state.ended)


def _picked(request: Request, state: State) -> assign.Assignment:
    """Return the next assignment to try.

    Times are foretold from single layers: where a budget is missed by little, the fastest plan is tried all the same.

    Raises:
        BudgetTooSmall: no plan is left that keeps the budget.
    """
    problem = _problem(request, state)
    try:
        return assign.solve_sparing_transitions(problem, request.transition_share)
    except BudgetTooSmall:
        fastest = assign.cheapest(problem)
        over = fastest.cost - problem.budget
        if state.steps or request.unit == "bytes" or not over <= FORETOLD_OFF * _budget(request, state):
            raise
        return fastest


def _problem(request: Request, state: State) -> assign.Problem:
    forbidden = np.zeros(request.costs.shape, bool)
    for unit, scheme in state.forbidden:
        forbidden[unit, scheme] = True
    left = _budget(request, state) - state.overhead
    edges = mixed.edges(len(request.found.units))
    return assign.Problem(request.found.losses, request.costs, left, edges, forbidden=forbidden, unit=request.unit)


def _budget(request: Request, state: State) -> float:
    """Return the budget in its unit."""
    return request.budget * (state.widest or 0.0) if request.relative else request.budget


def _measure_widest(request: Request, state: State, folder: Path) -> None:
    """Build the most precise plan: what it takes, and what of that is not its layers' (negative where kernels fuse).

    Its artifact is kept: times of others are taken beside it, turn by turn, so that a slower hour moves both.
    """
    widest = _widest(request)
    choices = [request.found.schemes[index] for index in widest]
    with state_files.workshop(folder) as place:
        report = judge.build(request.network, _plan(request, choices), request.calibration, place, request.place)
        taken = float(report.weight_bytes)
        if request.unit == "s":
            taken = judge.latencies_s([place], request.calibration, request.place)[0]
        state_files.publish(place, folder / WIDEST)
    state.widest = taken
    state.overhead = taken - float(request.costs[np.arange(len(widest)), widest].sum())


def _cost(request: Request, state: State, report: BuildReport, place: Path, folder: Path) -> float:
    """Return what an artifact takes; its time is its ratio to the most precise one's, in that one's first seconds."""
    if request.unit == "bytes":
        return float(report.weight_bytes)
    own, widest = judge.latencies_s([place, folder / WIDEST], request.calibration, request.place)
    return own / widest * (state.widest or 0.0)


def _widest(request: Request) -> np.ndarray:
    """Return the most precise scheme of each unit that has a form and a loss."""
    usable = ~(np.isnan(request.costs) | np.isnan(request.found.losses))
    if not usable.any(axis=1).all():
        lost = [name for name, may in zip(request.found.units, usable.any(axis=1), strict=True) if not may]
        raise BudgetTooSmall(f"no candidate has a form for {', '.join(lost)}: add one that leaves the layer in float")
    return np.where(usable, request.found.losses, np.inf).argmin(axis=1)


def _plan(request: Request, choices: list[Scheme]) -> Plan:
    """Return the plan of a choice; where nearly all stays in float, that is what the whole is taken for.

    A backend refuses an artifact that hardly holds what its default says.
    """
    named = dict(zip(request.found.units, choices, strict=True))
    shapes = unit_shapes(request.network, request.found.units)
    weights = {unit: sum(map(math.prod, own)) for unit, own in shapes.items()}
    quantized = sum(count for unit, count in weights.items() if named[unit].quantized)
    mostly_float = quantized < NEARLY_FLOAT * sum(weights.values())
    floats = [scheme for scheme in choices if not scheme.quantized]
    return sensitivity.plan_of(named, request.found.units, floats[0] if mostly_float else request.default)


def _try(request: Request, state: State, picked: assign.Assignment, folder: Path) -> Step:
    """Build, measure and judge one assignment; its artifact replaces the best one where it is better."""
    schemes = [request.found.schemes[index] for index in picked.choices]
    with state_files.workshop(folder) as place:
        report = judge.build(request.network, _plan(request, schemes), request.calibration, place, request.place)
        cost = _cost(request, state, report, place, folder)
        verdict = request.judge.verdict(judge.answers(place, request.judge.items, request.place))
        step = Step(
            number=len(state.steps),
            choices={unit: scheme.name for unit, scheme in zip(request.found.units, schemes, strict=True)},
            indices=picked.choices,
            predicted_loss=picked.loss,
            predicted_cost=picked.cost + state.overhead,
            cost=cost,
            transitions=picked.transitions,
            stored_transitions=judge.transitions(report.layers),
            verdict=asdict(verdict),
            within=cost <= _budget(request, state),
        )
        if state.best is None or step.rank > state.steps[state.best].rank:
            state_files.publish(place, folder / BEST)
    return step


def _note(state: State, step: Step) -> None:
    state.steps.append(step)
    if state.best is None or step.rank > state.steps[state.best].rank:
        state.best = step.number


def _step_back(request: Request, state: State, step: Step) -> None:
    """End the search where the step holds or too many failed, else change what the next solution may take."""
    if step.holds:
        state.ended = "the plan keeps the budget and the requirement"
    elif len(state.steps) >= request.most_steps:
        state.ended = f"{request.most_steps} plans were tried: the best of them is kept"
    elif not step.within:
        budget = _budget(request, state)
        state.overhead += (step.cost - budget) + 1e-3 * budget
    else:
        count = max(1, round(request.raised * len(step.indices)))
        _raise_worst(request, state, step, count)


def _raise_worst(request: Request, state: State, step: Step, count: int) -> None:
    """Forbid the layers that lose most their scheme, and all that lose at least as much."""
    losses = request.found.losses
    ordered = mixed.worst(losses, step.indices, len(step.indices))
    lower = [unit for unit in ordered if step.indices[unit] != int(np.nanargmin(losses[unit]))]
    if not lower:
        state.ended = "the budget cannot hold the quality: every layer has its most precise scheme already"
    for unit in lower[:count]:
        own = losses[unit, step.indices[unit]]
        state.forbidden += [(unit, int(scheme)) for scheme in np.flatnonzero(losses[unit] >= own)]


def _key(request: Request) -> str:
    """Return a hash of all that decides where a search goes."""
    required = asdict(request.judge.required)
    data = [sensitivity.fingerprint(request.network, part) for part in (request.calibration, request.judge.items)]
    numbers = [request.found.losses.tolist(), request.budget, request.relative]
    numbers += [request.transition_share, request.most_steps]
    costs = request.costs.tolist() if request.unit == "bytes" else []  # times are never the same twice
    schemes = [repr(scheme) for scheme in (*request.found.schemes, request.default)]
    return digest([required, data, numbers, costs, schemes, asdict(request.place), request.unit, request.raised])

"""What one layer costs on the target: one-layer networks built by the backend and timed through its own sessions.

Each layer is built alone with the input shape that it has in the network. All sessions are alternated in rounds, in a
random order, so that a drift of the machine falls on all alike; the time of an empty call is subtracted; layers of
equal kind, size and input are measured once. Figures are kept under the machine's fingerprint.
"""

from __future__ import annotations

import copy
import gc
import itertools
import json
import math
import random
import statistics
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from quantkit.catalog import BACKENDS, TARGETS
from quantkit.contracts import Plan, Prepared, Session, Split
from quantkit.environment import fingerprint
from quantkit.errors import CalibrationError, Unsupported
from quantkit.files import write_atomic
from quantkit.pipeline import crew
from quantkit.pipeline.cache import digest
from quantkit.procedures import sensitivity
from quantkit.scheme import Scheme
from quantkit.search.alone import Alone, Empty, inputs_of

Say = Callable[[str], None]
CALIBRATION_ITEMS = 8  # ranges of a layer that is only timed need not be good
OVERHEAD = "an empty call"


@dataclass(frozen=True)
class Bench:
    """Where and how long to measure.

    Args:
        rounds: how often every layer gets its turn.
        round_s: seconds of calls in one turn.
        cache: folder in which figures are kept; None keeps none.
    """

    backend: str
    target: str = "cpu"
    threads: int = 1
    rounds: int = 9
    round_s: float = 0.02
    seed: int = 0
    cache: Path | None = None


@dataclass(frozen=True)
class Costs:
    """What every unit takes in every scheme.

    Args:
        values: [units, schemes], in `unit`; nan where the backend has no form, with its reason in `refused`.
        unit: `s` or `J`.
        overhead: of an empty call, already subtracted.
    """

    values: np.ndarray
    unit: str
    overhead: float
    refused: Mapping[str, str]


@dataclass(frozen=True)
class Job:
    """A one-layer network in one scheme: what is built, under a key that equal ones share."""

    key: str
    name: str
    network: nn.Module
    scheme: Scheme
    inputs: Sequence[np.ndarray]


def seconds(
    network: nn.Module,
    items: Split,
    units: sensitivity.Units,
    schemes: Sequence[Scheme],
    bench: Bench,
    say: Say = lambda _: None,
) -> Costs:
    """Return the seconds of every unit in every scheme.

    Raises:
        Unsupported: nothing can be timed on this target or with this backend here, with its reason.
    """
    if reason := TARGETS.get(bench.target).untimed() or BACKENDS.get(bench.backend).untimed(bench.target):
        raise Unsupported(f"milliseconds cannot be measured: {bench.backend} on {bench.target}: {reason}")
    clock = TARGETS.get(bench.target).clock
    return _costs(network, items, units, schemes, bench, "s", clock, say)


def joules(
    network: nn.Module,
    items: Split,
    units: sensitivity.Units,
    schemes: Sequence[Scheme],
    bench: Bench,
    say: Say = lambda _: None,
) -> Costs:
    """Return the joules of every unit in every scheme, by the target's own meter (`energy_j() -> joules so far`).

    Raises:
        Unsupported: the target has no energy meter: energy is not guessed from time.
    """
    meter = getattr(TARGETS.get(bench.target), "energy_j", None)
    if meter is None:
        raise Unsupported(
            f"no energy meter on this machine: target '{bench.target}' has none, so a budget in joules cannot be kept; "
            "give one in bytes or seconds"
        )
    return _costs(network, items, units, schemes, bench, "J", meter, say)


def _costs(
    network: nn.Module,
    items: Split,
    units: sensitivity.Units,
    schemes: Sequence[Scheme],
    bench: Bench,
    unit: str,
    meter: Callable[[], float],
    say: Say,
) -> Costs:
    seen = inputs_of(network, items, [layer for members in units.values() for layer in members], CALIBRATION_ITEMS)
    jobs = {
        (name, scheme): [_job(network, layer, seen, scheme, bench) for layer in members]
        for name, members in units.items()
        for scheme in schemes
    }
    empty = Job(digest([OVERHEAD, _place(bench)]), OVERHEAD, Empty(), sensitivity.FLOAT, [np.ones((1, 1), "f4")])
    unique = {job.key: job for job in (empty, *(job for group in jobs.values() for job in group))}
    found = _measured(unique, bench, unit, meter, say)
    base = found[empty.key]
    if isinstance(base, str):
        raise Unsupported(f"{bench.backend} cannot build {OVERHEAD}: {base}")
    cells = {cell: _together([found[job.key] for job in parts], base) for cell, parts in jobs.items()}
    values = [[math.nan if isinstance(cells[u, s], str) else float(cells[u, s]) for s in schemes] for u in units]
    refused = {f"{unit} {scheme.name}": made for (unit, scheme), made in cells.items() if isinstance(made, str)}
    return Costs(np.array(values).reshape(len(units), len(schemes)), unit, base, refused)


def _together(parts: Sequence[float | str], base: float) -> float | str:
    """Return the sum over a unit's layers, an empty call taken off each, or the first refusal."""
    refusals = [part for part in parts if isinstance(part, str)]
    return refusals[0] if refusals else sum(max(0.0, part - base) for part in parts if not isinstance(part, str))


def _job(network: nn.Module, layer: str, seen: Mapping[str, Sequence[np.ndarray]], scheme: Scheme, bench: Bench) -> Job:
    """Return what is measured for a layer; its weights do not matter, so that equal shapes are one job.

    Raises:
        Unsupported: the network hands the layer its input by name, so that no input was seen.
    """
    module, inputs = network.get_submodule(layer), seen[layer]
    if not inputs:
        raise Unsupported(f"layer {layer!r} gets no input by position: it cannot be timed alone; pass inputs in order")
    parts = [repr(module), [tuple(p.shape) for p in module.parameters()], inputs[0].shape, str(inputs[0].dtype)]
    return Job(digest([*parts, repr(scheme), _place(bench)]), f"{layer} {scheme.name}", Alone(module), scheme, inputs)


def _place(bench: Bench) -> list[Any]:
    """Return what a figure depends on besides the layer: toolchain, executor, machine."""
    backend = BACKENDS.get(bench.backend)
    made_by = [bench.backend, dict(backend.versions()), backend.executor(bench.target), bench.threads]
    return [*made_by, bench.target, fingerprint()["id"]]


def _measured(
    jobs: Mapping[str, Job], bench: Bench, unit: str, meter: Callable[[], float], say: Say
) -> dict[str, float | str]:
    """Return key -> figure, or the backend's refusal; what is kept already is not measured again."""
    file = None if bench.cache is None else bench.cache / f"layers-{unit}.json"
    kept = json.loads(file.read_text()) if file is not None and file.is_file() else {}
    missing = {key: job for key, job in jobs.items() if key not in kept}
    if missing:
        missing |= {key: job for key, job in jobs.items() if job.name == OVERHEAD}  # beside what it is taken from
        with tempfile.TemporaryDirectory(prefix="quantkit-layers-") as folder:
            kept |= _alternate(missing, bench, Path(folder), unit, meter, say)
        if file is not None:
            write_atomic(file, json.dumps(kept, indent=0).encode())
    return {key: kept[key] for key in jobs}


def _alternate(
    jobs: Mapping[str, Job], bench: Bench, folder: Path, unit: str, meter: Callable[[], float], say: Say
) -> dict[str, float | str]:
    """Build all, then time all in rounds; return the median over the rounds."""
    found: dict[str, float | str] = {}
    open_: dict[str, tuple[Session, Any]] = {}
    for number, (key, job) in enumerate(jobs.items(), 1):
        try:
            open_[key] = _open(job, bench, folder / str(number))
        except (Unsupported, CalibrationError) as error:
            found[key] = str(error)
        say(f"layer {number}/{len(jobs)} {job.name}{': ' + str(found[key]) if key in found else ''}")
    order, turns = random.Random(bench.seed), {key: list[float]() for key in open_}
    with crew.alone(), _no_collector():
        for number in range(bench.rounds):
            for key in order.sample(sorted(open_), len(open_)):
                turns[key].append(_turn(*open_[key], bench, meter, each=unit == "s"))
            say(f"timed {len(open_)} layers: round {number + 1}/{bench.rounds}")
    for session, _ in open_.values():
        session.close()
    return found | {key: statistics.median(values) for key, values in turns.items()}


def _open(job: Job, bench: Bench, folder: Path) -> tuple[Session, Any]:
    """Build a job's artifact and open it; return the session and its input."""
    folder.mkdir()
    backend, target = BACKENDS.get(bench.backend), TARGETS.get(bench.target)
    rows = np.concatenate(job.inputs)
    one_each = len(rows) == len(job.inputs)  # a layer that sees several rows an item has no calibration items
    items = Split((rows,), np.zeros(len(rows)), tuple(map(str, range(len(rows))))) if one_each else None
    example = (job.inputs[0],)
    network = copy.deepcopy(job.network).eval()
    backend.build(Prepared(network, Plan(job.scheme), example, items), folder, bench.threads)
    session = backend.open(folder, target, bench.threads)
    return session, session.feed(example)


def _turn(session: Session, fed: Any, bench: Bench, meter: Callable[[], float], *, each: bool) -> float:
    """Return what one call takes in one turn, after a few that do not count.

    `each` reads the meter after every call and takes the median, which nothing else that gets the processor for a
    moment can move; else two readings hold all calls between them, as a meter that ticks slowly needs it.
    """
    target = TARGETS.get(bench.target)
    calls, spent = 1, 0.0
    while spent < bench.round_s / 4:  # warms up, and finds how many calls make a turn
        start = target.clock()
        for _ in range(calls):
            session.run(fed)
        target.synchronize()
        spent, calls = target.clock() - start, calls * 2
    calls = max(3, int(bench.round_s * (calls / 2) / spent))
    target.synchronize()
    readings = [meter()]
    for _ in range(calls):
        session.run(fed)
        if each:
            target.synchronize()
            readings.append(meter())
    if each:
        return statistics.median(after - before for before, after in itertools.pairwise(readings))
    target.synchronize()
    return (meter() - readings[0]) / calls


@contextmanager
def _no_collector() -> Iterator[None]:
    """Let the garbage collector wait."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()

"""The energy of every arm that was timed: measured in a process of its own, alone on the machine, where a meter is."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quantkit.catalog import TARGETS
from quantkit.contracts import Session, Target
from quantkit.energy import meter, procedure
from quantkit.energy.simulated import SimulatedMeter
from quantkit.errors import QuantizationError, StorageError, Unsupported
from quantkit.pipeline.arm import Arm
from quantkit.pipeline.inside import opened
from quantkit.pipeline.settings import Settings
from quantkit.pipeline.trial import timed_inputs
from quantkit.records import Case

if TYPE_CHECKING:
    from quantkit.pipeline.execute import Run

WARM_UP = 20  # calls


def meter_of(target: Target) -> meter.Meter:
    """Return the meter of a target.

    Raises:
        Unsupported: there is none here; the message has the reason.
    """
    if not target.simulated:
        return meter.find(target.name)
    power = getattr(target, "power", None)
    if not power:
        raise Unsupported("the simulated target's script tells no power")
    return SimulatedMeter(target.clock, target.busy, **power)  # type: ignore[attr-defined]


def metered(target: str) -> str:
    """Return the name of the meter that a target has here, or nothing: it is a part of a result's key."""
    plugin = TARGETS.get(target)
    try:
        return "told" if plugin.simulated else meter.find(target).name
    except Unsupported:
        return ""


def measure_energy(arms: list[Arm], run: Run) -> None:
    """Measure every arm that was timed, alone on the machine; one without a number gets the reason and goes on."""
    for arm in arms:
        if arm.untimed or arm.ended is not None or arm.built is None or arm.answered is None:
            continue
        try:
            if not TARGETS.get(arm.case.target).simulated:
                meter.find(arm.case.target)  # no process is started for nothing
            folders = (arm.built.folder, arm.answered.folder)
            value = run.crew.call(
                "energy", arm.case.backend, arm.case, *folders, run.settings, limits=run.settings.limits
            )
            arm.energy = value["energy"]
            joules = arm.energy.joules[procedure.TOTAL]
            run.say(f"energy    {arm.case.id}: {sum(joules) / len(joules):.3g} J per inference by {arm.energy.meter}")
        except StorageError:
            raise
        except QuantizationError as error:
            arm.no_energy = str(error)


def energy(case: Case, folder: Path, kept: Path, settings: Settings) -> dict[str, Any]:
    """Open the artifact, warm up, measure; runs in the case's own process, which has imported the runtime alone."""
    started = time.perf_counter()
    session, target = opened(case, folder, settings)
    work = worker(session, target, [session.feed(item) for item in timed_inputs(kept)])
    work(WARM_UP)
    stand = procedure.Stand(meter_of(target), target.clock, getattr(target, "wait", time.sleep))
    found = procedure.measure(work, stand)
    session.close()
    return {"energy": found, "elapsed_s": time.perf_counter() - started}


def worker(session: Session, target: Target, fed: list[Any]) -> Callable[[int], None]:
    """Return a function that does so many inferences and returns when the target has done them."""

    def work(count: int) -> None:
        for i in range(count):
            session.run(fed[i % len(fed)])
        target.synchronize()

    return work

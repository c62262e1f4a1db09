"""One case on its way through the pipeline."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from quantkit.energy.procedure import Energy
from quantkit.errors import QuantizationError
from quantkit.pipeline.cache import Entry
from quantkit.records import Case
from quantkit.state import Snapshot


@dataclass
class Arm:
    """What has been made of a case so far, or why it ended.

    Args:
        built: the artifact; its facts are the build report and the seconds of the build.
        answered: outputs and outcomes over the evaluation items.
        trials: one timed process a round.
        reruns: how many rounds of its race were run again because they were disturbed.
        machine: the machine's state when the race began.
        noise_floor: what `quantkit selftest noise` found on this machine; None where it was not run.
        untimed: why there will be none.
        energy: of one inference, where a meter is; else `no_energy` says why there is none.
    """

    case: Case
    built: Entry | None = None
    answered: Entry | None = None
    trials: list[dict[str, Any]] = field(default_factory=list)
    reruns: int = 0
    machine: Snapshot | None = None
    noise_floor: float | None = None
    ended: QuantizationError | None = None
    untimed: str = ""
    energy: Energy | None = None
    no_energy: str = ""

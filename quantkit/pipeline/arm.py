"""One case on its way through the pipeline."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from quantkit.errors import QuantizationError
from quantkit.pipeline.cache import Entry
from quantkit.records import Case


@dataclass
class Arm:
    """What has been made of a case so far, or why it ended.

    Args:
        built: the artifact; its facts are the build report and the seconds of the build.
        answered: outputs and outcomes over the evaluation items.
        trials: one timed process a round.
        untimed: why there will be none.
    """

    case: Case
    built: Entry | None = None
    answered: Entry | None = None
    trials: list[dict[str, Any]] = field(default_factory=list)
    ended: QuantizationError | None = None
    untimed: str = ""

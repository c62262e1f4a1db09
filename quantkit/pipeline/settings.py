"""How much is measured: the three profiles, and where files are kept."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from quantkit.contracts import Method, Profile
from quantkit.environment import memory_bytes
from quantkit.errors import InvalidSetting, UnknownName
from quantkit.files import cache_folder as cache_folder  # known by this name to all who measure
from quantkit.pipeline.isolate import Limits

PROFILES: tuple[Profile, ...] = ("fast", "regular", "full")


def results_file() -> Path:
    """Return where results are kept: QUANTKIT_RESULTS, or .quantkit/results.db in the working directory."""
    return Path(os.environ.get("QUANTKIT_RESULTS") or ".quantkit/results.db").expanduser().absolute()


@dataclass(frozen=True)
class Settings:
    """One run's knobs. All but the limits and `reruns` are part of a result's key, the profile by the items it takes.

    Args:
        items: evaluation items; None takes all of the data set.
        few_items: where `items` is None, take each data set's own small number instead (the profile `fast` does).
        calibration: items that static ranges come from.
        rounds: fresh processes per case: at least 2, since an interval needs them, or 0 for no timing at all.
        reruns: how many rounds of one race may be run again because something disturbed the machine.
        round_s: seconds of timed calls in each process, after `warmup_s` seconds that are thrown away.
        threads: threads of one session.
    """

    profile: Profile = "fast"
    items: int | None = None
    few_items: bool = False
    calibration: int = 256
    rounds: int = 7
    reruns: int = 3
    round_s: float = 0.15
    warmup_s: float = 0.05
    most_calls: int = 200
    threads: int = 1
    seed: int = 0
    time_limit_s: float = 600.0
    memory_limit_bytes: int = 0

    def __post_init__(self) -> None:
        """Refuse numbers that make no sense, before anything runs.

        Raises:
            InvalidSetting: what, got, expected.
        """
        least = {"items": 1, "calibration": 1, "rounds": 2 if self.rounds else 0, "threads": 1, "reruns": 0}
        for name, smallest in least.items():
            value = getattr(self, name)
            if value is not None and value < smallest:
                raise InvalidSetting(f"--{name} must be at least {smallest}: got {value}")
        if not 0 < self.time_limit_s < float("inf"):
            raise InvalidSetting(f"--time-limit must be a positive number of seconds: got {self.time_limit_s}")
        if self.memory_limit_bytes < 0:
            raise InvalidSetting("--memory-limit must be a positive number of GiB")

    @classmethod
    def of(cls, profile: str, **changes: Any) -> Settings:
        """Return a profile's settings, with those changes that are not None.

        Raises:
            UnknownName: no such profile.
        """
        known = {
            "fast": cls(few_items=True),
            "regular": cls("regular", calibration=512, rounds=11, reruns=5, round_s=0.5),
            "full": cls("full", calibration=1_000, rounds=21, reruns=10, round_s=1.0),
        }
        if profile not in known:
            raise UnknownName(f"no profile named '{profile}'. Known: {', '.join(known)}")
        return replace(known[profile], **{name: value for name, value in changes.items() if value is not None})

    @staticmethod
    def bytes_of(gib: float | None) -> int | None:
        """Return a memory limit given in GiB as bytes; None stays None.

        Raises:
            InvalidSetting: not a positive number.
        """
        if gib is None:
            return None
        if not 0 < gib < float("inf"):
            raise InvalidSetting(f"--memory-limit must be a positive number of GiB: got {gib}")
        return int(gib * 2**30)

    def items_for(self, method: Method) -> int:
        """Return how many calibration items a method is given: those of the settings, more where it asks for more."""
        return max(self.calibration, getattr(method, "calibration_items", 0))

    @property
    def limits(self) -> Limits:
        """Return what one process may take; by default 80 % of the machine's memory."""
        return Limits(self.time_limit_s, self.memory_limit_bytes or int(0.8 * memory_bytes()))

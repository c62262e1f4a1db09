"""How much is measured: the three profiles, and where files are kept."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from quantkit.contracts import Profile
from quantkit.environment import memory_bytes
from quantkit.errors import UnknownName
from quantkit.pipeline.isolate import Limits

PROFILES: tuple[Profile, ...] = ("fast", "regular", "full")


def cache_folder() -> Path:
    """Return where artifacts, compiler caches and fetched wheels are kept: QUANTKIT_HOME or ~/.cache/quantkit."""
    return Path(os.environ.get("QUANTKIT_HOME") or Path.home() / ".cache" / "quantkit").expanduser().absolute()


def results_file() -> Path:
    """Return where results are kept: QUANTKIT_RESULTS, or .quantkit/results.db in the working directory."""
    return Path(os.environ.get("QUANTKIT_RESULTS") or ".quantkit/results.db").expanduser().absolute()


@dataclass(frozen=True)
class Settings:
    """One run's knobs; all of them are part of a result's key.

    Args:
        items: evaluation items; None takes all of the data set (the profile `fast` takes the data set's own number).
        calibration: items that static ranges come from.
        rounds: fresh processes per case.
        round_s: seconds of timed calls in each process, after `warmup_s` seconds that are thrown away.
        threads: threads of one session.
    """

    profile: Profile = "fast"
    items: int | None = None
    calibration: int = 256
    rounds: int = 7
    round_s: float = 0.15
    warmup_s: float = 0.05
    most_calls: int = 200
    threads: int = 1
    seed: int = 0
    time_limit_s: float = 600.0
    memory_limit_bytes: int = 0

    @classmethod
    def of(cls, profile: str, **changes: Any) -> Settings:
        """Return a profile's settings, with those changes that are not None.

        Raises:
            UnknownName: no such profile.
        """
        known = {
            "fast": cls(),
            "regular": cls("regular", calibration=512, rounds=11, round_s=0.5),
            "full": cls("full", calibration=1_000, rounds=21, round_s=1.0),
        }
        if profile not in known:
            raise UnknownName(f"no profile named '{profile}'. Known: {', '.join(known)}")
        return replace(known[profile], **{name: value for name, value in changes.items() if value is not None})

    @property
    def limits(self) -> Limits:
        """Return what one process may take; by default 80 % of the machine's memory."""
        return Limits(self.time_limit_s, self.memory_limit_bytes or int(0.8 * memory_bytes()))

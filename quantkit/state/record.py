"""One look at the machine and this process: clocks, work of all processes, swap, frequency, heat, power, priority.

A snapshot is plain data (JSON in and out). What the system does not tell is None, never 0. Counters only grow: two
snapshots are compared by `quantkit.state.disturbances`.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal

from quantkit.state import linux, macos

Power = Literal["mains", "battery", "ups"]
Pressure = Literal["nominal", "fair", "serious", "critical"]

THREADS = (
    "OMP_NUM_THREADS", "OMP_WAIT_POLICY", "OMP_PROC_BIND", "OMP_PLACES", "GOMP_CPU_AFFINITY", "KMP_AFFINITY",
    "KMP_BLOCKTIME", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS", "NUMEXPR_NUM_THREADS",
    "TBB_NUM_THREADS",
)  # fmt: skip


@dataclass(frozen=True)
class Snapshot:
    """The state at one moment. Seconds, bytes and hertz; counters count since the machine started.

    Args:
        monotonic_s: the clock that nobody sets.
        wall_s: seconds since 1970 by the clock that can be set.
        busy_s: processor seconds that all processes have used on the cores that this process may use.
        stolen_s: processor seconds that the hypervisor gave to other machines, on the same cores.
        cores: how many cores those are.
        tick_s: the step in which `busy_s` and `stolen_s` are counted.
        load: processes that ran or wanted to, mean of the last minute.
        swap_in_bytes, swap_out_bytes: memory moved from and to the disk, counters.
        swap_used_bytes: memory that is on the disk now.
        frequency_hz: current frequency, mean of the cores.
        throttles: how often the processor slowed itself down because of heat, a counter.
        speed_limit: share of its speed that the system allows the processor (1.0 = all).
        thermal_pressure: what the system says of its heat (macOS).
        low_power: whether the low-power mode is on.
        affinity: numbers of the cores that this process may use.
        nice: 0 is normal, 19 gives way to everybody.
        qos: quality-of-service class of this thread (macOS), e.g. `default`, `background`.
        threads: environment variables that decide about threads, where they are set.
    """

    monotonic_s: float
    wall_s: float
    busy_s: float | None = None
    stolen_s: float | None = None
    cores: int | None = None
    tick_s: float | None = None
    load: float | None = None
    swap_in_bytes: int | None = None
    swap_out_bytes: int | None = None
    swap_used_bytes: int | None = None
    frequency_hz: float | None = None
    throttles: int | None = None
    speed_limit: float | None = None
    thermal_pressure: Pressure | None = None
    power_source: Power | None = None
    low_power: bool | None = None
    affinity: tuple[int, ...] | None = None
    nice: int | None = None
    qos: str | None = None
    threads: Mapping[str, str] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain data for JSON, what is not known left out; `from_dict` gives back an equal snapshot."""
        known = {name: value for name, value in asdict(self).items() if value is not None}
        return known | ({} if self.affinity is None else {"affinity": list(self.affinity)})

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Snapshot:
        """Return the snapshot that `as_dict` gave.

        Raises:
            ValueError: it is not one: the clocks are missing, or there are fields that a snapshot does not have.
        """
        known = {one.name for one in fields(cls)}
        if not {"monotonic_s", "wall_s"} <= set(raw) <= known:
            wrong = sorted(set(raw) - known) or "no clocks"
            raise ValueError(f"not a snapshot of this version: got {wrong}, expected some of {sorted(known)}")
        affinity = raw.get("affinity")
        return cls(**{**raw, "affinity": None if affinity is None else tuple(affinity)})

    def to_json(self) -> str:
        """Return it as JSON; `from_json` gives back an equal snapshot."""
        return json.dumps(self.as_dict(), sort_keys=True, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> Snapshot:
        """Return the snapshot that `to_json` wrote.

        Raises:
            ValueError: it is not one.
        """
        raw = json.loads(text)
        if not isinstance(raw, dict):
            raise ValueError(f"not a snapshot: got {type(raw).__name__}, expected an object")
        return cls.from_dict(raw)


def snapshot(*, slow: bool = True) -> Snapshot:
    """Return the state now; well under 5 ms on Linux.

    Args:
        slow: also ask what takes a process of its own to ask (macOS: `pmset`, `vm_stat`; about 50 ms in all).
    """
    told = linux.read() if sys.platform.startswith("linux") else macos.read(slow) if sys.platform == "darwin" else {}
    threads = {name: os.environ[name] for name in THREADS if name in os.environ}
    common = {"load": os.getloadavg()[0], "nice": os.getpriority(os.PRIO_PROCESS, 0), "threads": threads}
    # The clocks last: what was read above belongs to the time before them.
    return Snapshot(**{**common, **told, "monotonic_s": time.monotonic(), "wall_s": time.time()})


def own_processor_s() -> float:
    """Return the processor seconds of this process, all its threads, and its children that have ended."""
    usages = (resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)

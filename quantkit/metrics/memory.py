"""Memory of the case's own process, which has imported the runtime and nothing else: all, and what the model added."""

from collections.abc import Sequence

from quantkit.contracts import Observation, Trial
from quantkit.records import Measurement
from quantkit.units import Unit

NOT_TOLD = "this system does not tell a process's own memory (Linux: /proc/self/smaps_rollup; macOS: its footprint)"
NO_DRIVER = "the target has no memory of its own, or no framework of this process counts it"


class MemoryMetric:
    """The peak as the system counts it, then what this model added, pages that other processes share left out.

    A process's own memory is its private pages on Linux (USS) and its physical footprint on macOS; `state/memory.py`
    says how its peak is known.
    """

    name = "memory"
    title = "peak memory"

    def measure(self, observation: Observation) -> Sequence[Measurement]:
        """Return, in bytes, one value a process: all but the first and the last are above the idle runtime.

        `peak_memory`: largest resident memory, the runtime and shared libraries included. `model_memory`: largest own
        memory. `load_memory`: own memory after the load. `steady_memory`: own memory after all calls.
        `driver_memory`: what the driver of a GPU held for this process.
        """
        trials = observation.trials
        reason = observation.untimed or "no process of this case was timed"
        return [
            _one("peak_memory", [float(t.peak_bytes) for t in trials], reason),
            _one("model_memory", [_peak_above_idle(t) for t in trials], reason if not trials else NOT_TOLD),
            _one("load_memory", [_above_idle(t, "loaded") for t in trials], reason if not trials else NOT_TOLD),
            _one("steady_memory", [_above_idle(t, "steady") for t in trials], reason if not trials else NOT_TOLD),
            _one("driver_memory", [_driver(t) for t in trials], reason if not trials else NO_DRIVER),
        ]


def _one(name: str, values: Sequence[float | None], reason: str) -> Measurement:
    known = tuple(value for value in values if value is not None)
    if not known or len(known) < len(values):
        return Measurement.unavailable(name, Unit.BYTE, "lower", reason)
    return Measurement(name, Unit.BYTE, "lower", known)


def _own(trial: Trial, phase: str, name: str = "own_bytes") -> int | None:
    return trial.memory.get(phase, {}).get(name)


def _above_idle(trial: Trial, phase: str) -> float | None:
    """Return what was added between the idle runtime and a phase; less than nothing where something was freed."""
    held, idle = _own(trial, phase), _own(trial, "idle")
    return None if held is None or idle is None else float(held - idle)


def _peak_above_idle(trial: Trial) -> float | None:
    """Return the largest of what was added; of the resident memory where the system tells no own one."""
    peaks = [_own(trial, phase, "own_peak_bytes") for phase in ("loaded", "steady")]
    known, idle = [peak for peak in peaks if peak is not None], _own(trial, "idle")
    if not known or idle is None:
        return float(trial.peak_bytes - trial.idle_bytes)
    return float(max(known) - idle)


def _driver(trial: Trial) -> float | None:
    found = [_own(trial, phase, "driver_bytes") for phase in ("loaded", "steady")]
    known = [value for value in found if value is not None]
    return float(max(known)) if known else None


plugin = MemoryMetric()

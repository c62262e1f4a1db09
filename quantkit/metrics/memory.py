"""Memory: the peak of the case's own process, which has imported the runtime and nothing else."""

from collections.abc import Sequence

from quantkit.contracts import Observation
from quantkit.records import Measurement
from quantkit.units import Unit


class MemoryMetric:
    """Whole peak, and the part above the idle runtime: what loading and running this model added."""

    name = "memory"
    title = "peak memory"

    def measure(self, observation: Observation) -> Sequence[Measurement]:
        """Return `peak_memory` and `model_memory` (peak minus idle), bytes, one value a process."""
        names = ("peak_memory", "model_memory")
        if not observation.trials:
            reason = observation.untimed or "no process of this case was timed"
            return [Measurement.unavailable(n, Unit.BYTE, "lower", reason) for n in names]
        peaks = tuple(float(t.peak_bytes) for t in observation.trials)
        added = tuple(float(t.peak_bytes - t.idle_bytes) for t in observation.trials)
        return [Measurement(n, Unit.BYTE, "lower", v) for n, v in zip(names, (peaks, added), strict=True)]


plugin = MemoryMetric()

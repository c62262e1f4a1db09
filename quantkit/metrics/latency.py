"""Latency of one call and throughput, from every fresh process; percentiles are computed on reading."""

from collections.abc import Sequence

from quantkit.contracts import Observation
from quantkit.records import Measurement
from quantkit.units import Unit


class LatencyMetric:
    """All timed calls in the order taken, and items per second of each process."""

    name = "latency"
    title = "latency and throughput"

    def measure(self, observation: Observation) -> Sequence[Measurement]:
        """Return `latency` (seconds per call) and `throughput` (calls of one item per second, one value a process)."""
        calls = tuple(value for trial in observation.trials for value in trial.latencies_s)
        rates = tuple(len(t.latencies_s) / sum(t.latencies_s) for t in observation.trials if sum(t.latencies_s) > 0)
        if not rates:
            reason = observation.untimed or "no timed call: every process of this case failed"
            return [
                Measurement.unavailable("latency", Unit.SECOND, "lower", reason),
                Measurement.unavailable("throughput", Unit.PER_SECOND, "higher", reason),
            ]
        return [
            Measurement("latency", Unit.SECOND, "lower", calls),
            Measurement("throughput", Unit.PER_SECOND, "higher", rates),
        ]


plugin = LatencyMetric()

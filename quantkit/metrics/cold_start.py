"""Cold start, split: load, compile, first call. One value per fresh process; never part of the steady clock."""

from collections.abc import Sequence

from quantkit.contracts import Observation
from quantkit.records import Measurement
from quantkit.units import Unit


class ColdStartMetric:
    """Compile time ahead of the load (measured once, at the build) stands apart from compile time at the load."""

    name = "cold_start"
    title = "cold start"

    def measure(self, observation: Observation) -> Sequence[Measurement]:
        """Return `load`, `compile`, `first_call` of each process and `build` of the artifact, seconds."""
        reason = observation.untimed or "no process of this case reached its first call"
        parts = {
            "load": tuple(t.load_s for t in observation.trials),
            "compile": tuple(t.compile_s for t in observation.trials),
            "first_call": tuple(t.first_call_s for t in observation.trials),
            "build": (observation.build.compile_s,),
        }
        return [
            Measurement(name, Unit.SECOND, "lower", values)
            if values
            else Measurement.unavailable(name, Unit.SECOND, "lower", reason)
            for name, values in parts.items()
        ]


plugin = ColdStartMetric()

"""Energy: joules of one inference above idle, of the whole and of each part that the machine's counter tells apart."""

from collections.abc import Sequence

from quantkit.contracts import Observation
from quantkit.records import Measurement
from quantkit.units import Unit


class EnergyMetric:
    """One value a repeat, each a mean over as many inferences as the counter needed."""

    name = "energy"
    title = "energy"

    def measure(self, observation: Observation) -> Sequence[Measurement]:
        """Return `energy` and, where a meter is, `energy_cpu`, `energy_ane` ..., joules per inference."""
        found = observation.energy
        if found is None:
            reason = observation.no_energy or observation.untimed or "not measured"
            return [Measurement.unavailable("energy", Unit.JOULE, "lower", reason)]
        return [
            *(Measurement(_name(part), Unit.JOULE, "lower", values) for part, values in found.joules.items()),
            *(Measurement.unavailable(_name(p), Unit.JOULE, "lower", why) for p, why in found.reasons.items()),
        ]


def _name(part: str) -> str:
    return "energy" if part == "total" else f"energy_{part}"


plugin = EnergyMetric()

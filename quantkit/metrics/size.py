"""Size: all files of the artifact, and the bits that one weight takes in it, scales included."""

from collections.abc import Sequence

from quantkit.contracts import Observation
from quantkit.records import Measurement
from quantkit.units import Unit


class SizeMetric:
    """Artifact bytes hold program and weights; bits per weight is about the weights alone."""

    name = "size"
    title = "size"

    def measure(self, observation: Observation) -> Sequence[Measurement]:
        """Return `artifact_size` (bytes) and `bits_per_weight` (all stored weight bytes over all weights)."""
        weights = sum(layer.weights for layer in observation.build.layers)
        size = Measurement("artifact_size", Unit.BYTE, "lower", (float(observation.artifact_bytes),))
        if not weights:
            reason = "the backend reports no layer with weights"
            return [size, Measurement.unavailable("bits_per_weight", Unit.BIT, "lower", reason)]
        bits = 8 * observation.build.weight_bytes / weights
        return [size, Measurement("bits_per_weight", Unit.BIT, "lower", (bits,))]


plugin = SizeMetric()

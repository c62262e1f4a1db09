"""Coverage: the share of weights that are really stored as integer codes, read from the finished artifact."""

from collections.abc import Sequence

from quantkit.contracts import Observation
from quantkit.records import Measurement
from quantkit.units import Unit


class CoverageMetric:
    """What a toolchain silently left in float shows here; the result's context has the layers' names."""

    name = "coverage"
    title = "quantized-weight coverage"

    def measure(self, observation: Observation) -> Sequence[Measurement]:
        """Return `coverage`, 0..1."""
        layers = observation.build.layers
        total = sum(layer.weights for layer in layers)
        if not total:
            reason = "the backend reports no layer with weights"
            return [Measurement.unavailable("coverage", Unit.SHARE, "higher", reason)]
        quantized = sum(layer.weights for layer in layers if layer.bits <= 8)
        return [Measurement("coverage", Unit.SHARE, "higher", (quantized / total,))]


plugin = CoverageMetric()

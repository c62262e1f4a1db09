"""Quality: the mean of one outcome per item, on the artifact itself and on real evaluation data."""

from collections.abc import Sequence

from quantkit.contracts import Observation
from quantkit.records import Measurement
from quantkit.units import Unit


class QualityMetric:
    """Keeps every item's outcome, so that two cases can be compared item by item."""

    name = "quality"
    title = "quality"

    def measure(self, observation: Observation) -> Sequence[Measurement]:
        """Return the outcomes under the name of the model's own quality."""
        quality = observation.model.quality
        if observation.outcomes is None:
            reason = "random weights: only fidelity to the baseline says anything"
            return [Measurement.unavailable("quality", Unit.SHARE, quality.better, reason)]
        unit = Unit.SHARE if quality.outcome == "binary" else Unit.NAT
        return [Measurement("quality", unit, quality.better, tuple(float(v) for v in observation.outcomes))]


plugin = QualityMetric()

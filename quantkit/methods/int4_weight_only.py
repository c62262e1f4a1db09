"""Weight-only int4: neighbouring groups of 32 weights share a scale; activations stay in floating point."""

from quantkit.contracts import Arrays, ModelInfo, Plan, Prepared, Split
from quantkit.scheme import PerGroup, Scheme


class WeightOnlyInt4:
    """weight-only int4, groups of 32."""

    name = "int4_weight_only"
    title = "weight-only int4, groups of 32"
    baseline = False
    scheme = Scheme(bits=4, granularity=PerGroup(32))
    needs_calibration = False
    profiles = ("fast", "regular", "full")

    def unsupported(self, model: ModelInfo) -> str | None:
        """No model is refused here; what a toolchain cannot quantize, the backend says."""
        return None

    def prepare(self, network, example: Arrays, calibration: Split | None) -> Prepared:
        """Return the network with one scheme for every layer."""
        return Prepared(network, Plan(self.scheme), example, calibration)


plugin = WeightOnlyInt4()

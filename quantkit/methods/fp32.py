"""Full precision: the reference that every other method is compared with."""

from quantkit.contracts import Arrays, ModelInfo, Plan, Prepared, Split
from quantkit.scheme import Scheme


class FullPrecision:
    """Leaves every weight in float32."""

    name = "fp32"
    title = "full precision"
    baseline = True
    scheme = Scheme(bits=32, format="fp32")
    needs_calibration = False
    profiles = ("fast", "regular", "full")

    def unsupported(self, model: ModelInfo) -> str | None:
        """Every model has its full precision."""
        return None

    def prepare(self, network, example: Arrays, calibration: Split | None) -> Prepared:
        """Return the network as it is."""
        return Prepared(network, Plan(self.scheme), example)


plugin = FullPrecision()

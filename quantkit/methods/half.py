"""16-bit weights and activations; a backend whose hardware or runtime prefers float16 takes that and says so."""

from quantkit.contracts import Arrays, ModelInfo, Plan, Prepared, Split
from quantkit.scheme import Scheme


class HalfPrecision:
    """16-bit floating point."""

    name = "half"
    title = "16-bit floating point"
    baseline = False
    scheme = Scheme(bits=16, format="bf16")
    needs_calibration = False
    profiles = ("fast", "regular", "full")

    def unsupported(self, model: ModelInfo) -> str | None:
        """No model is refused here; what a toolchain cannot quantize, the backend says."""
        return None

    def prepare(self, network, example: Arrays, calibration: Split | None) -> Prepared:
        """Return the network with one scheme for every layer."""
        return Prepared(network, Plan(self.scheme), example, calibration)


plugin = HalfPrecision()

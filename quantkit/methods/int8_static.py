"""Static int8: weights per output channel, activations by ranges from calibration (Jacob et al. 2018, arXiv:1712.05877)."""

from quantkit.contracts import Arrays, ModelInfo, Plan, Prepared, Split
from quantkit.scheme import Scheme


class StaticInt8:
    """static int8, per channel."""

    name = "int8_static"
    title = "static int8, per channel"
    baseline = False
    scheme = Scheme(bits=8, activations="static")
    needs_calibration = True
    profiles = ("fast", "regular", "full")

    def unsupported(self, model: ModelInfo) -> str | None:
        """No model is refused here; what a toolchain cannot quantize, the backend says."""
        return None

    def prepare(self, network, example: Arrays, calibration: Split | None) -> Prepared:
        """Return the network with one scheme for every layer."""
        return Prepared(network, Plan(self.scheme), example, calibration)


plugin = StaticInt8()

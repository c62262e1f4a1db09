"""Static int8 with one scale for a whole weight tensor: the coarsest and most portable form."""

from quantkit.contracts import Arrays, ModelInfo, Plan, Prepared, Split
from quantkit.scheme import PerTensor, Scheme


class StaticInt8PerTensor:
    """static int8, per tensor."""

    name = "int8_static_per_tensor"
    title = "static int8, per tensor"
    baseline = False
    scheme = Scheme(bits=8, granularity=PerTensor(), activations="static")
    needs_calibration = True
    profiles = ("fast", "regular", "full")

    def unsupported(self, model: ModelInfo) -> str | None:
        """No model is refused here; what a toolchain cannot quantize, the backend says."""
        return None

    def prepare(self, network, example: Arrays, calibration: Split | None) -> Prepared:
        """Return the network with one scheme for every layer."""
        return Prepared(network, Plan(self.scheme), example, calibration)


plugin = StaticInt8PerTensor()

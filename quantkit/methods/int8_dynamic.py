"""Dynamic int8: weights per output channel, activation ranges taken anew at every call. Needs no calibration."""

from quantkit.contracts import Arrays, ModelInfo, Plan, Prepared, Split
from quantkit.scheme import Scheme


class DynamicInt8:
    """dynamic int8."""

    name = "int8_dynamic"
    title = "dynamic int8"
    baseline = False
    scheme = Scheme(bits=8, activations="dynamic")
    needs_calibration = False
    profiles = ("fast", "regular", "full")

    def unsupported(self, model: ModelInfo) -> str | None:
        """No model is refused here; what a toolchain cannot quantize, the backend says."""
        return None

    def prepare(self, network, example: Arrays, calibration: Split | None) -> Prepared:
        """Return the network with one scheme for every layer."""
        return Prepared(network, Plan(self.scheme), example, calibration)


plugin = DynamicInt8()

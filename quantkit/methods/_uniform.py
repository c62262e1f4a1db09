"""The simplest procedure: one scheme for every layer; the toolchain's own quantizer does the arithmetic."""

from dataclasses import dataclass

from quantkit.contracts import Arrays, ModelInfo, Plan, Prepared, Profile, Split
from quantkit.scheme import Scheme


@dataclass(frozen=True)
class Uniform:
    """A method that is fully described by its scheme (satisfies `contracts.Method`)."""

    name: str
    title: str
    scheme: Scheme
    baseline: bool = False
    profiles: tuple[Profile, ...] = ("fast", "regular", "full")

    @property
    def needs_calibration(self) -> bool:
        """Static activation ranges and GPTQ's error feedback come from calibration data."""
        return self.scheme.activations == "static" or self.scheme.codes == "gptq"

    def unsupported(self, model: ModelInfo) -> str | None:
        """Refuse no model: what a toolchain cannot quantize, its backend says."""
        return None

    def prepare(self, network, example: Arrays, calibration: Split | None) -> Prepared:
        """Return the network as it is, with one scheme for every layer."""
        return Prepared(network, Plan(self.scheme), example, calibration)

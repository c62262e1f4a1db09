"""Methods that put weights on a 4-bit grid and let an 8-bit runtime compute with them: what W4A8 loses, executed.

No runtime here has depthwise convolutions with 4-bit weights and 8-bit activations. 4-bit codes times 127/7 are 8-bit
codes but for a rounding of 1/36 of a 4-bit step, so int8 kernels give W4A8's answers. Nothing gets smaller by this; it
is for a measurement, and its plug-ins lie in scripts/plugins (QUANTKIT_PLUGINS).
"""

from dataclasses import dataclass

from quantkit.contracts import Plan, Prepared
from quantkit.methods._rewritten import Rewritten, Step
from quantkit.scheme import PerTensor, Scheme

W4A8 = Scheme(4, granularity=PerTensor(), activations="static")
CARRIED = Scheme(8, granularity=PerTensor(), activations="static")


@dataclass(frozen=True)
class OnGrid(Rewritten):
    """The rewrites of a method for W4A8, one scale a weight tensor; its codes are carried by int8."""

    def prepare(self, network, example, calibration) -> Prepared:
        from quantkit.procedures import graph, layers

        found = Rewritten(self.name, self.title, W4A8, steps=self.steps).prepare(network, example, calibration)
        folded = graph.folded(found.network, example)
        rounded = layers.simulated(folded, Plan(Scheme(4, granularity=PerTensor())))
        return Prepared(rounded, Plan(CARRIED), example, calibration)


def method(name: str, title: str, *steps: Step) -> OnGrid:
    """Return a method of these rewrites; the toolchain is told W8A8 per tensor."""
    return OnGrid(name, f"4-bit weight grid in int8, per tensor, {title}", CARRIED, profiles=(), steps=steps)

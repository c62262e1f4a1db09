"""A scheme for every layer, after the network was rewritten so that rounding costs it less."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from quantkit.contracts import Arrays, ModelInfo, Plan, Prepared, Split
from quantkit.errors import CalibrationError
from quantkit.methods._uniform import Uniform

Step = Literal["equalize", "correct", "smooth", "awq"]


@dataclass(frozen=True)
class Rewritten(Uniform):
    """A method of one scheme with rewrites before it, in order (satisfies `contracts.Method`).

    What a network must have is only known from its graph: `prepare` raises Unsupported where a rewrite finds nothing.
    """

    steps: tuple[Step, ...] = ()

    @property
    def needs_calibration(self) -> bool:
        """Every rewrite looks at activations."""
        return True

    def unsupported(self, model: ModelInfo) -> str | None:
        """Refuse models by what their layers cannot have; a network without a place for a rewrite is refused later."""
        if model.stepwise:
            return f"{self.name} calibrates on whole items; {model.name} takes one position at a time"
        if model.family == "rnn":
            return f"{self.name} follows values from layer to layer; {model.name} keeps them inside recurrent layers"
        if "equalize" in self.steps and model.family == "transformer":
            return f"{self.name} needs layers joined by ReLU; between a transformer's layers lie norms and GELU or SiLU"
        if {"smooth", "awq"} & set(self.steps) and model.family != "transformer":
            return f"{self.name} needs layer norms in front of linear layers: {model.name} has none"
        return None

    def prepare(self, network, example: Arrays, calibration: Split | None) -> Prepared:
        """Return a rewritten copy, with one scheme for every layer.

        Raises:
            CalibrationError: no calibration items.
            Unsupported: a rewrite finds no place in this network, or torch.export refuses it.
        """
        if calibration is None or not len(calibration):
            raise CalibrationError(f"{self.name} needs calibration items: got none; add a calibration split")
        for step in self.steps:
            network = self._rewritten(step, network, example, calibration)
        return Prepared(network, Plan(self.scheme), example, calibration)

    def _rewritten(self, step: Step, network, example: Arrays, calibration: Split):
        from quantkit.procedures import awq, bias, equalize, graph, smooth

        if step == "equalize":
            return equalize.equalized(network, example, calibration)
        if step == "correct":
            return bias.corrected(graph.folded(network, example), Plan(self.scheme), calibration)
        if step == "smooth":
            return smooth.smoothed(network, example, calibration, self.scheme)
        return awq.activation_aware(network, example, calibration, self.scheme)

"""Fidelity: how far the outputs are from the original PyTorch network's on the same items, whatever the labels say."""

from collections.abc import Sequence
from typing import Literal

import numpy as np

from quantkit.contracts import Observation
from quantkit.numerics import fidelity
from quantkit.records import Measurement
from quantkit.units import Unit


class FidelityMetric:
    """SQNR, cosine, same top-1 and KL divergence; the last two only where outputs are logits."""

    name = "fidelity"
    title = "fidelity to full precision"

    def measure(self, observation: Observation) -> Sequence[Measurement]:
        """Return the four figures; the baseline's own say what the conversion costs before anything is quantized."""
        reference, outputs = observation.reference, observation.outputs
        measured = [
            _one("sqnr_db", Unit.DECIBEL, "higher", fidelity.sqnr_db(reference, outputs)),
            _one("cosine", Unit.SHARE, "higher", fidelity.cosine(reference, outputs)),
        ]
        if observation.model.logits:
            measured.append(_one("top1_agreement", Unit.SHARE, "higher", fidelity.top1_agreement(reference, outputs)))
            measured.append(_one("kl_divergence", Unit.NAT, "lower", fidelity.kl_divergence(reference, outputs)))
        return measured


def _one(name: str, unit: Unit, better: Literal["lower", "higher"], value: float) -> Measurement:
    if np.isposinf(value):
        return Measurement.unavailable(name, unit, better, "outputs are equal to the original's")
    if np.isneginf(value):
        return Measurement.unavailable(name, unit, better, "the original's outputs are all zero")
    return Measurement(name, unit, better, (float(value),))


plugin = FidelityMetric()

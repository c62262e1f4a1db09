"""Mixed precision: each layer's loss in each width is measured, then widths are chosen within a budget of bytes."""

from __future__ import annotations

import logging
from typing import Any

from quantkit.contracts import Plan
from quantkit.engines.engine import Engine
from quantkit.engines.job import Job
from quantkit.errors import InvalidSetting
from quantkit.pipeline.settings import cache_folder
from quantkit.scheme import PerGroup, Scheme

LOG = logging.getLogger("quantkit")
HALF, STATIC = Scheme(16, "bf16"), Scheme(8, activations="static")
EIGHT, FOUR = Scheme(8), Scheme(4, granularity=PerGroup(32))
CANDIDATES = {8: (HALF, STATIC), 4: (HALF, EIGHT, FOUR)}  # by the fewest bits that a layer may get


class MixedPrecisionEngine(Engine):
    """Gives each layer 16 or 8 bits, or 16, 8 or 4, so that outputs lose least within a budget.

    Args:
        least_bits: 8 (weights and activations in int8, the most sensitive layers in 16 bits) or 4 (weights only).
        bits_per_weight: the budget, scales apart: the mean width; by default an eighth of the way from the narrowest
            width to 16 bits.
        options: those of every engine, see `Engine`.

    Raises:
        InvalidSetting: another width, or a budget outside it and 16.
    """

    name = "mixed"

    def __init__(self, least_bits: int = 8, *, bits_per_weight: float | None = None, **options: Any):
        super().__init__(**options)
        if least_bits not in CANDIDATES:
            raise InvalidSetting(f"least_bits is 8 or 4: got {least_bits!r}")
        wanted = least_bits + (16 - least_bits) / 8 if bits_per_weight is None else bits_per_weight
        if not least_bits <= wanted <= 16:
            raise InvalidSetting(f"bits_per_weight lies between {least_bits} and 16: got {bits_per_weight!r}")
        self.least_bits, self.bits_per_weight = least_bits, wanted

    def method(self, job: Job, framework: str, target: str = "cpu") -> tuple[str, dict[str, Any]]:
        """Decide the plan; return the method of the result, and which layer got what.

        Raises:
            Unsupported: no layer's widths can be simulated.
        """
        from quantkit.procedures import mixed

        schemes = CANDIDATES[self.least_bits]
        share = (self.bits_per_weight - self.least_bits) / (16 - self.least_bits)
        recipe = mixed.Recipe(schemes, schemes[1], mixed.Budget(schemes[-1], HALF, share))
        found = mixed.decide(
            job.network, job.items.calibration, recipe, cache=cache_folder() / "sensitivity", say=LOG.info
        )
        units, losses = found.sensitivities.units, found.sensitivities.losses
        facts = {
            "layers": {job.theirs(layer): s.name for layer, s in found.plan.layers.items() if s is not None},
            "transitions": found.assignment.transitions,
            "budget_bytes": found.budget_bytes,
            "planned_bytes": int(found.assignment.cost),
            "sensitivity": {
                job.theirs(unit): {scheme.name: float(loss) for scheme, loss in zip(schemes, row, strict=True)}
                for unit, row in zip(units, losses, strict=True)
            },
        }
        return job.planned("mixed precision", Plan(found.plan.default, found.plan.layers)), facts

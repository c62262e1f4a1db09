"""Mixed precision by bytes: sensitivity on the calibration items, then the best plan within a budget."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from quantkit.contracts import Arrays, ModelInfo, Prepared, Profile, Split
from quantkit.errors import CalibrationError
from quantkit.scheme import Scheme

if TYPE_CHECKING:
    from quantkit.procedures.mixed import Recipe


@dataclass(frozen=True)
class MixedByBytes:
    """A method that gives each layer one of several schemes (satisfies `contracts.Method`).

    Args:
        scheme: the widest quantized one, which also stands for layers that are not measured.
        recipe: returns candidates and budget (it imports PyTorch).
    """

    name: str
    title: str
    scheme: Scheme
    recipe: Callable[[], Recipe]
    baseline: bool = False
    needs_calibration: bool = True
    profiles: tuple[Profile, ...] = ("regular", "full")

    def unsupported(self, model: ModelInfo) -> str | None:
        """Refuse networks that keep a state between calls: sensitivity is measured on whole items."""
        return f"{self.name} measures layers on whole items: {model.name} takes one step" if model.stepwise else None

    def prepare(self, network, example: Arrays, calibration: Split | None) -> Prepared:
        """Return the network with the plan that loses least within the budget.

        Raises:
            CalibrationError: no calibration items.
            BudgetTooSmall: no plan keeps the budget.
        """
        from quantkit.files import cache_folder
        from quantkit.procedures import mixed

        if calibration is None or not len(calibration):
            raise CalibrationError(f"{self.name} measures layers on calibration items: got none")
        found = mixed.decide(network, calibration, self.recipe(), cache=cache_folder() / "sensitivity")
        return Prepared(network, found.plan, example, calibration)

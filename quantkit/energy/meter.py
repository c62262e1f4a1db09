"""What an energy counter is to us, and which one fits a target on this machine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from quantkit.environment import apple_silicon
from quantkit.errors import MissingExtra, Unsupported

COMPONENTS = ("package", "cpu", "gpu", "ane", "dram")
ON_APPLE = ("cpu", "mps", "ane")


class Meter(Protocol):
    """Counters that only grow.

    Attributes:
        name: who counts, e.g. `RAPL`.
        total: those components whose sum is the whole, each joule in it once (a package holds its cores).
        resolution: the smallest step that the counters can show, joules. How often they are brought up to date is
            measured, not believed: `procedure.period`.
    """

    @property
    def name(self) -> str: ...

    @property
    def total(self) -> tuple[str, ...]: ...

    @property
    def resolution(self) -> float: ...

    def counters(self) -> Mapping[str, float]:
        """Return joules since some fixed moment by component, of `COMPONENTS`; one that cannot be read is not in it.

        A counter that starts again at its range is continued, if it is read once in each range at least.
        """
        ...


def find(target: str) -> Meter:
    """Return the meter that counts what a target uses on this machine.

    Raises:
        Unsupported: there is none; the message has the reason and the next step.
    """
    try:
        if apple_silicon():
            from quantkit.energy import apple

            if target not in ON_APPLE:
                raise Unsupported(f"no counter of this machine belongs to target {target}")
            return apple.Apple()
        if target == "cpu":
            from quantkit.energy import rapl

            return rapl.Rapl()
        if target == "cuda":
            from quantkit.energy import nvml

            return nvml.Nvml()
    except MissingExtra as error:
        raise Unsupported(str(error)) from error
    raise Unsupported(f"no counter of this machine belongs to target {target}")

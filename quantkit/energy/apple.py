"""Apple silicon: processor, GPU, Neural Engine and memory, by zeus-apple-silicon, the Apple part of Zeus.

It reads the channel group "Energy Model" of macOS's IOReport without root. Its `get_cumulative_energy()` returns whole
millijoules in fields `*_mj`, None where the chip has no such channel. The values are the system's own estimate from
load, frequency and voltage, no measured current; comparing two models on one Mac is what they are good for.
Written to the interface of version 1.1 as its documentation gives it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from quantkit import extras
from quantkit.errors import Unsupported

FIELDS = {"cpu": ("cpu_total_mj",), "gpu": ("gpu_mj", "gpu_sram_mj"), "ane": ("ane_mj",), "dram": ("dram_mj",)}
MILLI = 1e-3


class Apple:
    """The whole chip (satisfies `meter.Meter`).

    Args:
        monitor: an `AppleEnergyMonitor`; None makes one.
    """

    name = "IOReport (zeus-apple-silicon)"
    resolution = MILLI

    def __init__(self, monitor: Any = None):
        try:
            self._monitor = monitor or extras.require("zeus_apple_silicon").AppleEnergyMonitor()
        except RuntimeError as error:
            raise Unsupported(f"IOReport: zeus-apple-silicon cannot start: {error}") from error
        self.total = tuple(self.counters())
        if not self.total:
            raise Unsupported("IOReport: this chip has none of the channels that zeus-apple-silicon knows: update it")

    def counters(self) -> Mapping[str, float]:
        """Return joules by component."""
        read = self._monitor.get_cumulative_energy()
        found = {name: [getattr(read, field) for field in fields] for name, fields in FIELDS.items()}
        told = {name: [value for value in values if value is not None] for name, values in found.items()}
        return {name: sum(values) * MILLI for name, values in told.items() if values}

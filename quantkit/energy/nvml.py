"""NVIDIA: the energy that whole boards have used, by NVML's counter in millijoules since the driver was loaded.

`nvmlDeviceGetTotalEnergyConsumption` of nvidia-ml-py, NVIDIA's own binding; Volta and later. All boards of the machine
are added up; those that idle are taken off again with the idle power.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from quantkit import extras
from quantkit.errors import Unsupported

MILLI = 1e-3


class Nvml:
    """All boards of this machine (satisfies `meter.Meter`).

    Args:
        library: the module `pynvml`; None imports it.
    """

    name = "NVML"
    total: tuple[str, ...] = ("gpu",)
    resolution = MILLI

    def __init__(self, library: Any = None):
        self._nvml = library or extras.require("pynvml")
        try:
            self._nvml.nvmlInit()
            count = self._nvml.nvmlDeviceGetCount()
            self._boards = [self._nvml.nvmlDeviceGetHandleByIndex(i) for i in range(count)]
            self.counters()
        except self._nvml.NVMLError as error:
            raise Unsupported(f"NVML: {error}") from error
        if not self._boards:
            raise Unsupported("NVML: the driver lists no board")

    def counters(self) -> Mapping[str, float]:
        """Return joules of all boards together."""
        read = self._nvml.nvmlDeviceGetTotalEnergyConsumption
        return {"gpu": sum(read(board) for board in self._boards) * MILLI}

"""A method that breaks on purpose, in the way that TINY_BREAKS names."""

import os
import time

from quantkit.contracts import Plan, Prepared
from quantkit.errors import Unsupported
from quantkit.scheme import Scheme


def refuse():
    raise Unsupported("layer conv1: operation aten.unknown has no lowering; replace it or leave the layer out")


def eat_memory():
    hoard = []
    while True:
        hoard.append(bytearray(64 * 2**20))
        time.sleep(0.01)


BREAKS = {
    "abort": os.abort,
    "kill": lambda: os.kill(os.getpid(), 9),
    "hang": lambda: time.sleep(600),
    "hoard": eat_memory,
    "raise": lambda: {}["missing"],
    "refuse": refuse,
}


class Breaking:
    """int8 weights, if it gets that far."""

    name, title, baseline, needs_calibration, profiles = "breaking", "breaks on purpose", False, False, ()
    scheme = Scheme(bits=8)

    def unsupported(self, model):
        return None

    def prepare(self, network, example, calibration):
        if os.environ.get("TINY_BREAKS") in BREAKS:
            BREAKS[os.environ["TINY_BREAKS"]]()
        return Prepared(network, Plan(self.scheme), example, calibration)


plugin = Breaking()

"""Results as two runs would have left them, for the tests of the gate: every figure is chosen, nothing is measured."""

from dataclasses import replace

from quantkit.records import Measurement
from quantkit.units import Unit
from tests.test_conclude import result

MIB = 2**20
MACHINE = {"id": "m1", "processor": "P", "cores": 2, "versions": {"torch": "2.13.0"}}


def stored(method="int8_static", *, peaks=(100 * MIB,) * 7, size=1_000_000, exact=True, **changes):
    """A result of one run: `exact` has no noise and no drift, as a simulated machine has none."""
    context = {name: changes.pop(name) for name in ("answers", "baseline_key", "item_ids", "model") if name in changes}
    machine = changes.pop("fingerprint", MACHINE)
    if exact:
        reference = changes.get("reference_s", 0.004)
        changes["latencies_s"] = ((changes.get("latency_s", 0.002),) * 5,) * 7
        changes["reference_latencies_s"] = () if method == "fp32" else ((reference,) * 5,) * 7
    made = result(method, fingerprint=machine, **changes)
    made.context.update(context, simulated=exact)
    measurements = dict(made.measurements)
    measurements["latency"] = Measurement(
        "latency", Unit.SECOND, "lower", tuple(v for r in made.latencies_s for v in r)
    )
    measurements["peak_memory"] = Measurement("peak_memory", Unit.BYTE, "lower", tuple(map(float, peaks)))
    measurements["artifact_size"] = Measurement("artifact_size", Unit.BYTE, "lower", (float(size),))
    return replace(made, measurements=measurements)


def two_runs(then=None, now=None, **both):
    """The same case in an older run and in this one, its artifact built anew in between."""
    before = stored(answers="old artifact", **(both | (then or {})))
    return stored(answers="new artifact", **(both | (now or {}))), before

"""Frozen records that are stored: case, measurement, result. JSON in and out, with a schema version."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from quantkit.units import Unit

SCHEMA_VERSION = 2
Status = Literal["ok", "failed", "unsupported", "tainted"]


@dataclass(frozen=True, slots=True, order=True)
class Case:
    """One cell of the matrix.

    >>> Case("fmnist_cnn", "int8_static", "onnxruntime", "cpu").id
    'fmnist_cnn-int8_static-onnxruntime-cpu'
    """

    model: str
    method: str
    backend: str
    target: str

    @property
    def id(self) -> str:
        """The readable id that pytest, tables and logs show."""
        return f"{self.model}-{self.method}-{self.backend}-{self.target}"


@dataclass(frozen=True, slots=True)
class Measurement:
    """Raw values of one quantity, in the order taken; statistics are computed on reading.

    Args:
        values: empty exactly when `reason` says why the number cannot be had.
    """

    metric: str
    unit: Unit
    better: Literal["lower", "higher"]
    values: tuple[float, ...] = ()
    reason: str = ""

    def __post_init__(self) -> None:
        if bool(self.values) == bool(self.reason):
            raise ValueError(
                f"{self.metric} needs either values or a reason: got {len(self.values)} values and {self.reason!r}"
            )

    @classmethod
    def unavailable(cls, metric: str, unit: Unit, better: Literal["lower", "higher"], reason: str) -> Measurement:
        """Return a measurement that says why there is no number."""
        return cls(metric, unit, better, (), reason)


@dataclass(frozen=True)
class Result:
    """All about one case.

    Args:
        status: `tainted` means measured while something disturbed the machine; `reason` says what, in how many rounds.
        measurements: by metric name.
        outcomes: one outcome per evaluation item, in item order.
        latencies_s: seconds of each timed call, one tuple per fresh process, in the order of the rounds.
        reference_latencies_s: the same of the baseline's processes in the same rounds (empty for a baseline).
        sample: outputs at a few places that are the same for every case of the model on the same items.
        context: model, method and artifact facts: scheme, provenance, licence, hashes, layers left in float, notes.
        fingerprint: machine and versions.
        elapsed_s: time inside the model's own building and running, by phase.
    """

    case: Case
    status: Status
    reason: str = ""
    key: str = ""
    created: str = ""
    measurements: dict[str, Measurement] = field(default_factory=dict)
    outcomes: tuple[float, ...] = ()
    latencies_s: tuple[tuple[float, ...], ...] = ()
    reference_latencies_s: tuple[tuple[float, ...], ...] = ()
    sample: tuple[float, ...] = ()
    context: dict[str, Any] = field(default_factory=dict)
    fingerprint: dict[str, Any] = field(default_factory=dict)
    elapsed_s: dict[str, float] = field(default_factory=dict)
    schema: int = SCHEMA_VERSION

    @property
    def measured(self) -> bool:
        """Whether it has figures. Those of a `tainted` result are kept; its speed is not judged, its quality is."""
        return self.status in ("ok", "tainted")

    def to_json(self) -> str:
        """Return the record as JSON; `from_json` gives back an equal one."""
        return json.dumps(asdict(self), sort_keys=True, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> Result:
        """Return the record that `to_json` wrote; schema 1 had no sample of the outputs.

        Raises:
            ValueError: written by another schema version.
        """
        raw = json.loads(text)
        if raw["schema"] not in (1, SCHEMA_VERSION):
            raise ValueError(f"result has schema {raw['schema']}, expected {SCHEMA_VERSION}: measure it again")
        raw["case"] = Case(**raw["case"])
        raw["schema"] = SCHEMA_VERSION
        raw["outcomes"], raw["sample"] = tuple(raw["outcomes"]), tuple(raw.get("sample", ()))
        for name in ("latencies_s", "reference_latencies_s"):
            raw[name] = tuple(tuple(values) for values in raw[name])
        raw["measurements"] = {
            name: Measurement(m["metric"], Unit(m["unit"]), m["better"], tuple(m["values"]), m["reason"])
            for name, m in raw["measurements"].items()
        }
        return cls(**raw)

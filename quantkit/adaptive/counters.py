"""Live counters of a session: read at any time from any thread, as a dictionary, JSON or Prometheus' text."""

from __future__ import annotations

import json
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from quantkit.adaptive.feedback import wilson

LATENCIES = 4_096  # newest ones that quantiles are taken of
PREFIX = "quantkit_adaptive"
TOTALS = {
    "requests": "requests answered",
    "escalations": "times that a further precision was asked",
    "out_of_calibration": "requests sent to full precision because they do not resemble the calibration items",
    "capped": "answers that load kept from a more precise one",
    "audited": "requests that were compared with full precision",
    "disagreed": "audited requests on which full precision answered something else",
    "alarms": "drifts that feedback saw",
    "failed": "requests that ended in an error",
}
BY_PRECISION = {"answers": "answers by who had the last word", "calls": "items that a precision was asked"}
GAUGES = {
    "queue": "requests that wait",
    "load_level": "0: the cascade as calibrated; each level above caps the precision one step cheaper",
    "load_switches": "changes of the load level so far",
    "threshold_level": "0: full precision only; the largest: the cheapest certified thresholds",
}


class Counters:
    """Counts what a session does. `gauges` returns what is true right now."""

    def __init__(self, precisions: Sequence[str], gauges: Callable[[], dict[str, float]]):
        self._lock, self._gauges = threading.Lock(), gauges
        self._totals = dict.fromkeys(TOTALS, 0)
        self._answers, self._calls = dict.fromkeys(precisions, 0), dict.fromkeys(precisions, 0)
        self._latencies: deque[float] = deque(maxlen=LATENCIES)

    def add(self, **amounts: int) -> None:
        """Add to totals by name."""
        with self._lock:
            for name, amount in amounts.items():
                self._totals[name] += amount

    def called(self, precision: str, items: int) -> None:
        """Count items that a precision was asked."""
        with self._lock:
            self._calls[precision] += items

    def answered(self, precision: str, latency_s: float, **amounts: int) -> None:
        """Count one answer: who had the last word and how long the request took from arrival to answer."""
        with self._lock:
            self._totals["requests"] += 1
            self._answers[precision] += 1
            self._latencies.append(latency_s)
            for name, amount in amounts.items():
                self._totals[name] += amount

    def read(self) -> dict[str, Any]:
        """Return all counters at one moment; `agreement` has its Wilson interval; None is what nobody knows yet."""
        gauges = self._gauges()
        with self._lock:
            totals, answers, calls = dict(self._totals), dict(self._answers), dict(self._calls)
            latencies = np.array(self._latencies)
        audited = totals["audited"]
        low, high = wilson(audited - totals["disagreed"], audited)
        agreement = {"value": 1 - totals["disagreed"] / audited if audited else None, "low": low, "high": high}
        quantiles = {f"p{q}": float(np.quantile(latencies, q / 100)) if len(latencies) else None for q in (50, 90, 99)}
        return {
            **totals, **gauges, "answers": answers, "calls": calls, "agreement": agreement, "latency_s": quantiles,
        }  # fmt: skip

    def json(self) -> str:
        """Return the counters as JSON."""
        return json.dumps(self.read(), sort_keys=True, allow_nan=False)

    def prometheus(self) -> str:
        """Return the counters in Prometheus' text exposition format, version 0.0.4."""
        seen = self.read()
        lines: list[str] = []
        for name, text in TOTALS.items():
            lines += _metric(f"{name}_total", "counter", text, [("", seen[name])])
        for name, text in GAUGES.items():
            lines += _metric(name, "gauge", text, [("", seen[name])])
        for name, text in BY_PRECISION.items():
            rows = [(f'{{precision="{_escaped(precision)}"}}', count) for precision, count in seen[name].items()]
            lines += _metric(f"{name}_total", "counter", text, rows)
        quantiles = [(f'{{quantile="{int(p[1:]) / 100}"}}', value) for p, value in seen["latency_s"].items()]
        lines += _metric("latency_seconds", "gauge", "from arrival to answer, of the newest requests", quantiles)
        bounds = [(f'{{bound="{bound}"}}', seen["agreement"][bound]) for bound in ("value", "low", "high")]
        lines += _metric("agreement_ratio", "gauge", "audited requests on which full precision agreed", bounds)
        return "\n".join(lines) + "\n"


def _metric(name: str, kind: str, text: str, rows: Sequence[tuple[str, float | None]]) -> list[str]:
    full = f"{PREFIX}_{name}"
    values = [f"{full}{labels} {'NaN' if value is None else value}" for labels, value in rows]
    return [f"# HELP {full} {text}", f"# TYPE {full} {kind}", *values]


def _escaped(label: str) -> str:
    return label.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")

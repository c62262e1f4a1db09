"""What is followed over time: one figure of a result each, all of them lower is better.

airspeed velocity holds that less is better, whatever is tracked; so quality is an error here, speed a time, and
fidelity the relative error of the outputs. One table serves the history, the bridge and the benchmarks of
`benchmarks/history`, so that a figure has one name, one unit and one meaning.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from quantkit.conclude.compare import DRIFT
from quantkit.records import Result
from quantkit.stats.interval import Rounds
from quantkit.stats.steps import typical
from quantkit.stats.summary import summarize
from quantkit.units import Unit

VERSION = "1"  # of what the figures mean: asv does not join results of two versions
CONFIDENCE = 0.99  # asv's own
TIMED = ("latency", "time_ratio")  # what a disturbed machine makes worthless
Value = tuple[float, float, float]  # value, low, high


@dataclass(frozen=True)
class Kind:
    """One figure.

    Args:
        benchmark: its name in asv: file, class and function below `benchmarks/history`.
        type: asv's kind of benchmark.
        varies: `runs` where equal code gives another number in every run, `never` where it does not, `items` where it
            is a mean over items that are paired with those of another run.
        least: relative change below which nothing is ever called a step.
        drift: known relative deviation between two runs of the same code, besides what the raw values show.
    """

    name: str
    unit: Unit
    benchmark: str
    type: Literal["time", "peakmemory", "track"]
    varies: Literal["runs", "never", "items"]
    least: float
    drift: float
    of: Callable[[Result, float], Value | None]


def value(kind: Kind, result: Result, confidence: float = CONFIDENCE) -> Value | None:
    """Return a result's figure with its interval (equal ends where nothing is known to vary), or None."""
    void = not result.measured or (result.status == "tainted" and kind.name in TIMED)
    found = None if void else kind.of(result, confidence)
    return found if found and all(map(math.isfinite, found[:1])) and found[0] >= 0 else None


def _latency(result: Result, confidence: float) -> Value | None:
    """Return the typical seconds of one call, over fresh processes."""
    return _typical(result.latencies_s, None, confidence)


def _ratio(result: Result, confidence: float) -> Value | None:
    """Return the latency over the baseline's of the same rounds: what drifts with the machine cancels."""
    return _typical(result.latencies_s, result.reference_latencies_s, confidence)


def _typical(rounds: Rounds, over: Rounds | None, confidence: float) -> Value | None:
    if len(rounds) < 2 or (over is not None and len(over) != len(rounds)):
        return None
    try:
        found = typical(rounds, over, confidence=confidence)
    except ValueError:
        return None  # a clock that stood still: a call of no time
    return found.value, found.low, found.high


def _measured(metric: str) -> Callable[[Result, float], Value | None]:
    def of(result: Result, confidence: float) -> Value | None:
        found = result.measurements.get(metric)
        if found is None or not found.values:
            return None
        middle = summarize(found.values).p50
        return middle, min(found.values), max(found.values)

    return of


def _quality(outcome: str) -> Callable[[Result, float], Value | None]:
    def of(result: Result, confidence: float) -> Value | None:
        if not result.outcomes or result.context["quality"]["outcome"] != outcome:
            return None
        x = np.array(result.outcomes)
        higher = result.context["quality"]["better"] == "higher"
        if outcome == "binary":
            return _wilson(float((1 - x if higher else x).mean()), len(x), confidence)
        if higher:
            return None  # a score without an upper end has no error
        reach = _z(confidence) * float(x.std()) / math.sqrt(len(x))
        return float(x.mean()), float(x.mean()) - reach, float(x.mean()) + reach

    return of


def _wilson(share: float, items: int, confidence: float) -> Value:
    """Return a share with its score interval (Wilson 1927)."""
    z2 = _z(confidence) ** 2
    middle = (share + z2 / (2 * items)) / (1 + z2 / items)
    reach = math.sqrt(z2 * (share * (1 - share) / items + z2 / (4 * items**2))) / (1 + z2 / items)
    return share, max(0.0, middle - reach), min(1.0, middle + reach)


def _z(confidence: float) -> float:
    from scipy.special import ndtri

    return float(ndtri((1 + confidence) / 2))


def _relative_error(result: Result, confidence: float) -> Value | None:
    """Return the outputs' error over the outputs, root mean square: 10^(-SQNR / 20)."""
    found = result.measurements.get("sqnr_db")
    error = 10 ** (-found.values[0] / 20) if found and found.values else None
    return None if error is None else (error, error, error)


KINDS = {
    kind.name: kind
    for kind in (
        Kind("latency", Unit.SECOND, "speed.Speed.time_call", "time", "runs", 0.02, DRIFT, _latency),
        Kind("time_ratio", Unit.SHARE, "speed.Ratio.track_time_ratio", "track", "runs", 0.02, DRIFT, _ratio),
        Kind("peak_memory", Unit.BYTE, "memory.Memory.peakmem_process", "peakmemory", "runs", 0.02, 0.005,
             _measured("peak_memory")),
        Kind("artifact_size", Unit.BYTE, "size.Size.track_artifact_size", "track", "never", 0.001, 0.0,
             _measured("artifact_size")),
        Kind("error", Unit.SHARE, "quality.Quality.track_error", "track", "items", 0.0, 0.0, _quality("binary")),
        Kind("loss", Unit.NAT, "quality.Loss.track_loss", "track", "items", 0.0, 0.0, _quality("score")),
        Kind("relative_error", Unit.SHARE, "quality.Fidelity.track_relative_error", "track", "never", 0.05, 0.0,
             _relative_error),
    )
}  # fmt: skip

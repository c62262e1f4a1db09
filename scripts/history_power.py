"""What `quantkit history` can tell: false alerts and found steps in SIMULATED histories, by noise and length.

    .venv/bin/python scripts/history_power.py [SERIES]

One value a night, as a run's median would be, with noise between nights that is normal, heavy-tailed (Student's t with
3 degrees of freedom) or correlated from night to night (0.3). `ever` looks at a series every night from the 5th to the
last and counts it once however often it alerts. Nothing here is measured.
"""

from __future__ import annotations

import sys

import numpy as np
from tabulate import tabulate

from quantkit.conclude.compare import DRIFT
from quantkit.history.changes import ALPHA, proposed
from quantkit.stats.steps import surviving

NIGHTS, LEAST = 40, 0.02


def noise(kind: str, rng: np.random.Generator, deviation: float, count: int) -> np.ndarray:
    """Return `count` nights' deviations, in the logarithm."""
    if kind == "heavy tails":
        return deviation * rng.standard_t(3, count) / np.sqrt(3)
    if kind == "correlated":
        white = rng.standard_normal(count + 20)
        for i in range(1, len(white)):
            white[i] = 0.3 * white[i - 1] + np.sqrt(1 - 0.09) * white[i]
        return deviation * white[20:]
    return deviation * rng.standard_normal(count)


def alerts(values: np.ndarray) -> list[int]:
    """Return the nights at which steps are found, as the command finds them."""
    steps = surviving(values, proposed(values.tolist()), noise=DRIFT, alpha=ALPHA)
    return [s.position for s in steps if abs(np.log(s.size.value)) >= np.log1p(LEAST)]


def false_alerts(series: int) -> list[list[object]]:
    """Return, for each kind and size of noise, the share of series without a step that alert."""
    rows: list[list[object]] = []
    for kind in ("normal", "heavy tails", "correlated"):
        for deviation in (0.01, 0.02, 0.05):
            rng = np.random.default_rng([1, round(deviation * 100)])
            once = ever = 0
            for _ in range(series):
                values = np.exp(noise(kind, rng, deviation, NIGHTS))
                found = [bool(alerts(values[:n])) for n in range(5, NIGHTS + 1)]
                once, ever = once + found[-1], ever + any(found)
            rows.append([kind, f"{deviation:.0%}", f"{once / series:.2%}", f"{ever / series:.2%}"])
    return rows


def found_steps(series: int) -> list[list[object]]:
    """Return the share of series whose step, in the middle, is found, off by a tenth of the series at most."""
    rows: list[list[object]] = []
    for deviation in (0.01, 0.02):
        for size in (0.03, 0.05, 0.10, 0.20):
            rng, row = np.random.default_rng([2, round(deviation * 100), round(size * 100)]), []
            for count in (8, 12, 20, 40, 80):
                hits = 0
                for _ in range(series):
                    values = np.exp(noise("normal", rng, deviation, count))
                    values[count // 2 :] *= 1 + size
                    hits += any(abs(at - count // 2) <= max(1, count // 10) for at in alerts(values))
                row.append(f"{hits / series:.0%}")
            rows.append([f"{size:.0%}", f"{deviation:.0%}", *row])
    return rows


def main() -> None:
    """Print both tables."""
    series = int(sys.argv[1]) if len(sys.argv) > 1 else 100
    print(f"SIMULATED: {series} series each, alpha {ALPHA}, nights from the 5th to the {NIGHTS}th\n")
    print(tabulate(false_alerts(series), headers=["noise", "size", "alert at the end", "alert ever"]))
    print()
    print(tabulate(found_steps(series), headers=["step", "noise", *(f"{n} nights" for n in (8, 12, 20, 40, 80))]))


if __name__ == "__main__":
    main()

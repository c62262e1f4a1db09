"""What `quantkit history` can tell: false alerts and found steps in SIMULATED histories, by noise and length.

    .venv/bin/python scripts/history_power.py [SERIES]

One value a night, as a run's median would be, with noise between nights that is normal, heavy-tailed (Student's t with
3 degrees of freedom) or correlated from night to night (0.3). `ever` looks at a series every night from the 5th to the
last and counts it once however often it alerts. What creeps grows by the same share every night. Quality: 2,000 items,
100 of them right or wrong by chance in every run; what creeps loses as many items every night.
Nothing here is measured.
"""

from __future__ import annotations

import sys

import numpy as np
from tabulate import tabulate

from quantkit.conclude.compare import DRIFT
from quantkit.history.changes import ALPHA, changes
from quantkit.history.figures import KINDS
from quantkit.history.levels import noisy
from quantkit.history.series import Run, Series
from quantkit.records import Case

NIGHTS, LEAST = 40, 0.02
ITEMS, UNSURE = 2_000, 100  # evaluation items; those that are right or wrong by chance in every run


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
    return [found.position for _, found in noisy(values.tolist(), DRIFT, ALPHA, least=LEAST)]


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


def found_creep(series: int) -> list[list[object]]:
    """Return the share of series that alert at the end, where every night is a little slower than the last."""
    rows: list[list[object]] = []
    for deviation in (0.01, 0.02):
        for share in (0.002, 0.005, 0.01):
            rng, row = np.random.default_rng([3, round(deviation * 100), round(share * 1000)]), []
            for count in (12, 20, 40, 80):
                creep = np.log1p(share) * np.arange(count)
                hits = sum(bool(alerts(np.exp(noise("normal", rng, deviation, count) + creep))) for _ in range(series))
                row.append(f"{hits / series:.0%}")
            rows.append([f"{share:.1%} a night", f"{deviation:.0%}", *row])
    return rows


def quality(rng: np.random.Generator, lost: int, count: int) -> Series:
    """Return nights of right and wrong items, of which `lost` more are wrong every night."""
    runs = []
    for night in range(count):
        right = np.ones(ITEMS)
        right[:UNSURE] = rng.integers(0, 2, UNSURE)
        right[UNSURE : UNSURE + lost * night] = 0
        how = {"outcome": "binary", "better": "higher", "margin": 0.01}
        runs.append(Run(str(night), night, "", {"error": (0.0, 0.0, 0.0)}, right.tobytes(), how))
    return Series(Case("simulated", "fp32", "none", "cpu"), KINDS["error"], tuple(runs))


def found_losses(series: int) -> list[list[object]]:
    """Return, for each pace, the share of series that alert at the end, and the loss when the first did."""
    rows: list[list[object]] = []
    for lost in (0, 1, 2, 4, 8):
        rng, row = np.random.default_rng([4, lost]), []
        for count in (15, NIGHTS):
            found = [[c for c in changes([quality(rng, lost, count)]) if c.regression] for _ in range(series)]
            first = [int(steps[0].after.commit) * lost / ITEMS for steps in found if steps]
            row += [f"{len(first) / series:.1%}", f"{np.median(first):.1%}" if first and lost else ""]
        rows.append([f"{lost / ITEMS:.2%} a night", *row])
    return rows


def main() -> None:
    """Print all tables."""
    series = int(sys.argv[1]) if len(sys.argv) > 1 else 100
    print(f"SIMULATED: {series} series each, alpha {ALPHA}, nights from the 5th to the {NIGHTS}th\n")
    print(tabulate(false_alerts(series), headers=["noise", "size", "alert at the end", "alert ever"]))
    print()
    print(tabulate(found_steps(series), headers=["step", "noise", *(f"{n} nights" for n in (8, 12, 20, 40, 80))]))
    print()
    print(tabulate(found_creep(series), headers=["creep", "noise", *(f"{n} nights" for n in (12, 20, 40, 80))]))
    print()
    heads = ["quality lost", "in 15 nights", "loss when proved", f"in {NIGHTS} nights", "loss when proved"]
    print(tabulate(found_losses(series), headers=heads))


if __name__ == "__main__":
    main()

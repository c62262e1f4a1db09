"""Measures what the README claims of quantkit itself, and says for each claim whether it holds here.

    python scripts/claims.py startup              help, collection and planning
    python scripts/claims.py bench                `make bench` from cold caches, then with nothing changed
    python scripts/claims.py agree A.db B.db      do two runs agree: same verdicts, speed-ups in each other's interval
    python scripts/claims.py resnet50             int8 against float32 on ResNet-50, both toolchains

Timed on whatever machine this is; run nothing beside it.
"""

import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PYTHON = sys.executable


def claim(text: str, value: float, limit: float, *, at_least: bool = False) -> bool:
    """Print one claim with its figure; return whether it holds."""
    holds = value >= limit if at_least else value <= limit
    print(f"{'holds' if holds else 'FAILS'}  {text}: {value:.2f} ({'at least' if at_least else 'at most'} {limit:g})")
    return holds


def seconds(command: list[str], repeats: int = 5) -> float:
    """Return the median wall time of a command, seconds; its first run warms the disk cache and does not count."""
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
        times.append(time.perf_counter() - start)
    return sorted(times[1:])[repeats // 2]


def startup() -> bool:
    """Help, collection, and a plan of 1,000 cases."""
    program = Path(PYTHON).with_name("quantkit")
    collect = [PYTHON, "-m", "pytest", "benchmarks", "--collect-only", "-q"]
    return all(
        [
            claim("quantkit --help, s", seconds([str(program), "--help"]), 0.3),
            claim("pytest benchmarks --collect-only -q, s", seconds(collect), 2.0),
            claim("a plan of 1,000 cases, s", plan_of_a_thousand(), 1.0),
        ]
    )


def plan_of_a_thousand() -> float:
    """Return the seconds that planning takes in a fresh process, imports included, for at least 1,000 cases."""
    code = """
import time; start = time.perf_counter()
from quantkit.catalog import BACKENDS, METHODS, MODELS, TARGETS
from quantkit.pipeline.plan import plan, unsupported
from quantkit.pipeline.plan import Planned
cells = []
while len(cells) < 1000:
    cells += plan(MODELS.names(), METHODS.names(), backends=BACKENDS.names(), targets=TARGETS.names(), profile="full")
print(len(cells), time.perf_counter() - start)
"""
    times = []
    for _ in range(5):
        done = subprocess.run([PYTHON, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True)
        count, taken = done.stdout.split()
        assert int(count) >= 1_000
        times.append(float(taken))
    return sorted(times)[2]


def bench(results: str = "") -> bool:
    """The main job from empty caches, and again; the second with what the first left."""
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {"QUANTKIT_HOME": f"{folder}/home"}
        environment["QUANTKIT_RESULTS"] = results or f"{folder}/results.db"
        cold, text = timed_bench(environment)
        print(text)
        overhead = float(re.search(r"overhead ([\d.]+)", text)[1])
        warm, _ = timed_bench(environment)
    return all(
        [
            claim("make bench from cold caches, s", cold, 360),
            claim("make bench when nothing changed, s", warm, 30),
            claim("wall time over time inside building and running models", overhead, 1.25),
        ]
    )


def timed_bench(environment: dict[str, str]) -> tuple[float, str]:
    """Return wall seconds and output of `make bench`."""
    start = time.perf_counter()
    done = subprocess.run(["make", "bench"], cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stdout + done.stderr)
    return time.perf_counter() - start, done.stdout


def agree(first: str, second: str) -> bool:
    """Two runs of the same machine: equal verdicts, and each speed-up within both intervals."""
    from quantkit.conclude.compare import comparisons
    from quantkit.pipeline.store import Store

    runs = [{p.result.case.id: p for p in comparisons(Store(Path(f), write=False).newest())} for f in (first, second)]
    assert runs[0].keys() == runs[1].keys(), "the runs hold different cases"
    apart = []
    for name, one in runs[0].items():
        two = runs[1][name]
        inside = all(
            a.speedup.low <= b.speedup.value <= a.speedup.high and a.speedup.low <= a.speedup.value <= a.speedup.high
            for a, b in ((one, two), (two, one))
        )
        if one.verdict != two.verdict or not inside:
            apart.append(name)
            print(f"apart: {name}: {one.verdict} {one.speedup} / {two.verdict} {two.speedup}")
    return claim(f"cases of {len(runs[0])} that differ between two runs", len(apart), 0)


def resnet50() -> bool:
    """int8 static against float32, batch 1, one thread, random weights; the figures come from one interleaved run."""
    from quantkit.conclude.compare import comparisons
    from quantkit.pipeline.store import Store

    with tempfile.TemporaryDirectory() as folder:
        command = [PYTHON, "-m", "quantkit.cli", "run", "--models", "resnet50", "--methods", "fp32,int8_static"]
        command += ["--profile", "regular", "--items", "16", "--rounds", "7", "--results", f"{folder}/results.db"]
        subprocess.run(command, cwd=ROOT, check=True)
        pairs = {p.result.case.backend: p for p in comparisons(Store(Path(folder) / "results.db").newest())}
    return all(
        claim(f"ResNet-50 int8 over float32, {backend}", pairs[backend].speedup.value, limit, at_least=True)
        for backend, limit in {"onnxruntime": 2.5, "pytorch": 2.0}.items()
    )


if __name__ == "__main__":
    commands = {"startup": startup, "bench": bench, "agree": agree, "resnet50": resnet50}
    if len(sys.argv) < 2 or sys.argv[1] not in commands:
        sys.exit(__doc__)
    sys.exit(not commands[sys.argv[1]](*sys.argv[2:]))

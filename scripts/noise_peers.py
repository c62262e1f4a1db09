"""Writes docs/noise.md: false alarms and detections of quantkit's comparison and of three peers, on one network.

    python scripts/noise_peers.py                        200 comparisons of equal sides by quantkit, half as many of
                                                         each slow-down; 10 runs by each peer, 5 of each slow-down
    python scripts/noise_peers.py --comparisons 20 --runs 6     a look

Every tool times the same network of about 3 ms (`quantkit.latency.subject`), as it is, slowed by 3 % and by 5 %; each
peer compares its own stored runs by its own code: pytest-benchmark's `--benchmark-compare-fail` of median:5%, min:5%
and median:2%, asv's `compare` with factors of 1.05 and 1.02 and with its default, pyperf's `compare_to`. What is there
already is not measured again. About half an hour; run nothing beside it. Needs pyperf (`pip install pyperf`).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from itertools import pairwise, permutations, product
from pathlib import Path
from typing import Any

from quantkit.environment import fingerprint
from quantkit.files import write_atomic
from quantkit.latency import noise, subject
from quantkit.pipeline.noise import Trial

ROOT = Path(__file__).resolve().parent.parent
KEPT = ROOT / ".quantkit" / "noise"
SHARES = (0.0, 0.03, 0.05)
THREADS = 2
Compare = Callable[[Any, Any], bool]  # two stored runs -> whether the tool calls the second one a regression
CALL = '''\
"""The network that all tools time, slowed by the share in SLOWED."""
import os
from quantkit.latency import subject, worker
import time

def make():
    call = subject.opened({layers}, {threads})
    share = float(os.environ["SLOWED"])
    return worker.slowed(call, share, time.perf_counter, None) if share else call
'''
PYTEST = "from call import make\n\ndef test_network(benchmark):\n    benchmark(make())\n"
PYPERF = (
    "import pyperf\nfrom call import make\n\nrunner = pyperf.Runner(metadata={})\n"
    "runner.parse_args()\nrunner.bench_func('network', make())\n"
)
ASV = (
    "import sys\nfrom pathlib import Path\n\n"  # asv takes PYTHONPATH away
    f"sys.path[:0] = [str(Path(__file__).parents[1]), {str(ROOT)!r}]\nfrom call import make\n\n"
    "class Network:\n    def setup(self):\n        self.call = make()\n"
    "    def time_network(self):\n        self.call()\n"
)


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def command(words: list[str], folder: Path, share: float) -> str:
    """Run a tool in its folder; return what it printed."""
    environment = os.environ | {"SLOWED": str(share), "PYTHONPATH": f"{folder}:{ROOT}"}
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(words)} ended with {done.returncode}:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done.stdout


def prepared(tool: str, layers: int, files: dict[str, str]) -> Path:
    folder = KEPT / tool
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in {"call.py": CALL.format(layers=layers, threads=THREADS), **files}.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    return folder


def by_pytest_benchmark(folder: Path, share: float, file: Path) -> None:
    words = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "test_network.py", f"--benchmark-json={file}"]
    command([sys.executable, *words, "--rootdir", str(folder), "-c", os.devnull], folder, share)


def by_pyperf(folder: Path, share: float, file: Path) -> None:
    inherit = ["--inherit-environ", "SLOWED,PYTHONPATH"]
    command([sys.executable, "bench.py", "-q", "-o", str(file), *inherit], folder, share)


def by_asv(folder: Path, share: float, file: Path) -> None:
    """Run asv on a commit of a small repository, and keep what it stored of that commit."""
    git = ["git", "-C", str(folder), "-c", "user.name=noise", "-c", "user.email=noise@example.org"]
    if not (folder / ".git").is_dir():
        subprocess.run(["git", "init", "-q", "-b", "main", str(folder)], check=True)
        subprocess.run([*git, "add", "call.py"], check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", file.stem], check=True)
    commit = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    shared = ["--python=same", f"--set-commit-hash={commit}", "--machine=here"]
    asv = [sys.executable, "-m", "asv"]
    command([*asv, "machine", "--yes", "--machine=here"], folder, share)
    command([*asv, "run", *shared], folder, share)
    stored = next((folder / "results" / "here").glob(f"{commit[:8]}-*.json"))
    file.write_text(stored.read_text())


def runs(tool: str, measure: Callable[[Path, float, Path], None], folder: Path, counts: dict[float, int]) -> None:
    """Run a tool as often as asked, kinds in turn; what is there is kept."""
    for number in range(max(counts.values())):
        for share in [share for share in SHARES if number < counts[share]]:
            file = folder / f"{share:g}-{number:03d}.json"
            if not file.exists():
                start = time.monotonic()
                measure(folder, share, file)
                say(f"{tool}, slowed by {share:.0%}, run {number + 1}: {time.monotonic() - start:.1f} s")


def pytest_fails(field: str, limit: str) -> Compare:
    """Return pytest-benchmark's own check of one run against another."""
    from pytest_benchmark.utils import parse_compare_fail

    check = parse_compare_fail(f"{field}:{limit}")
    read = lambda file: json.loads(file.read_text())["benchmarks"][0]["stats"]  # noqa: E731
    return lambda base, new: bool(check.fails(read(new), read(base)))


def pyperf_fails(base: Path, new: Path) -> bool:
    """Return whether pyperf calls the second run significantly slower."""
    from pyperf import BenchmarkSuite
    from pyperf._compare import CompareResult

    benchmarks = [BenchmarkSuite.load(str(file)).get_benchmarks()[0] for file in (base, new)]
    named = [
        type("Ref", (), {"name": str(file), "benchmark": b}) for file, b in zip((base, new), benchmarks, strict=True)
    ]
    found = CompareResult(*named)
    return bool(found.significant) and benchmarks[1].mean() > benchmarks[0].mean()


def asv_fails(factor: float) -> Compare:
    """Return asv's own judgement: `asv compare --factor`."""
    from asv import results
    from asv.commands.compare import _is_result_better

    def read(file: Path) -> tuple[float, Any]:
        found = results.Results.load(str(file))
        name = next(iter(found.get_all_result_keys()))
        values, stats, samples = (
            found.get_result_value(name, []),
            found.get_result_stats(name, []),
            found.get_result_samples(name, []),
        )
        return values[0], (stats[0], samples[0])

    def fails(base: Path, new: Path) -> bool:
        (old_value, old), (new_value, now) = read(base), read(new)
        return bool(_is_result_better(old_value, new_value, old, now, factor))

    return fails


def rates(folder: Path, fails: Compare) -> dict[float, noise.Rate]:
    """Return how often a tool calls a regression, over all ordered pairs of runs."""
    files = {share: sorted(folder.glob(f"{share:g}-[0-9][0-9][0-9].json")) for share in SHARES}
    pairs: dict[float, Iterable[tuple[Path, Path]]] = {0.0: permutations(files[0.0], 2)}
    pairs |= {share: product(files[0.0], files[share]) for share in SHARES[1:]}
    found = {share: [fails(*pair) for pair in these] for share, these in pairs.items()}
    return {share: noise.Rate(sum(alarms), len(alarms)) for share, alarms in found.items()}


def table(found: list[Trial]) -> list[str]:
    """Return the rows of all tools."""
    ours = {share: noise.detected(found, share) if share else noise.false_alarms(found) for share in SHARES}
    seconds = sorted(trial.elapsed_s for trial in found)
    rows = [row("quantkit latency", ours, f"{seconds[len(seconds) // 2]:.0f} (at most {seconds[-1]:.0f})")]
    peers: tuple[tuple[str, str, Compare], ...] = (
        ("pytest-benchmark", "pytest-benchmark, `median:5%`", pytest_fails("median", "5%")),
        ("pytest-benchmark", "pytest-benchmark, `min:5%`", pytest_fails("min", "5%")),
        ("pytest-benchmark", "pytest-benchmark, `median:2%`", pytest_fails("median", "2%")),
        ("asv", "asv `compare --factor 1.05`", asv_fails(1.05)),
        ("asv", "asv `compare --factor 1.02`", asv_fails(1.02)),
        ("asv", "asv `compare` (factor 1.1)", asv_fails(1.1)),
        ("pyperf", "pyperf `compare_to`", pyperf_fails),
    )
    for tool, title, fails in peers:
        rows.append(row(title, rates(KEPT / tool, fails), f"2 runs of {took(tool):.0f}"))
    return rows


def row(title: str, found: dict[float, noise.Rate], seconds: str) -> str:
    cells = [f"{found[share].value:.1%} of {found[share].of}" for share in SHARES]
    return f"| {title} | {' | '.join(cells)} | {seconds} |"


def took(tool: str) -> float:
    """Return the median seconds of a tool's run, from when its files were written."""
    times = sorted(file.stat().st_mtime for file in (KEPT / tool).glob("0*-[0-9][0-9][0-9].json"))
    gaps = sorted(later - earlier for earlier, later in pairwise(times))
    return gaps[len(gaps) // 2]


def page(found: list[Trial], counts: dict[float, int]) -> str:
    about = fingerprint()
    versions = ", ".join(f"{name} {about['versions'][name]}" for name in ("onnxruntime", "numpy", "quantkit"))
    slow = [trial for trial in found if trial.elapsed_s > 60 + 5]
    return "\n".join([
        "# What this machine can tell apart", "",
        "Written by `python scripts/noise_peers.py`. One network of about 3 ms in ONNX Runtime with 2 threads,",
        "against itself and against itself slowed by a known share; `quantkit latency` compares live, in turn, and",
        "stops when it is decided; each peer compares its own stored runs by its own code. A cell: how often a",
        "regression was called.", "",
        "| tool | equal (false alarms) | slowed by 3 % (found) | slowed by 5 % (found) | seconds a comparison |",
        "|---|--:|--:|--:|---|", *table(found), "",
        "For quantkit the first column counts `faster` too. Peers' pairs share runs: their counts are not as many",
        f"independent trials: {counts[0.0]} runs as it is, {counts[0.05]} of each slow-down.", "",
        "quantkit's comparisons with exact intervals (`quantkit selftest noise`):", "", *noise.report(found), "",
        f"Equal sides ended {verdicts(found)}.", "",
        f"{len(slow)} of {len(found)} comparisons took more than 60 s of measuring. "
        f"Blocks that something disturbed, and that were measured again: {disturbed(found)}.", "",
        f"{datetime.now(UTC).date()}, {about['system']}, {about['processor']}, {about['cores']} cores, "
        f"Python {about['python']}; {versions}, {peers()}.", "",
    ])  # fmt: skip


def verdicts(found: list[Trial]) -> str:
    """Return how often equal sides ended in each verdict, of the comparisons with an estimate."""
    equal = [trial.verdict for trial in found if not trial.slowed and trial.estimated]
    return ", ".join(f"{word} {equal.count(word)}" for word in sorted(set(equal), key=equal.count, reverse=True))


def disturbed(found: list[Trial]) -> str:
    left, of = sum(trial.tainted for trial in found), sum(trial.blocks for trial in found)
    return f"{left} of {of} ({left / of:.1%})"


def peers() -> str:
    from importlib.metadata import version

    return ", ".join(f"{name} {version(name)}" for name in ("pytest-benchmark", "asv", "pyperf"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--comparisons", type=int, default=200, help="of equal sides by quantkit; half as many of each slow-down"
    )
    parser.add_argument("--runs", type=int, default=10, help="of the network as it is, by each peer")
    options = parser.parse_args()
    counts = {share: options.runs if not share else max(2, options.runs // 2) for share in SHARES}
    KEPT.mkdir(parents=True, exist_ok=True)
    layers = KEPT / "layers"
    if not layers.exists():
        layers.write_text(str(subject.layers_for(THREADS)))
    number = int(layers.read_text())
    runs(
        "pytest-benchmark",
        by_pytest_benchmark,
        prepared("pytest-benchmark", number, {"test_network.py": PYTEST}),
        counts,
    )
    conf: dict[str, Any] = {
        "version": 1,
        "project": "noise",
        "repo": ".",
        "branches": ["main"],
        "benchmark_dir": "benchmarks",
    }
    conf["environment_type"] = "existing"
    asv = {"asv.conf.json": json.dumps(conf), "benchmarks/__init__.py": "", "benchmarks/network.py": ASV}
    runs("asv", by_asv, prepared("asv", number, asv), counts)
    runs("pyperf", by_pyperf, prepared("pyperf", number, {"bench.py": PYPERF}), counts)
    how: dict[str, Any] = {"threads": THREADS, "limit_s": 60.0, "say": say, "path": KEPT / "ours.jsonl"}
    noise.measure(SHARES, max(1, options.comparisons // 2), **how)
    found = noise.measure(SHARES[:1], options.comparisons, **how)
    write_atomic(ROOT / "docs" / "noise.md", page(found, counts).encode())
    print("written: docs/noise.md")


if __name__ == "__main__":
    main()

"""Does static int8 keep 99 % of the quality of every model that is committed here? A verdict for each toolchain."""

import subprocess
import sys
from pathlib import Path

import numpy as np

from quantkit.catalog import MODELS
from quantkit.pipeline.store import Store
from quantkit.stats.retention import compare, decide

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / ".quantkit" / "methods" / "retention.db"
METHOD, BACKENDS = "int8_static", ("onnxruntime", "pytorch", "litert")
KEPT = 0.99  # share of the baseline's quality
ITEMS = 10_000  # or all there are


def committed() -> list[str]:
    """Return the models whose weights are files of this repository and whose quality is judged."""
    infos = [MODELS.get(name).info for name in MODELS.names()]
    return [i.name for i in infos if i.quality.outcome != "none" and not i.stepwise and i.sources[0].kind == "asset"]


def measure(models: list[str]) -> dict[tuple[str, str, str], object]:
    """Build and judge the cases that are not stored; return (model, method, backend) -> result."""
    options = {"models": models, "methods": ["fp32", METHOD], "backends": BACKENDS, "targets": ["cpu"]}
    words = [word for name, values in options.items() for word in (f"--{name}", ",".join(values))]
    more = ["--profile", "full", "--rounds", "0", "--items", str(ITEMS), "--results", str(RESULTS)]
    program = Path(sys.executable).with_name("quantkit")
    done = subprocess.run([program, "run", *words, *more], cwd=ROOT, check=False, stdout=sys.stderr)
    if done.returncode not in (0, 1):  # 1: a case failed, which its row then says
        raise SystemExit(f"quantkit run ended with {done.returncode}: its message is above")
    found = Store(RESULTS, write=False).newest()
    return {(r.case.model, r.case.method, r.case.backend): r for r in found}


def section() -> str:
    """Return the section: retention with its interval and verdict, all verdicts together at 5 % (Holm)."""
    models = committed()
    stored = measure(models)
    refused, pairs = [], []
    for model in models:
        for backend in BACKENDS:
            result, base = (stored.get((model, method, backend)) for method in (METHOD, "fp32"))
            if result is None or result.status != "ok":
                reason = result.reason if result else "not stored"
                refused.append(f"- {model}, {backend}: {reason}")
            else:
                pairs.append((model, backend, retained(model, base, result)))
    judged = decide([pair[2] for pair in pairs])
    rows = [row(model, backend, found) for (model, backend, _), found in zip(pairs, judged, strict=True)]
    held = sorted({model for (model, _, _), found in zip(pairs, judged, strict=True) if found.verdict == "pass"})
    missing = sorted(set(models) - set(held))
    said = f"{len(held)} of {len(models)} committed models keep at least 99 % (`pass`) in at least one toolchain"
    return "\n".join(
        [
            "## Static int8 keeps 99 %",
            "",
            f"`{METHOD}` against full precision of the same toolchain; margin: 1 % of the baseline's quality; all",
            "verdicts hold together (Holm, 5 %).",
            "",
            "| model | toolchain | items | full precision | int8 | retention | at least | verdict |",
            "|---|---|---:|---:|---:|---:|---:|---|",
            *rows,
            "",
            said + (f"; not: {', '.join(missing)}." if missing else "."),
            *(["", "Refused, with the reason:", "", *refused] if refused else []),
        ]
    )


def retained(model: str, base, result):
    """Return the paired comparison with a margin of 1 % of the baseline's mean."""
    quality = MODELS.get(model).info.quality
    before, after = np.array(base.outcomes), np.array(result.outcomes)
    margin = (1 - KEPT) * (before.mean() if quality.outcome == "binary" else 1.0)
    return compare(before, after, outcome=quality.outcome, better=quality.better, margin=margin)


def row(model: str, backend: str, found) -> str:
    """Return a line of the table; `at least` comes from the upper bound of the drop (95 %, one-sided)."""
    level = found.reference if found.outcome == "binary" else 1.0
    least = 1 - found.drop_high / level
    cells = [model, backend, f"{found.items}", f"{found.reference:.4f}", f"{found.candidate:.4f}"]
    return f"| {' | '.join(cells)} | {1 - found.drop / level:.2%} | {least:.2%} | {found.verdict} |"


if __name__ == "__main__":
    print(section())

"""What does quantization-aware training bring back of what rounding loses, at equal bits, in artifacts?

    python scripts/methods_qat.py                 every contest, as a section of docs/methods.md
    python scripts/methods_qat.py pydoc_gpt       the contests of these models only

Artifacts, answers and trainings are kept (QUANTKIT_HOME), results in .quantkit/methods/qat.db: what was cut goes on.
Training takes the calibration items that are committed, on one core: about a minute for a Fashion-MNIST model, three
for the decoder, more for MiniLM.
"""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from quantkit.catalog import BACKENDS, METHODS, MODELS
from quantkit.pipeline.store import Store
from quantkit.procedures.qat_verdict import Comparison, compare
from quantkit.records import Result

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / ".quantkit" / "methods" / "qat.db"
POINT = 0.01  # of the share of right answers, or of the mean score
PER_CHANNEL = ("int4_weight_only_per_channel", "qat_int4_per_channel")
GROUPS = ("int4_weight_only", "qat_int4")
STATIC = ("int8_static", "qat_int8")
Stored = dict[tuple[str, str, str], Result]


@dataclass(frozen=True)
class Contest:
    """Rounding and training at equal bits through the same backend, on so many evaluation items."""

    model: str
    backend: str
    pair: tuple[str, str]
    items: int


CONTESTS = (
    Contest("fmnist_cnn", "coreml", PER_CHANNEL, 5_000),
    Contest("fmnist_cnn", "litert", PER_CHANNEL, 5_000),
    Contest("fmnist_mobile", "coreml", PER_CHANNEL, 5_000),
    Contest("fmnist_mobile", "litert", PER_CHANNEL, 5_000),
    Contest("fmnist_vit", "coreml", PER_CHANNEL, 5_000),
    Contest("fmnist_vit", "litert", PER_CHANNEL, 5_000),
    Contest("pydoc_gpt", "coreml", PER_CHANNEL, 512),
    Contest("pydoc_gpt", "coreml", GROUPS, 512),
    Contest("pydoc_gpt", "onnxruntime", GROUPS, 512),
    Contest("pydoc_gpt", "pytorch", GROUPS, 512),
    Contest("minilm", "coreml", GROUPS, 1_024),
    Contest("minilm", "onnxruntime", GROUPS, 1_024),
    Contest("fmnist_cnn", "onnxruntime", STATIC, 5_000),
    Contest("fmnist_vit", "onnxruntime", STATIC, 5_000),
)


def command(contest: Contest) -> list[str]:
    """Return the words of the command that measures a contest."""
    options = {"models": contest.model, "methods": ",".join(("fp32", *contest.pair)), "backends": contest.backend}
    words = [word for name, value in options.items() for word in (f"--{name}", value)]
    more = ["--targets", "cpu", "--profile", "full", "--rounds", "0", "--items", str(contest.items)]
    return ["quantkit", "run", *words, *more, "--time-limit", "7200", "--results", str(RESULTS.relative_to(ROOT))]


def measure(contests: list[Contest]) -> dict[Contest, Stored]:
    """Build and judge what is not stored; return the results of each contest."""
    found: dict[Contest, Stored] = {}
    for contest in contests:
        script = str(Path(sys.executable).with_name("quantkit"))
        subprocess.run([script, *command(contest)[1:]], cwd=ROOT, check=False, stdout=sys.stderr)
        newest = Store(RESULTS, write=False).newest()
        found[contest] = {(r.case.model, r.case.method, r.case.backend): r for r in newest}
    return found


def compared(contest: Contest, stored: Stored) -> tuple[Comparison | None, str]:
    """Return what training brought, or why there is no answer."""
    results = [stored.get((contest.model, method, contest.backend)) for method in ("fp32", *contest.pair)]
    for method, result in zip(("fp32", *contest.pair), results, strict=True):
        if result is None or result.status != "ok":
            return None, f"{method}: {result.reason if result else 'not stored'}"
    quality = MODELS.get(contest.model).info.quality
    outcomes = [np.asarray(result.outcomes) for result in results if result is not None]
    return compare(*outcomes, outcome=quality.outcome, better=quality.better, margin=quality.margin), ""


def row(contest: Contest, found: Comparison) -> str:
    """Return one line of the table."""
    scheme = METHODS.get(contest.pair[0]).scheme.name
    low, high = (f"{100 * end:+.0f} %" if np.isfinite(end) else "no bound" for end in (found.low, found.high))
    share = (
        "–" if found.recovered is None or found.lost <= POINT / 2 else f"{100 * found.recovered:.0f} % [{low}, {high}]"
    )
    gain = found.trained_vs_rounded
    cells = (
        contest.model,
        scheme,
        f"{BACKENDS.get(contest.backend).title}",
        f"{found.rounded.items}",
        f"{found.rounded.reference:.4f}",
        f"{found.rounded.candidate:.4f} ({100 * found.lost:+.2f})",
        f"{found.trained.candidate:.4f} ({100 * found.trained.drop:+.2f})",
        share,
        f"{-100 * gain.drop:+.2f} [{-100 * gain.drop_high:+.2f}, {-100 * gain.drop_low:+.2f}]",
        f"{gain.verdict}, worse p {gain.p_worse:.2g}",
        found.trained.verdict,
    )
    return "| " + " | ".join(cells) + " |"


HEAD = (
    "| model | scheme | toolchain | items | original | rounded (lost) | trained (lost) | brought back "
    "| gain over rounded | trained against rounded | trained against original |"
)


def words(found: dict[Contest, tuple[Comparison | None, str]]) -> list[str]:
    """Return what the table says of the aim: at least half is brought back wherever rounding loses over a point."""
    asked = {c: x for c, (x, _) in found.items() if x and c.pair != STATIC and x.lost > POINT}
    kept = {c: x for c, x in asked.items() if (x.recovered or 0) >= 0.5}
    sure = [c for c, x in asked.items() if x.low >= 0.5]
    lines = [
        f"Rounding to 4 bits loses more than one point in {len(asked)} of these contests; training brings at least "
        f"half of it back in {len(kept)} of them (the whole interval lies above one half in {len(sure)})."
    ]
    for contest, (x, why) in found.items():
        place = f"{contest.model}, {contest.backend}, {contest.pair[1]}"
        if x is None:
            lines.append(f"- No answer: {place}: {why}")
        elif contest in asked and contest not in kept:
            lines.append(f"- Falls short: {place}: {100 * (x.recovered or 0):.0f} %")
    return lines


def floats(stored: dict[Contest, Stored]) -> list[str]:
    """Return what stays in float although the scheme asks otherwise: there rounding costs nothing."""
    lines = {}
    for contest, results in stored.items():
        result = results.get((contest.model, contest.pair[1], contest.backend))
        for left in result.context.get("left_in_float", ()) if result and result.status == "ok" else ():
            lines[f"- {contest.model}, {contest.backend}, {METHODS.get(contest.pair[1]).scheme.name}: {left}"] = 0
    return list(lines)


GRIDS = (
    "Training rounds to the grid on which the backend will store the weights: the scheme's own (codes -7..7, the "
    "largest magnitude on 7) for Core ML and LiteRT, -8..7 with the largest value on -8 for ONNX Runtime, 0..15 from "
    "the smallest to the largest value for PyTorch. A scale per channel is none of ONNX Runtime's: it stores blocks."
)


def trainings(stored: dict[Contest, Stored]) -> list[str]:
    """Return what the builders said of each training."""
    lines = {}
    for contest, results in stored.items():
        result = results.get((contest.model, contest.pair[1], contest.backend))
        notes = result.context.get("notes", ()) if result and result.status == "ok" else ()
        lines |= {f"- {contest.model}, {contest.pair[1]}: {note}": 0 for note in notes if note.startswith("trained by")}
    return list(lines)


def section(models: tuple[str, ...] = ()) -> str:
    """Return the section."""
    contests = [c for c in CONTESTS if c.model in MODELS.names() and (not models or c.model in models)]
    stored = measure(contests)
    found = {contest: compared(contest, stored[contest]) for contest in contests}
    rows = [row(contest, x) for contest, (x, _) in found.items() if x is not None]
    return "\n".join([
        "## Quantization-aware training", "",
        "Rounding alone and training at equal bits: the same scheme, the same quantizer of the same toolchain, only "
        "the weights differ. Trained on the committed calibration items (2,000 images; 256 pieces of text), judged on "
        "evaluation items by the artifact itself. Losses are points of the share of right answers, or per cent of the "
        "mean score; intervals 90 %, the brought-back share by a paired bootstrap over items.", "",
        f"`{' '.join(command(CONTESTS[0]))}` and its like, by `python scripts/methods_qat.py`.", "",
        HEAD, "|" + "---|" * HEAD.count(" | ") + "---|", *rows, "", *words(found), "", GRIDS, "",
        "Trainings:", "", *trainings(stored), "", "Left in float by the toolchain, with and without training:", "",
        *floats(stored),
    ])  # fmt: skip


if __name__ == "__main__":
    print(section(tuple(sys.argv[1:])))

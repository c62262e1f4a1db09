"""What does mixed precision give: better than 6 bits in the bytes of 6 bits, and the front at a latency budget?

    python scripts/methods_mixed.py                  both parts, as a section of docs/methods.md
    python scripts/methods_mixed.py --only bytes     the first part
    python scripts/methods_mixed.py --only latency   the second, on a machine that does nothing else

What is measured is kept in .quantkit/methods: a part that was interrupted goes on, and `--only latency --fresh` times
everything again.
"""

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.special import log_softmax

from quantkit.catalog import DATASETS, METHODS, MODELS, VARIABLE
from quantkit.pipeline import keys
from quantkit.pipeline.cache import read
from quantkit.pipeline.settings import Settings, cache_folder
from quantkit.pipeline.store import Store
from quantkit.records import Case, Result
from quantkit.stats import pareto
from quantkit.stats.interval import ratio_of_medians
from quantkit.stats.retention import compare
from quantkit.stats.summary import quantile

ROOT = Path(__file__).resolve().parent.parent
KEPT = ROOT / ".quantkit" / "methods"
BYTES, LATENCY, PLUGINS, PAGES = KEPT / "mixed.db", KEPT / "mixed_latency.db", KEPT / "plugins", KEPT / "mixed"
RESAMPLES, CONFIDENCE = 2_000, 0.95


@dataclass(frozen=True)
class Contest:
    """A mixed plan against uniform 6 bits through the same backend."""

    model: str
    items: int
    backend: str = "coreml"
    uniform: str = "palettize6"
    mixed: str = "mixed_6bit"

    @property
    def settings(self) -> Settings:
        """What `command` says, as the pipeline has it."""
        return Settings.of("regular", items=self.items, rounds=0)


MODELS_OF_6_BITS = {"fmnist_cnn": 5_000, "fmnist_vit": 2_500, "pydoc_gpt": 256}
CONTESTS = tuple(
    Contest(model, items, mixed=mixed)
    for mixed in ("mixed_6bit", "mixed_6bit_palette")
    for model, items in MODELS_OF_6_BITS.items()
)
TIMED_BACKEND, TIMED_MODELS = "onnxruntime", {"fmnist_vit": 2_500, "pydoc_gpt": 256}
TIMED = ("fp32", "half", "int8_dynamic", "int8_static", "int8_weight_only", "int4_weight_only")
FOUND = "mixed_at_latency_{}"  # a plan fits one model
BUDGET_SHARE = 0.5  # of the way from the fastest uniform case to full precision


def run(model: str, methods: list[str], backend: str, items: int, results: Path, *more: str) -> list[str]:
    """Run cases through the pipeline; return the command's words."""
    words = ["run", "--models", model, "--methods", ",".join(methods), "--backends", backend, "--targets", "cpu"]
    words += ["--profile", "regular", "--items", str(items), "--results", str(results.relative_to(ROOT)), *more]
    subprocess.run([Path(sys.executable).with_name("quantkit"), *words], cwd=ROOT, check=False, stdout=sys.stderr)
    return ["quantkit", *words]


def newest(results: Path, model: str, method: str, backend: str) -> Result | None:
    """Return what is stored of a case."""
    found = Store(results, write=False).newest(Case(model, method, backend, "cpu")) if results.exists() else []
    return found[0] if found else None


# part 1: bytes


def outputs(contest: Contest, result: Result) -> tuple[np.ndarray, np.ndarray]:
    """Return what the original network and a case answered, as float64."""
    original = keys.original_key(contest.model, contest.settings)
    folders = [cache_folder() / "answers" / key[:32] for key in (original, result.context["answers"])]
    ours, theirs = (np.load(read(folder).folder / "outputs.npy").astype(float) for folder in folders)
    return ours, theirs


def noise(original: np.ndarray, answers: np.ndarray) -> np.ndarray:
    """Return the squared error of each item."""
    return ((original - answers) ** 2).reshape(len(original), -1).sum(1)


def divergence(original: np.ndarray, answers: np.ndarray) -> np.ndarray:
    """Return the mean KL divergence of each item, nats."""
    p, q = log_softmax(original, -1), log_softmax(answers, -1)
    return (np.exp(p) * (p - q)).sum(-1).reshape(len(original), -1).mean(1)


def interval(statistic, columns: np.ndarray) -> tuple[float, float, float]:
    """Return value and percentile bootstrap interval over items of a statistic of the columns' means."""
    rng, n = np.random.default_rng(0), columns.shape[1]
    draws = [statistic(columns[:, rng.integers(0, n, n)].mean(1)) for _ in range(RESAMPLES)]
    low, high = np.quantile(draws, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return statistic(columns.mean(1)), low, high


def stored_bytes(result: Result) -> int:
    """Return the bytes of the weights, as the finished package holds them."""
    report = read(cache_folder() / "artifacts" / result.context["artifact"][:32]).facts["report"]
    return report["weight_bytes"]


def contest_rows(contest: Contest) -> tuple[str, str]:
    """Return a row of the table of quality and one of the table of fidelity."""
    names = ("fp32", contest.uniform, contest.mixed)
    run(contest.model, list(names), contest.backend, contest.items, BYTES, "--rounds", "0")
    found = [newest(BYTES, contest.model, name, contest.backend) for name in names]
    for name, result in zip(names, found, strict=True):
        if result is None or result.status != "ok":
            why = "nothing is stored" if result is None else result.reason
            return f"| {contest.model} | {name}: {why} |", f"| {contest.model} | {contest.mixed} | not measured |"
    _, uniform, mixed = found
    quality = MODELS.get(contest.model).info.quality
    kept = compare(
        uniform.outcomes, mixed.outcomes, outcome=quality.outcome, better=quality.better, margin=quality.margin
    )
    sizes = [stored_bytes(result) for result in (uniform, mixed)]
    first = (
        f"| {contest.model} | {contest.mixed} | {len(mixed.outcomes):,} | {sizes[0]:,} | {sizes[1]:,} | "
        f"{kept.reference:.4f} | {kept.candidate:.4f} | "
        f"{kept.drop:+.4f} [{kept.drop_low:+.4f}, {kept.drop_high:+.4f}] | {kept.verdict} |"
    )
    original, theirs = outputs(contest, uniform)
    _, ours = outputs(contest, mixed)
    columns = np.stack([noise(original, theirs), noise(original, ours)])
    gain = interval(lambda means: 10 * np.log10(means[0] / means[1]), columns)
    kl = np.stack([divergence(original, theirs), divergence(original, ours)])
    less = interval(lambda means: means[1] / means[0], kl)
    second = (
        f"| {contest.model} | {contest.mixed} | {len(original):,} | "
        f"{gain[0]:+.2f} dB [{gain[1]:+.2f}, {gain[2]:+.2f}] | "
        f"{kl[0].mean():.3g} | {kl[1].mean():.3g} | {less[0]:.2f} [{less[1]:.2f}, {less[2]:.2f}] |"
    )
    return first, second


def plan_row(contest: Contest) -> str:
    """Write the sensitivity page; return what was chosen and how well losses add up."""
    import torch

    from quantkit.procedures import costs, mixed, sensitivity
    from quantkit.search import page

    torch.set_num_threads(1)
    model = MODELS.get(contest.model)
    network, made = model.load(), METHODS.get(contest.mixed).recipe()
    items = DATASETS.get(model.info.dataset).calibration(contest.settings.calibration)
    cache = cache_folder() / "sensitivity"
    found = mixed.decide(network, items, made, cache=cache, say=lambda line: print(line, file=sys.stderr))
    few = mixed.first(items, found.sensitivities.items)
    loss = sensitivity.KL if found.sensitivities.loss == sensitivity.KL.name else sensitivity.NOISE
    predicted, joint = sensitivity.additivity(network, few, found.sensitivities, found.choices, loss)
    table = costs.table(network, found.sensitivities.units, made.schemes, made.storage)
    facts = {
        "budget, bytes of weights": found.budget_bytes,
        "taken": int(found.assignment.cost),
        "loss, sum of the single ones": f"{predicted:.3g}",
        "loss of all at once": f"{joint:.3g}",
        "changes of precision": found.assignment.transitions,
    }
    bytes_ = table
    page.write(
        PAGES / contest.mixed / contest.model,
        contest.model,
        found.sensitivities,
        choices=found.choices,
        bytes_=bytes_,
        facts=facts,
    )
    counts = [sum(choice == scheme for choice in found.choices.values()) for scheme in made.schemes]
    chosen = " · ".join(f"{n} {scheme.name}" for n, scheme in zip(counts, made.schemes, strict=True))
    return (
        f"| {contest.model} | {contest.mixed} | {len(few)} | {chosen} | "
        f"{found.assignment.transitions} | {found.budget_bytes:,} | "
        f"{int(found.assignment.cost):,} | {predicted:.3g} | {joint:.3g} |"
    )


def section_bytes() -> str:
    """Return the part on bytes."""
    rows = [contest_rows(contest) for contest in CONTESTS]
    plans = [plan_row(contest) for contest in CONTESTS]
    contest = CONTESTS[0]
    command = (
        f"quantkit run --models {','.join(MODELS_OF_6_BITS)} --methods fp32,{contest.uniform},"
        f"{','.join(dict.fromkeys(c.mixed for c in CONTESTS))} --backends {contest.backend} --targets cpu "
        "--profile regular --rounds 0"
    )
    return "\n".join(
        [
            "### In the bytes of uniform 6 bits",
            "",
            f"Mixed plans against `{contest.uniform}`, both as Core ML packages (off a Mac carried out by",
            "`quantkit.mil`), item by item on the same evaluation items:",
            f"`{command}`.",
            "`mixed_6bit` has integers of 16, 8 and 4 bits, forms that four toolchains hold; `mixed_6bit_palette` may",
            "take palettes of 6 bits too, which Core ML alone has beside them. The plans come from",
            "calibration items alone. A drop above 0 would be a loss of the mixed plan: a share of the items for",
            "accuracy, relative to uniform 6 bits for nats per token, with the 90 % interval of a one-sided test at",
            "5 %; `pass` means that a loss of the model's margin (1 point, or 1 %) is refused.",
            "",
            "| model | mixed plan | items | bytes, 6 bits | mixed | quality, 6 bits | mixed | drop | verdict |",
            "|---|---|---|---|---|---|---|---|---|",
            *(first for first, _ in rows),
            "",
            "Outputs against the original network, paired bootstrap over items, 95 %; KL in nats, its ratio mixed over",
            "uniform (below 1: the mixed plan is closer):",
            "",
            "| model | mixed plan | items | SQNR gained | KL, 6 bits | KL, mixed | ratio |",
            "|---|---|---|---|---|---|---|",
            *(second for _, second in rows),
            "",
            "The plans, and whether losses add up (KL in nats, simulated, on the calibration items):",
            "",
            "| model | mixed plan | items | layers | changes | budget, bytes | taken | sum of losses | all at once |",
            "|---|---|---|---|---|---|---|---|---|",
            *plans,
            "",
        ]
    )


# part 2: latency


def search_plan(name: str, share: float, fresh: bool) -> dict[str, object]:
    """Find a plan for a share of the full-precision latency and write it as a method; return what was found."""
    import torch

    from quantkit.procedures import mixed, sensitivity
    from quantkit.scheme import PerGroup, Scheme
    from quantkit.search import judge, plugin, steps, timing

    torch.set_num_threads(1)
    say = lambda line: print(line, file=sys.stderr)  # noqa: E731
    model = MODELS.get(name)
    network, data = model.load(), DATASETS.get(model.info.dataset).calibration()
    dynamic, four = Scheme(8, activations="dynamic"), Scheme(4, granularity=PerGroup(32))
    schemes = (sensitivity.FLOAT, Scheme(8), dynamic, four)
    few = mixed.enough(network, data, 256)
    found = sensitivity.measure(
        network, few, schemes, loss=sensitivity.KL, cache=cache_folder() / "sensitivity", say=say
    )
    if fresh:
        shutil.rmtree(PAGES / "latency" / name, ignore_errors=True)
    bench = timing.Bench(TIMED_BACKEND, "cpu", cache=PAGES / "latency" / name)
    costs = timing.seconds(network, few, found.units, schemes, bench, say)
    validation = mixed.rest(data, len(few))
    judging = judge.Judge(
        network,
        validation,
        quality=model.info.quality,
        outcomes=model.outcomes,
        required=judge.Required(retention=0.99),
    )
    place = judge.Place(TIMED_BACKEND)
    request = steps.Request(
        network, found, costs.values, "s", share, dynamic, place, few, judging, transition_share=0.0, relative=True
    )
    outcome = steps.search(request, PAGES / "latency" / name / "search", say)
    assert outcome.best is not None
    choices = {unit: schemes[index] for unit, index in zip(found.units, outcome.best.indices, strict=True)}
    plan = sensitivity.plan_of(choices, found.units, dynamic)
    plugin.write(PLUGINS, FOUND.format(name), "mixed, at a latency", name, plan)
    return {"outcome": outcome, "refused": costs.refused, "overhead": costs.overhead, "schemes": schemes}


def p50(result: Result) -> float:
    """Return the median over processes of their median latency, seconds."""
    return float(np.median([quantile(calls, 0.5) for calls in result.latencies_s]))


def section_latency(name: str, fresh: bool) -> str:
    """Return the part on latency of one model."""
    os.environ[VARIABLE] = str(PLUGINS)
    items, more = TIMED_MODELS[name], ("--fresh",) if fresh else ()
    run(name, list(TIMED), TIMED_BACKEND, items, LATENCY, *more)
    cases = {method: newest(LATENCY, name, method, TIMED_BACKEND) for method in TIMED}
    times = {method: p50(result) for method, result in cases.items() if result is not None and result.status == "ok"}
    budget = min(times.values()) + BUDGET_SHARE * (times["fp32"] - min(times.values()))
    found = search_plan(name, budget / times["fp32"], fresh)
    # all in one race: interleaved rounds, so that what drifts falls on all alike
    methods = [*times, FOUND.format(name)]
    words = run(name, methods, TIMED_BACKEND, items, LATENCY, "--fresh")
    return latency_table(name, budget / times["fp32"], found, methods, " ".join(words))


def latency_table(name: str, share: float, found: dict[str, object], methods: list[str], command: str) -> str:
    """Return the table of all cases, and whether the mixed one is on their front."""
    newest_of = {method: newest(LATENCY, name, method, TIMED_BACKEND) for method in methods}
    cases = {method: result for method, result in newest_of.items() if result is not None and result.status == "ok"}
    quality, ours = MODELS.get(name).info.quality, FOUND.format(name)
    rows = [(p50(r), float(np.mean(r.outcomes)), r.measurements["kl_divergence"].values[0]) for r in cases.values()]
    by_quality = pareto.front([row[:2] for row in rows], ("lower", quality.better))
    by_fidelity = pareto.front([(row[0], row[2]) for row in rows], ("lower", "lower"))
    lines = []
    for (method, result), row, first, second in zip(cases.items(), rows, by_quality, by_fidelity, strict=True):
        speed = ratio_of_medians(cases["fp32"].latencies_s, result.latencies_s)
        ahead = ratio_of_medians(cases[ours].latencies_s, result.latencies_s)
        marks = f"{'yes' if first else 'no'} | {'yes' if second else 'no'}"
        bold = "**" if method == ours else ""
        lines.append(
            f"| {bold}{method}{bold} | {row[0] * 1e3:.3f} | {speed.value:.2f} [{speed.low:.2f}, {speed.high:.2f}] | "
            f"{ahead.value:.2f} [{ahead.low:.2f}, {ahead.high:.2f}] | {row[1]:.4f} | {row[2]:.3g} | {marks} |"
        )
    outcome = found["outcome"]
    best = outcome.best
    kinds = " · ".join(
        f"{list(best.choices.values()).count(name)} {name}" for name in dict.fromkeys(best.choices.values())
    )
    return "\n".join(
        [
            f"### At a latency budget: {name}",
            "",
            f"`{name}` with ONNX Runtime on one thread; budget {share:.1%} of full precision's time, half-way",
            f"between it and the fastest uniform case. Found after {len(outcome.steps)} plans: {kinds}; foretold",
            f"{best.predicted_cost * 1e3:.3f} ms, {best.cost * 1e3:.3f} ms when it was built ({outcome.ended});",
            f"validation verdict on {best.verdict['items']} calibration items: {best.verdict['word']}. An empty call",
            f"takes {found['overhead'] * 1e6:.0f} µs. All cases timed again in interleaved rounds:",
            f"`{command}`.",
            "",
            "| method | p50, ms | speed-up to fp32, 95 % | speed-up to the mixed plan | "
            + quality.name.replace("_", " ")
            + " | KL, nats | front: latency and quality | front: latency and KL |",
            "|---|---|---|---|---|---|---|---|",
            *lines,
            "",
        ]
    )


def section(only: str = "", fresh: bool = False, models: Sequence[str] = tuple(TIMED_MODELS)) -> str:
    """Return the section of docs/methods.md."""
    parts = [] if only == "latency" else [section_bytes()]
    parts += [] if only == "bytes" else [section_latency(name, fresh) for name in models]
    return "\n".join(["## Mixed precision", "", *parts])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=["bytes", "latency"], default="")
    parser.add_argument("--fresh", action="store_true", help="time again what is stored")
    parser.add_argument("--models", default=",".join(TIMED_MODELS), help="models of the part on latency")
    options = parser.parse_args()
    print(section(options.only, options.fresh, options.models.split(",")))

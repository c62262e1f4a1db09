"""The adaptive session on real networks: does it hold its requirement, is it faster, is it off every static front?

    python scripts/methods_adaptive.py                  all of it
    python scripts/methods_adaptive.py --only timing    time again, keep the rest (nothing else may run on the machine)
    python scripts/methods_adaptive.py --against fp32,int8_static    race against these static precisions only

What each precision answers to every item is computed once and kept in .quantkit/methods/adaptive/.
"""

import argparse
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from scipy.special import logsumexp

from quantkit.adaptive import build, cascade, command, judge
from quantkit.adaptive.cascade import Requirement
from quantkit.adaptive.confidence import margin, scores
from quantkit.adaptive.session import AdaptiveSession, Rules
from quantkit.catalog import DATASETS, METHODS, MODELS, TARGETS
from quantkit.contracts import Split
from quantkit.errors import QuantizationError
from quantkit.pipeline import keys
from quantkit.pipeline.plan import unsupported
from quantkit.pipeline.settings import Settings
from quantkit.records import Case
from quantkit.stats import paired_binary
from quantkit.stats.interval import Estimate, paired_bootstrap

ROOT = Path(__file__).resolve().parent.parent
KEPT = ROOT / ".quantkit" / "methods" / "adaptive"
SETTINGS = Settings.of("fast", threads=1)
BACKEND, FULL, SESSION = "onnxruntime", "fp32", "adaptive session"
SPLITS, ALPHA, FASTER, TIMED_ITEMS = 20, 0.05, 1.5, 5_000
COST_ITEMS = 100
TRAINED = "qat"  # these methods have a section of their own
HALF = 0  # seed of the split that the races use


@dataclass(frozen=True)
class Subject:
    """A model, the precisions of its session (cheapest first), the losses asked for (the first one in the race).

    Args:
        raced: against every static precision; the others appear in the table of requirements only.
        independent: whether the questions are, as the guarantee supposes.
    """

    model: str
    precisions: tuple[str, ...]
    losses: tuple[float, ...] = (0.005, 0.002)
    raced: bool = True
    independent: bool = True

    @property
    def cases(self) -> tuple[Case, ...]:
        return tuple(case(self.model, method) for method in self.precisions)


SUBJECTS = (
    Subject("fmnist_cnn", ("int8_static", FULL)),
    Subject("fmnist_lstm", ("int8_dynamic", FULL)),
    Subject("fmnist_vit", ("int8_static", FULL), raced=False),
    Subject("pydoc_gpt", ("int8_dynamic", "int8_weight_only", FULL), losses=(0.001, 0.002, 0.0005), independent=False),
)


def case(model: str, method: str) -> Case:
    return Case(model, method, BACKEND, "cpu")


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


@cache
def items(model: str) -> Split:
    return DATASETS.get(MODELS.get(model).info.dataset).evaluation()


@cache
def guarded(model: str) -> np.ndarray:
    """Return which items the guard would send to full precision, [items]."""
    split = items(model)
    return np.array([guard_of(model).alarm(split.item(i)) for i in range(len(split))])


@cache
def guard_of(model: str):
    return build.guard(DATASETS.get(MODELS.get(model).info.dataset).calibration(), rate=build.FALSE_ALARMS)


@dataclass(frozen=True)
class Said:
    """What one precision answered, [items, questions] each.

    An image is one question. A passage of t tokens is t questions: the next token after each of its prefixes. The
    network looks at no later token, so one run of the passage answers all of them.

    Args:
        outcome: the model's own quality of each question: 1 for right and 0 for wrong, or nats.
    """

    sure: np.ndarray
    right: np.ndarray
    outcome: np.ndarray


@cache
def answered(model: str, method: str) -> Said:
    """Return what a precision answers to all items; asked once and kept."""
    one = case(model, method)
    file = KEPT / f"{model}-{method}-{keys.artifact_key(one, SETTINGS)[:16]}.npz"
    if not file.is_file():
        say(f"answering {len(items(model)):,} items by {one.id}")
        with build.opened([one], SETTINGS, say) as (precision,):
            np.savez(file, **asked(model, precision))
    with np.load(file) as found:
        return Said(found["sure"], found["right"], found["outcome"])


def asked(model: str, precision: build.Precision) -> dict[str, np.ndarray]:
    """Return the fields of `Said`, asking every item."""
    split, found = items(model), []
    nats = MODELS.get(model).info.quality.name == "nats_per_token"
    for i in range(len(split)):
        output = precision.outputs([split.item(i)])
        logits = output.reshape(-1, output.shape[-1]).astype(np.float64)
        labels = np.atleast_1d(split.targets[i])
        right = logits.argmax(1) == labels
        likely = logits[np.arange(len(labels)), labels] - logsumexp(logits, axis=1)
        found.append((margin(logits.astype(np.float32)), right, -likely if nats else right.astype(float)))
    sure, right, outcome = (np.stack(part) for part in zip(*found, strict=True))
    return {"sure": sure, "right": right, "outcome": outcome}


@cache
def costs(subject: Subject) -> tuple[float, ...]:
    """Return the median seconds of a request to each precision, all asked in turn."""
    few = command.part(items(subject.model), np.arange(COST_ITEMS))
    with build.opened(subject.cases, SETTINGS, say) as precisions:
        return build.answers(precisions, few, TARGETS.get("cpu"))[1]


def evidence(subject: Subject, rows: np.ndarray) -> cascade.Evidence:
    """Return what some items say of thresholds, the guard included; all questions of an item go together."""
    said = [answered(subject.model, method) for method in subject.precisions]
    sure = np.stack([one.sure[rows].ravel() for one in said])
    right = np.stack([one.right[rows].ravel() for one in said])
    strange = np.repeat(guarded(subject.model)[rows], sure.shape[1] // len(rows))
    return cascade.Evidence(sure, right, costs(subject), strange)


def halves(model: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
    order = np.random.default_rng(seed).permutation(len(items(model)))
    return order[: len(order) // 2], order[len(order) // 2 :]


def calibrated(subject: Subject, rows: np.ndarray, loss: float, seed: int) -> cascade.Thresholds:
    return cascade.calibrate(evidence(subject, rows), Requirement(loss, alpha=ALPHA), seed=seed)


def splits(subject: Subject, loss: float) -> np.ndarray:
    """Return for each random split: loss on the held-out half, share answered below full, model-time ratio."""
    found = []
    for seed in range(SPLITS):
        validation, held = halves(subject.model, seed)
        thresholds, seen = calibrated(subject, validation, loss, seed), evidence(subject, held)
        done = cascade.apply(seen, thresholds.values)
        lost = (done.lost - done.gained) / len(done.chosen)
        below = float((done.chosen < len(seen.costs) - 1).mean())
        found.append((lost, below, seen.costs[-1] / done.cost_s))
    return np.array(found)


def guarantee() -> str:
    """Return the table of requirements that were held, and the sentence that says whether all were."""
    rows, worst = [], SPLITS
    for subject in SUBJECTS:
        said = [answered(subject.model, method).right.mean() for method in subject.precisions]
        means = ", ".join(f"{name} {mean:.2%}" for name, mean in zip(subject.precisions, said, strict=True))
        for loss in sorted(subject.losses, reverse=True):
            say(f"{SPLITS} splits of {subject.model}, loss {loss:g}")
            found = splits(subject, loss)
            held = int((found[:, 0] <= loss).sum())
            worst, middle = min(worst, held if subject.independent else SPLITS), np.median(found, axis=0)
            name = subject.model + ("" if subject.independent else " (dependent)")
            rows.append(
                f"| {name} | {means} | {loss:.2%} | {held} of {SPLITS} | {middle[0]:+.3%} | "
                f"{found[:, 0].max():+.3%} | {middle[1]:.1%} | {middle[2]:.2f} |"
            )
    return GUARANTEE.format(rows="\n".join(rows), splits=SPLITS, sure=1 - ALPHA, worst=worst)


GUARANTEE = """\
**The requirement on held-out data.** {splits} random splits in halves: on one half thresholds are calibrated to lose no
more accuracy against full precision than stated, with probability {sure:.0%} (Learn-then-Test); on the other half they
are judged. Images: the 10,000 of Fashion-MNIST's test set. pydoc_gpt: the token that follows each prefix of 512
passages of 128 tokens, split by passage; these questions depend on each other, so that the guarantee does not cover
them. Times as fast counts only the seconds inside the precisions that were asked.

| model | accuracy of each precision | may lose | held | median loss | largest loss | below full | times as fast |
|---|---|---:|---:|---:|---:|---:|---:|
{rows}

Asked for: at least 19 of 20. Fewest of the rows that the guarantee covers: {worst} of {splits}."""


@cache
def statics(model: str, among: tuple[str, ...]) -> tuple[str, ...]:
    """Return which of some methods, of all without training for none, ONNX Runtime can build for a model."""
    found = []
    for method in among or [name for name in METHODS.names() if not name.startswith(TRAINED)]:
        if unsupported(case(model, method)):
            continue
        try:
            build.artifact(case(model, method), SETTINGS, say)
            found.append(method)
        except QuantizationError as error:
            say(f"left out: {model} {method}: {error}")
    return tuple(found)


def race(
    subject: Subject, thresholds: cascade.Thresholds, held: np.ndarray, methods: tuple[str, ...]
) -> tuple[judge.Race, dict]:
    """Return the times of the session and of every static precision on held-out items, and the session's counters."""
    split, target = command.part(items(subject.model), held[:TIMED_ITEMS]), TARGETS.get("cpu")
    with build.opened([case(subject.model, m) for m in methods], SETTINGS, say) as every:
        own = {one.name: one for one in every}
        rules = Rules(thresholds.levels, "margin", guard_of(subject.model))
        session = AdaptiveSession([own[m] for m in subject.precisions], rules, target, example=split.item(0))
        arms = {SESSION: lambda item: scores(session.answer(item).output)}
        arms |= {one.name: (lambda item, one=one: scores(one.outputs([item]))) for one in every}
        say(f"timing {subject.model}: {len(arms)} arms, {len(split)} requests, in turn")
        return judge.race(arms, split, target), session.counters.read()


def gain(model: str, ours: np.ndarray, theirs: np.ndarray) -> Estimate:
    """Return how much better our outcomes [items, questions] are, with a 95 % interval: items are what is resampled."""
    if MODELS.get(model).info.quality.better == "lower":
        ours, theirs = -ours, -theirs
    if ours.shape[1] > 1:
        return paired_bootstrap(theirs.mean(1), ours.mean(1))
    gained, lost = int((ours > theirs).sum()), int((theirs > ours).sum())
    return Estimate((gained - lost) / len(ours), *paired_binary.drop_interval(gained, lost, len(ours), 0.025), 0.95)


def timed(subject: Subject, among: tuple[str, ...]) -> tuple[list[str], bool, bool]:
    """Return the lines of one race, whether it is fast enough, and whether every static precision is beaten."""
    validation, held = halves(subject.model, HALF)
    thresholds = calibrated(subject, validation, subject.losses[0], HALF)
    methods = statics(subject.model, among)
    found, counted = race(subject, thresholds, held, methods)
    said = {method: answered(subject.model, method).outcome[held] for method in methods}
    chosen = cascade.apply(evidence(subject, held), thresholds.values).chosen.reshape(said[FULL].shape)
    said[SESSION] = np.choose(chosen, [said[method] for method in subject.precisions])
    lines, beaten = [], True
    for name in sorted(found.seconds, key=lambda name: found.seconds[name].mean()):
        facts = [subject.model, name, f"{said[name].mean():.4f}", f"{found.seconds[name].mean() * 1e6:,.0f}"]
        if name == SESSION:
            shares = (f"{method} {count / counted['requests']:.1%}" for method, count in counted["answers"].items())
            facts = [subject.model, f"**{name}** ({', '.join(shares)})", *facts[2:], "", "", ""]
        else:
            better, faster = gain(subject.model, said[SESSION], said[name]), found.speedup(name, SESSION)
            beaten &= better.low > 0 or faster.low > 1
            facts += [
                f"{better.value:+.4f} ({better.low:+.4f} to {better.high:+.4f})",
                f"{faster.value:.2f} ({faster.low:.2f} to {faster.high:.2f})",
                " and ".join(["better"] * (better.low > 0) + ["faster"] * (faster.low > 1)) or "neither",
            ]
        lines.append("| " + " | ".join(facts) + " |")
    return lines, found.speedup(FULL, SESSION).low >= FASTER, beaten


def timing(among: tuple[str, ...] = ()) -> str:
    """Return the tables of the races, and what they show."""
    lines, fast, front = [], [], []
    for subject in [subject for subject in SUBJECTS if subject.raced]:
        rows, faster, beaten = timed(subject, among)
        lines += rows
        name = f"{subject.model} ({' → '.join(subject.precisions)}, may lose {subject.losses[0]:.1%})"
        fast += [name] * faster
        front += [name] * beaten
    which = f"among {', '.join(among)}" if among else "that ONNX Runtime can build without training"
    return TIMING.format(
        which=which,
        rows="\n".join(lines),
        faster=FASTER,
        fast="; ".join(fast) or "none",
        front="; ".join(front) or "none",
        full=FULL,
    )


TIMING = """\
**Time and quality against every static precision** {which}.

One half of the items calibrates the session; the other half is asked one request at a time on one thread, arms in
turn in blocks of 50 requests (5 of pydoc_gpt), in a new random order for each block. A request: an image, or a
passage of 128 tokens whose next token is asked for. Time: mean from NumPy inputs to NumPy scores, all overhead of the
session (input guard, confidence, counters) included. Quality: the model's own, of all questions of the held-out half:
top-1 accuracy, or of pydoc_gpt nats per token (lower is better). Gain (positive is better) and times as fast: the
session against that precision, with 95 % intervals (paired by item; by block for times).

| model | precision | quality | µs a request | gain of quality | times as fast | session is surely |
|---|---|---:|---:|---:|---:|---|
{rows}

At least {faster} times as fast as {full} (lower end of the interval): {fast}.
Beats every single static precision, each surely in quality or in time: {front}."""

PARTS = {"guarantee": guarantee, "timing": timing}


def section(only: str = "", among: tuple[str, ...] = ()) -> str:
    """Return the section; with `only`, the other part is taken as it was measured last."""
    KEPT.mkdir(parents=True, exist_ok=True)
    texts = []
    for name, part in PARTS.items():
        file = KEPT / f"{name}.md"
        if not only or only == name or not file.is_file():
            file.write_text(part(among) if part is timing else part())
        texts.append(file.read_text())
    head = "## The adaptive session\n\n`python scripts/methods_adaptive.py`; ONNX Runtime on the processor, one thread."
    return "\n\n".join([head, *texts]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=list(PARTS), default="", help="measure this part alone")
    parser.add_argument("--against", default="", metavar="A,B", help="static precisions to race against (default: all)")
    options = parser.parse_args()
    text = section(options.only, tuple(filter(None, options.against.split(","))))
    KEPT.with_suffix(".md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()

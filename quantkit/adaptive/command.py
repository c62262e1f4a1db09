"""What `quantkit adapt` does: calibrate a session on one half of the items, judge it on the other, say the outcome."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Callable
from typing import Any

import numpy as np

from quantkit.adaptive import build, judge
from quantkit.adaptive.cascade import NEVER, Requirement, Thresholds
from quantkit.adaptive.confidence import scores
from quantkit.adaptive.counters import Counters
from quantkit.adaptive.feedback import Audit
from quantkit.adaptive.ladder import Precision
from quantkit.adaptive.session import AdaptiveSession
from quantkit.catalog import MODELS, TARGETS
from quantkit.contracts import Split
from quantkit.errors import InvalidSetting
from quantkit.pipeline.inside import evaluation_items
from quantkit.pipeline.plan import baseline_of
from quantkit.pipeline.settings import Settings
from quantkit.records import Case
from quantkit.stats import paired_binary

Say = Callable[[str], None]
SESSION = "session"


def run(options: Namespace, say: Say, show: Say) -> int:
    """Calibrate, judge and show; return 0 where the session kept the requirement on the held-out half, else 1.

    Raises:
        QuantizationError: a mistake of the command line, or a precision that cannot be built.
    """
    wanted = _wanted(options)
    settings = Settings.of("regular", threads=options.threads, items=options.items)
    validation, held = halves(evaluation_items(options.model, settings), options.seed)
    with build.opened(wanted.cases, settings, say) as precisions:
        say(f"calibrating on {len(validation)} items: {wanted.requirement}")
        session, thresholds = build.calibrated(wanted, precisions, validation, seed=options.seed)
        say(f"judging on {len(held)} other items")
        found = judged(wanted, session, precisions, held, options.seed)
    facts = {"requirement": str(wanted.requirement), "thresholds": described(thresholds, precisions), **found}
    show(_shown(facts, session.counters, options.format))
    return 0 if found["kept"] and thresholds.certified else 1


def _wanted(options: Namespace) -> build.Wanted:
    methods = [word.strip() for word in options.methods.split(",")]
    first = Case(options.model, methods[0], options.backend, options.target)
    full = baseline_of(first).method
    names = [*dict.fromkeys(method for method in methods if method != full), full]
    if len(names) < 2:
        raise InvalidSetting(f"--methods names the precisions that are cheaper than {full}: got only {full}")
    cases = tuple(Case(options.model, method, options.backend, options.target) for method in names)
    loss = options.loss if options.accuracy is None else None
    requirement = Requirement(loss, options.accuracy, options.alpha)
    audit = Audit(share=options.audit) if options.audit else None
    return build.Wanted(cases, requirement, options.confidence, options.false_alarms or None, audit=audit)


def halves(items: Split, seed: int) -> tuple[Split, Split]:
    """Return two halves of the items, drawn at random."""
    order = np.random.default_rng(seed).permutation(len(items))
    return part(items, order[: len(order) // 2]), part(items, order[len(order) // 2 :])


def part(items: Split, rows: np.ndarray) -> Split:
    """Return some of the items."""
    return Split(tuple(x[rows] for x in items.inputs), items.targets[rows], tuple(items.ids[i] for i in rows))


def judged(
    wanted: build.Wanted, session: AdaptiveSession, precisions: list[Precision], held: Split, seed: int
) -> dict[str, Any]:
    """Return what the session and full precision did on held-out items, in turn on each."""
    model, full = MODELS.get(wanted.cases[0].model), precisions[-1]
    arms: dict[str, judge.Arm] = {
        SESSION: lambda item: scores(session.answer(item).output),
        full.name: lambda item: scores(full.outputs([item])),
    }
    found = judge.race(arms, held, TARGETS.get(wanted.cases[0].target), seed=seed)
    said = np.stack([found.outputs[SESSION], found.outputs[full.name]])
    right = build.evidence(model, said, held, (1.0, 1.0)).right
    lost, gained = int((right[1] & ~right[0]).sum()), int((right[0] & ~right[1]).sum())
    low, high = paired_binary.drop_interval(lost, gained, len(held), 0.025)
    speed = found.speedup(full.name, SESSION, seed=seed)
    loss, accuracy, asked = (lost - gained) / len(held), float(right[0].mean()), wanted.requirement
    kept = accuracy >= asked.accuracy if asked.accuracy is not None else loss <= (asked.loss or 0.0)
    return {
        "items": len(held),
        "accuracy": accuracy,
        "full_accuracy": float(right[1].mean()),
        "loss": {"value": loss, "low": low, "high": high},
        "speedup": {"value": speed.value, "low": speed.low, "high": speed.high},
        "mean_s": {name: float(seconds.mean()) for name, seconds in found.seconds.items()},
        "kept": bool(kept),
    }


def described(thresholds: Thresholds, precisions: list[Precision]) -> dict[str, Any]:
    """Return the thresholds by name; null where a precision is not asked at all."""
    values = {p.name: None if value == NEVER else value for p, value in zip(precisions, thresholds.values)}
    return {"values": values, "certified": thresholds.certified, "tested": thresholds.tested}


def _shown(facts: dict[str, Any], counters: Counters, style: str) -> str:
    if style == "prometheus":
        return counters.prometheus()
    if style == "json":
        return json.dumps(facts | {"counters": counters.read()}, indent=1, allow_nan=False)
    seen, loss, speed = counters.read(), facts["loss"], facts["speedup"]
    shares = ", ".join(f"{name} {count / seen['requests']:.1%}" for name, count in seen["answers"].items())
    asked = ", ".join(
        f"{name} from {value:.4f}" if value is not None else f"{name} never"
        for name, value in facts["thresholds"]["values"].items()
    )
    rows = [
        ("required", facts["requirement"] + ("" if facts["thresholds"]["certified"] else ": NOT reached by any")),
        ("trusted", f"{asked} (confidence), certified on {facts['thresholds']['tested']} items"),
        ("answers", f"{shares}; {seen['escalations']} escalations, {seen['out_of_calibration']} out of calibration"),
        ("accuracy", f"{facts['accuracy']:.2%}, full precision {facts['full_accuracy']:.2%}, {facts['items']} items"),
        ("loss", f"{loss['value']:+.2%} (95 %: {loss['low']:+.2%} to {loss['high']:+.2%})"),
        ("speed", f"{speed['value']:.2f} times full precision (95 %: {speed['low']:.2f} to {speed['high']:.2f})"),
        ("verdict", "kept on the held-out items" if facts["kept"] else "NOT kept on the held-out items"),
    ]
    return "\n".join(f"{label:<9} {text}" for label, text in rows)

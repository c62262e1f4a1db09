"""What happens in the case's own process: sessions are opened, items fed, and LoadGen runs one scenario."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from quantkit.catalog import MODELS
from quantkit.contracts import Session, Split, Target, steps
from quantkit.pipeline.inside import evaluation_items, opened
from quantkit.pipeline.settings import Settings
from quantkit.records import Case
from quantkit.scenarios import loadgen, log
from quantkit.scenarios.load import Load, LoadResult
from quantkit.state import disturbances, own_processor_s, snapshot

ITEMS = 1_024  # of the evaluation items: MLPerf's own number for ResNet-50
START = 0.5  # of what the workers can do: the rate at which the search for a server's highest rate begins


def run(case: Case, folder: Path, settings: Settings, load: Load, heart: Path) -> LoadResult:
    """Answer items under load; `heart` is a file in which the number of answers so far is kept for who waits."""
    started = time.perf_counter()
    split = evaluation_items(case.model, settings).first(ITEMS)
    stepwise = MODELS.get(case.model).info.stepwise
    workers = [opened(case, folder, settings) for _ in range(load.workers)]
    answers = [answerer(session, target, split, stepwise) for session, target in workers]
    item_s = max(loadgen.probe(answer, len(split)) for answer in answers)
    if load.scenario == "server" and load.rate is None:
        load = replace(load, rate=START * load.workers / item_s)
    with tempfile.TemporaryDirectory(prefix="quantkit-load-") as place:
        before, own_s = snapshot(slow=False), own_processor_s()
        found, spans = loadgen.drive(
            answers, len(split), load, Path(place), item_s=item_s, beat=lambda count: _write(heart, count)
        )
        disturbed = disturbances(before, snapshot(slow=False), own_processor_s() - own_s)
    for session, _ in workers:
        session.close()
    done = concluded(case, load, found, spans, item_s, time.perf_counter() - started)
    return replace(done, disturbed=disturbed)


def _write(heart: Path, count: int) -> None:
    heart.write_text(str(count))


def answerer(session: Session, target: Target, split: Split, stepwise: bool) -> Callable[[int], None]:
    """Return what answers the item of a number; items are fed beforehand, as LoadGen's rules allow."""
    if stepwise:
        fed = [[session.feed(step) for step in steps(split.item(i))] for i in range(len(split))]
    else:
        fed = [[session.feed(split.item(i))] for i in range(len(split))]

    def answer(index: int) -> None:
        if stepwise:
            session.reset()  # type: ignore[attr-defined]  # the plan gives stepwise models to stateful backends only
        for step in fed[index]:
            session.run(step)
        target.synchronize()

    return answer


def concluded(
    case: Case, load: Load, found: dict[str, Any], spans: np.ndarray, item_s: float, elapsed_s: float
) -> LoadResult:
    """Return the record of one run; `spans` as of `loadgen.drive`."""
    times = spans
    if load.scenario == "multi_stream":  # the items of a query arrive together: it is answered with its last one
        arrivals, query = np.unique(times[:, 0], return_inverse=True)
        times = np.stack([arrivals, np.zeros_like(arrivals)], axis=1)
        np.maximum.at(times[:, 1], query, spans[:, 1])
    latencies = times[:, 1] - times[:, 0]
    seconds = float(times[:, 1].max() - times[:, 0].min())
    kind = "_query" if load.scenario == "multi_stream" else ""
    told = found.get("early_stopping_latency_ms" if kind else "early_stopping_latency_ss") or None
    return LoadResult(
        case,
        load,
        valid=found["result_validity"] == "VALID",
        reasons=log.reasons(found),
        queries=found["result_query_count"],
        samples=len(spans),
        rate=found.get("result_completed_samples_per_sec") or found.get("result_samples_per_second")
        or len(spans) / seconds,
        percentiles_s=log.percentiles(found),
        mean_s=found[f"result_mean{kind}_latency_ns"] * log.NANO,
        estimate_s=told * log.NANO if told and load.scenario in ("single_stream", "multi_stream") else None,
        over=found.get("result_overlatency_query_count"),
        latencies_s=tuple(latencies.round(9).tolist()),
        item_s=item_s,
        elapsed_s=elapsed_s,
        loadgen=found.get("loadgen_version", ""),
    )  # fmt: skip

"""Drives MLCommons' LoadGen: our sessions are its system under test, evaluation items its query sample library.

LoadGen asks for items by number, at moments that the scenario decides, and measures from the scheduled moment until we
say that the item is answered. Queries wait in one queue; each worker answers from it, one item after the other (an
artifact takes one item at a time). LoadGen lives in this process, as its rules want it.
"""

from __future__ import annotations

import gc
import queue
import sys
import threading
import time
from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from quantkit import extras
from quantkit.errors import CaseFailed
from quantkit.scenarios import log
from quantkit.scenarios.load import Load

Answer = Callable[[int], object]  # of the item with that number; it returns when the answer is there
DETAIL, TRACE = "mlperf_log_detail.txt", "mlperf_log_trace.json"
SWITCH_S = 2e-4  # a waiting thread of Python gets its turn after this long at the latest (usually 5 ms)
SCENARIO = {
    "single_stream": "SingleStream",
    "multi_stream": "MultiStream",
    "server": "Server",
    "offline": "Offline",
}  # LoadGen's names
AHEAD = 2.0  # LoadGen makes its queries before it starts: for answers twice as fast as the probe saw them
LITTLE = 10  # a bound is kept by rate x bound waiting queries (Little's law); with ten times as many, it is lost


@dataclass
class System:
    """The system under test: a queue and the workers that answer from it.

    Args:
        answers: one for each worker.
        done: called with LoadGen's ids of a batch that is answered.
        beat: called now and then with the number of answers so far.
    """

    answers: Sequence[Answer]
    done: Callable[[int], None]
    beat: Callable[[int], None] = lambda count: None
    spans: array[float] = field(default_factory=lambda: array("d"))  # arrival, answer, arrival, ...; perf_counter
    fault: Exception | None = None

    def __post_init__(self) -> None:
        self._queue: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._threads = [threading.Thread(target=self._work, args=(one,), daemon=True) for one in self.answers]
        self._told = time.perf_counter()

    def __enter__(self) -> System:
        for one in self._threads:
            one.start()
        return self

    def __exit__(self, *_: object) -> None:
        for _thread in self._threads:
            self._queue.put(None)
        for thread in self._threads:
            thread.join()

    def issue(self, samples: Sequence[Any]) -> None:
        """Take a query."""
        now = time.perf_counter()
        for sample in samples:
            self._queue.put((sample.id, sample.index, now))

    def _work(self, answer: Answer) -> None:
        while (job := self._queue.get()) is not None:
            name, index, arrived = job
            try:
                if self.fault is None:
                    answer(index)
            except Exception as error:  # LoadGen waits for every answer: the rest is waved through, then it is raised
                self.fault = error
            now = time.perf_counter()
            self.spans.extend((arrived, now))
            self.done(name)
            if now - self._told > 1:
                self._told = now
                self.beat(len(self.spans) // 2)


def probe(answer: Answer, items: int, seconds: float = 0.3) -> float:
    """Return the median seconds of one answer, after as long a warm-up."""
    for _ in range(2):
        found: list[float] = []
        started = time.perf_counter()
        while len(found) < 5 or time.perf_counter() - started < seconds:
            before = time.perf_counter()
            answer(len(found) % items)
            found.append(time.perf_counter() - before)
    return sorted(found)[len(found) // 2]


def drive(
    answers: Sequence[Answer], items: int, load: Load, folder: Path, *, item_s: float,
    beat: Callable[[int], None] = lambda count: None, trace: bool = False,
) -> tuple[dict[str, Any], np.ndarray]:  # fmt: skip
    """Run one scenario; return LoadGen's facts (`log.facts`) and our own arrival and answer of samples [n, 2], seconds.

    Args:
        answers: one for each worker.
        items: how many there are to ask for.
        folder: where LoadGen writes its logs.
        item_s: what one answer takes, for LoadGen's preparation.
        trace: have LoadGen write `mlperf_log_trace.json` too: every sample's own times; large.

    Raises:
        MissingExtra: LoadGen is not installed.
        CaseFailed: an answer failed, or LoadGen gave no result.
    """
    lg = extras.require("mlperf_loadgen")
    library = lg.ConstructQSL(items, items, lambda _: None, lambda _: None)
    with quiet(), System(answers, lambda name: complete(lg, name), beat) as system:
        under_test = lg.ConstructSUT(system.issue, lambda: None)
        nobody = folder / "audit.config"  # else LoadGen would take one from the working directory
        lg.StartTestWithLogSettings(
            under_test, library, test_settings(lg, load, item_s), log_settings(lg, folder, trace), str(nobody)
        )
    lg.DestroySUT(under_test)
    lg.DestroyQSL(library)
    if system.fault is not None:
        raise CaseFailed(f"an answer failed under load: {type(system.fault).__name__}: {system.fault}")
    return log.facts((folder / DETAIL).read_text(errors="replace")), np.array(system.spans).reshape(-1, 2)


def complete(lg: Any, name: int) -> None:
    """Tell LoadGen that a sample is answered."""
    lg.QuerySamplesComplete([lg.QuerySampleResponse(name, 0, 0)])


def test_settings(lg: Any, load: Load, item_s: float) -> Any:
    """Return a scenario as LoadGen's TestSettings."""
    made = lg.TestSettings()
    made.scenario = getattr(lg.TestScenario, SCENARIO[load.scenario])
    made.mode = lg.TestMode.PerformanceOnly
    made.min_duration_ms = round(load.duration_s * 1e3)
    made.min_query_count = load.least_queries
    made.qsl_rng_seed = made.sample_index_rng_seed = made.schedule_rng_seed = load.seed
    one_ns = item_s * 1e9 / AHEAD
    if load.scenario == "single_stream":
        made.single_stream_expected_latency_ns = max(1, round(one_ns))
        made.single_stream_target_latency_percentile = load.judged
    elif load.scenario == "multi_stream":
        made.multi_stream_samples_per_query = load.samples_per_query
        made.multi_stream_expected_latency_ns = max(1, round(one_ns * load.samples_per_query / load.workers))
        made.multi_stream_target_latency_percentile = load.judged
    elif load.scenario == "server":
        assert load.rate is not None
        made.server_target_qps = load.rate
        made.server_target_latency_ns = round(load.latency_s * 1e9)
        made.server_target_latency_percentile = load.judged
        made.server_max_async_queries = max(1_000, round(LITTLE * load.rate * load.latency_s))
    else:
        made.offline_expected_qps = 1.25 * load.workers / item_s
    return made


def log_settings(lg: Any, folder: Path, trace: bool) -> Any:
    """Return LoadGen's LogSettings: into the folder, nothing on the screen, nothing written while it measures."""
    made, output = lg.LogSettings(), lg.LogOutputSettings()
    output.outdir, output.copy_summary_to_stdout, output.copy_detail_to_stdout = str(folder), False, False
    made.log_output, made.enable_trace, made.log_mode = output, trace, lg.LoggingMode.EndOfTestOnly
    return made


@contextmanager
def quiet() -> Iterator[None]:
    """Keep Python itself out of the way: no garbage collection, short turns."""
    turns = sys.getswitchinterval()
    gc.collect()
    gc.disable()
    sys.setswitchinterval(SWITCH_S)
    try:
        yield
    finally:
        sys.setswitchinterval(turns)
        gc.enable()

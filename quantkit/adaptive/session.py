"""The story of a request: is it like the calibration items, how much time is there, what does the cheap answer say?

    guard      out of calibration -> full precision at once
    load       the queue caps the precision (never below the stated floor)
    cascade    the cheapest precision that is asked answers; unsure answers go one precision up, as far as the cap
    feedback   a share of the requests is compared with full precision; drift tightens the thresholds

Decisions are the pure functions of `inputs`, `load`, `cascade` and `feedback`; time is the target's clock and chance
comes from a seed, so that a session on a simulated target can be replayed exactly.
"""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from quantkit.adaptive import feedback, load
from quantkit.adaptive.confidence import kind, scores
from quantkit.adaptive.counters import Counters
from quantkit.adaptive.feedback import Audit
from quantkit.adaptive.inputs import Guard
from quantkit.adaptive.ladder import Precision, Reason, Request, climb, following
from quantkit.contracts import Arrays, Target
from quantkit.errors import InvalidSetting

SHORTEST_S = 1e-9  # between arrivals: requests may come at one tick of the clock
SMOOTHING = 0.05  # weight of the newest value in running means of service and arrivals


@dataclass(frozen=True)
class Rules:
    """What decides.

    Args:
        levels: thresholds from full precision only to the cheapest certified ones (`Thresholds.levels`).
        confidence: `margin` or `max_softmax`, as the thresholds were calibrated with.
        guard: None lets every request through.
        policy: None ignores load.
        audit: None compares nothing with full precision.
    """

    levels: Sequence[Sequence[float]]
    confidence: str = "margin"
    guard: Guard | None = None
    policy: load.Policy | None = None
    audit: Audit | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """What a request got.

    Args:
        output: as the artifact gives it, [1, classes] or [1, t, classes]; of full precision where it was audited.
        precision: name of the precision that had the last word, before any audit.
        reason: why it was that one.
        confidence: of that precision's answer.
        latency_s: seconds from arrival to answer, of which `wait_s` in the queue.
    """

    output: np.ndarray
    precision: str
    reason: Reason
    confidence: float
    audited: bool
    wait_s: float
    latency_s: float


class AdaptiveSession:
    """Answers requests by the cheapest precision that will do.

    `answer` serves one request at once; `submit` puts it into the queue, which `serve` works off, batch by batch, or a
    thread of its own inside `with session.serving():`. All may be called from any thread; requests are served one
    batch at a time.

    Args:
        precisions: cheapest first, full precision last; all with artifacts for the same batch sizes.
        example: inputs of one request: others must have the same shapes and types.
        seed: of the draw of audited requests.
    """

    def __init__(
        self, precisions: Sequence[Precision], rules: Rules, target: Target, *, example: Arrays, seed: int = 0
    ):
        _check(precisions, rules)
        self._precisions, self._rules, self._target = tuple(precisions), rules, target
        self._ends = [(x.shape, x.dtype) for x in example]
        self._confidence, self._rng = kind(rules.confidence), np.random.default_rng(seed)
        self._sizes = tuple(sorted(precisions[0].sessions))
        self._load, self._feedback = load.State(), feedback.State(len(rules.levels) - 1)
        self._service = [0.0] * load.levels(len(precisions), rules.policy)
        self._gap, self._latest = math.inf, -math.inf  # seconds between arrivals, of late; the newest arrival
        self._queue: deque[Request] = deque()
        self._arrived, self._serving = threading.Condition(), threading.Lock()
        self._stopping = False
        self.counters = Counters([p.name for p in precisions], self._gauges)

    def answer(self, inputs: Arrays) -> Answer:
        """Return the answer to one request, served before any that wait.

        Raises:
            ValueError: another number of inputs, shape or type than the example.
        """
        request = self._request(inputs)
        with self._serving:
            return self._serve([request])[0]

    def submit(self, inputs: Arrays) -> Future[Answer]:
        """Put a request into the queue; errors of serving it come out of the future.

        Raises:
            ValueError: as `answer`.
        """
        request = self._request(inputs)
        request.future = Future()
        with self._arrived:
            self._queue.append(request)
            self._arrived.notify()
        return request.future

    def serve(self) -> int:
        """Answer the next batch of waiting requests; return how many they were, 0 for an empty queue."""
        with self._serving:
            with self._arrived:
                count = min(len(self._queue), load.batch(len(self._queue), self._sizes))
                requests = [self._queue.popleft() for _ in range(count)]
            live = [r for r in requests if r.future is None or r.future.set_running_or_notify_cancel()]
            if not live:
                return count
            try:
                answers = self._serve(live)
            except Exception as error:
                # Whatever a runtime raises belongs to those who wait for it; the next batch is served.
                self.counters.add(failed=len(live))
                for request in live:
                    request.future.set_exception(error)  # type: ignore[union-attr]
                return count
        for request, answer in zip(live, answers, strict=True):
            request.future.set_result(answer)  # type: ignore[union-attr]
        return count

    @contextmanager
    def serving(self) -> Iterator[AdaptiveSession]:
        """Serve the queue in a thread for the length of a `with` block; at its end all that waits is served first."""
        self._stopping = False
        worker = threading.Thread(target=self._work, name="quantkit-adaptive", daemon=True)
        worker.start()
        try:
            yield self
        finally:
            with self._arrived:
                self._stopping = True
                self._arrived.notify_all()
            worker.join()

    def close(self) -> None:
        """Free all artifacts."""
        for precision in self._precisions:
            for session in precision.sessions.values():
                session.close()

    def _work(self) -> None:
        while True:
            with self._arrived:
                self._arrived.wait_for(lambda: self._queue or self._stopping)
                if not self._queue:
                    return
            self.serve()

    def _request(self, inputs: Arrays) -> Request:
        """Return a request, checked, so that no batch fails for one of its items; note when it came."""
        got = [(x.shape, x.dtype) for x in inputs]
        if got != self._ends:
            raise ValueError(f"a request has the shapes and types of the example: got {got}, expected {self._ends}")
        now = self._target.clock()
        with self._arrived:
            gap = now - self._latest
            self._gap = gap if math.isinf(self._gap) else smoothed(self._gap, gap)
            self._latest = now
        return Request(inputs, now)

    def _serve(self, requests: list[Request]) -> list[Answer]:
        """Answer some requests together; the caller holds the lock."""
        started = self._target.clock()
        self._look(started, len(requests))
        level, values = self._load.level, self._rules.levels[self._feedback.level]
        cap = load.cap(level, len(self._precisions))
        for request in requests:
            self._route(request, values, cap)
        climb(self._precisions, requests, values, self._confidence, self.counters)
        chosen = [request.at for request in requests]
        if not level:
            self._audit(requests)
        now = self._target.clock()
        self._note_service(level, (now - started) / len(requests))
        return [self._answered(request, at, started, now) for request, at in zip(requests, chosen, strict=True)]

    def _look(self, now: float, serving: int) -> None:
        """Let the load level follow what waits."""
        if self._rules.policy is not None:
            arrivals = 1 / max(self._gap, SHORTEST_S)
            seen = load.Observation(now, len(self._queue) + serving, arrivals, self._service)
            self._load = load.step(self._load, seen, self._rules.policy)

    def _route(self, request: Request, values: Sequence[float], cap: int) -> None:
        """Decide where a request starts and where it ends at the latest."""
        full = len(self._precisions) - 1
        if self._rules.guard is not None and self._rules.guard.alarm(request.inputs):
            request.at = request.last = full
            request.reason = "out of calibration"
            return
        request.last = cap
        request.at = following(0, values, cap)

    def _audit(self, requests: Sequence[Request]) -> None:
        """Compare a share of the requests with full precision, whose answer they get; let the thresholds follow."""
        audit = self._rules.audit
        if audit is None:
            return
        full, top = self._precisions[-1], len(self._rules.levels) - 1
        for request in [r for r in requests if self._rng.random() < audit.share]:
            request.audited, differs = True, False
            if request.at < len(self._precisions) - 1:
                output = full.outputs([request.inputs])
                self.counters.called(full.name, 1)
                differs = bool(scores(output).argmax() != scores(request.output).argmax())
                request.output = output
            before = self._feedback.alarms
            self._feedback = feedback.step(self._feedback, differs, audit, top)
            self.counters.add(audited=1, disagreed=differs, alarms=self._feedback.alarms - before)

    def _note_service(self, level: int, seconds: float) -> None:
        known = self._service[level]
        self._service[level] = smoothed(known, seconds) if known else seconds

    def _answered(self, request: Request, at: int, started: float, now: float) -> Answer:
        name, latency, reason = self._precisions[at].name, now - request.arrived_s, request.reason
        foreign = reason == "out of calibration"
        self.counters.answered(name, latency, capped=reason == "load", out_of_calibration=foreign)
        return Answer(
            request.output, name, reason, request.confidence, request.audited, started - request.arrived_s, latency
        )

    def _gauges(self) -> dict[str, float]:
        return {
            "queue": len(self._queue),
            "load_level": self._load.level,
            "load_switches": self._load.switches,
            "threshold_level": self._feedback.level,
        }


def smoothed(mean: float, newest: float) -> float:
    """Return a running mean that forgets."""
    return mean + SMOOTHING * (newest - mean)


def _check(precisions: Sequence[Precision], rules: Rules) -> None:
    """Refuse what does not fit together, before anything is served."""
    names, sizes = [p.name for p in precisions], {tuple(sorted(p.sessions)) for p in precisions}
    if len(set(names)) != len(names) or len(names) < 2:
        raise InvalidSetting(f"a session needs 2 or more precisions of different names: got {names}")
    if len(sizes) != 1 or 1 not in next(iter(sizes)):
        raise InvalidSetting(f"all precisions need artifacts for equal batch sizes, 1 among them: got {sorted(sizes)}")
    wrong = [values for values in rules.levels if len(values) != len(names) - 1]
    if wrong or not rules.levels:
        raise InvalidSetting(f"each level needs {len(names) - 1} thresholds for {len(names)} precisions: got {wrong}")

"""What is asked of a case under load, and what came of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, get_args

from quantkit.errors import CorruptFile, InvalidSetting, UnknownName
from quantkit.records import Case
from quantkit.stats.early_stopping import queries_needed

Scenario = Literal["single_stream", "multi_stream", "server", "offline"]
SCENARIOS: tuple[str, ...] = get_args(Scenario)
PERCENTILE = {"single_stream": 0.9, "multi_stream": 0.99, "server": 0.99, "offline": 0.99}  # MLPerf's own
MLPERF_S = 600.0  # shorter runs are no MLPerf results
MOST_QUERIES = 5_000_000  # LoadGen makes them all before it starts, some 200 bytes each
SCHEMA = 1


@dataclass(frozen=True)
class Load:
    """One scenario with its numbers.

    Args:
        duration_s: least seconds of the run.
        queries: least queries (offline: samples); None takes what early stopping needs with one query over the bound.
        percentile: of the latency that is judged, 0..1; None takes MLPerf's.
        latency_s: bound on that percentile (server).
        rate: arrivals a second (server); None: it is looked for.
        samples_per_query: items of one query (multi stream).
        workers: sessions side by side that answer from one queue.
        seed: of the order of items and of the arrivals.
    """

    scenario: str
    duration_s: float = 10.0
    queries: int | None = None
    percentile: float | None = None
    latency_s: float = 0.010
    rate: float | None = None
    samples_per_query: int = 8
    workers: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what makes no sense before anything runs.

        Raises:
            UnknownName, InvalidSetting: what, got, expected.
        """
        if self.scenario not in SCENARIOS:
            raise UnknownName(f"no scenario named '{self.scenario}'. Known: {', '.join(SCENARIOS)}")
        positive = {"--duration": self.duration_s, "--latency": self.latency_s, "--rate": self.rate}
        for name, value in positive.items():
            if value is not None and not 0 < value < float("inf"):
                raise InvalidSetting(f"{name} must be a positive number: got {value}")
        counts = {"--queries": self.queries, "--samples-per-query": self.samples_per_query, "--workers": self.workers}
        for name, count in counts.items():
            if count is not None and not 1 <= count <= MOST_QUERIES:
                raise InvalidSetting(f"{name} must be 1 to {MOST_QUERIES:,}: got {count}")
        if self.percentile is not None and not 0.5 <= self.percentile <= 0.999:
            raise InvalidSetting(f"--percentile must be 0.5 to 0.999: got {self.percentile}")
        if not 0 <= self.seed < 2**32:
            raise InvalidSetting(f"--seed must be 0 or more, below 2^32: got {self.seed}")
        if self.rate is not None and self.rate * self.duration_s > MOST_QUERIES:
            raise InvalidSetting(
                f"--rate {self.rate:g} for {self.duration_s:g} s are more than {MOST_QUERIES:,} queries: lower either"
            )

    @property
    def judged(self) -> float:
        """The percentile that is judged."""
        return PERCENTILE[self.scenario] if self.percentile is None else self.percentile

    @property
    def least_queries(self) -> int:
        """The least number of queries of the run."""
        if self.queries is not None or self.scenario == "offline":
            return self.queries or 1
        return queries_needed(1, self.judged)


@dataclass(frozen=True)
class LoadResult:
    """What LoadGen measured and how it judged it.

    Args:
        valid: LoadGen's verdict for these settings; `reasons` are its own words where it is not.
        rate: samples answered a second.
        estimate_s: LoadGen's early-stopping estimate of the judged percentile (single and multi stream).
        percentiles_s: LoadGen's latencies, `p50` ... `p99.9`, of a sample, in multi stream of a query; in the server
            scenario from the scheduled arrival on, so that waiting counts.
        over: queries past the bound (server).
        latencies_s: our own measurement beside it, from the moment a query reached the queue: one value a query.
        tried: each rate of a search with its verdict.
        item_s: median of one answer, measured before LoadGen started.
        disturbed: what else the machine did meanwhile, where it was too much.
    """

    case: Case
    load: Load
    valid: bool
    reasons: tuple[str, ...]
    queries: int
    samples: int
    rate: float
    percentiles_s: Mapping[str, float]
    mean_s: float
    estimate_s: float | None = None
    over: int | None = None
    latencies_s: tuple[float, ...] = ()
    tried: tuple[Mapping[str, Any], ...] = ()
    item_s: float = 0.0
    disturbed: tuple[str, ...] = ()
    elapsed_s: float = 0.0
    loadgen: str = ""
    key: str = ""
    created: str = ""
    fingerprint: Mapping[str, Any] = field(default_factory=dict)
    schema: int = SCHEMA

    @property
    def judged_s(self) -> float:
        """The latency that is compared with a bound: LoadGen's percentile nearest to the judged one from above."""
        names = [name for name in self.percentiles_s if float(name[1:]) / 100 >= self.load.judged - 1e-9]
        return self.percentiles_s[names[0]] if names else max(self.percentiles_s.values())

    def to_json(self) -> str:
        """Return the record as JSON; `from_json` gives back an equal one."""
        return json.dumps(asdict(self), sort_keys=True, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> LoadResult:
        """Return the record that `to_json` wrote.

        Raises:
            CorruptFile: another schema version wrote it.
        """
        raw = json.loads(text)
        if raw["schema"] != SCHEMA:
            raise CorruptFile(f"a load result has schema {raw['schema']}, expected {SCHEMA}: measure it again")
        raw["case"], raw["load"] = Case(**raw["case"]), Load(**raw["load"])
        for name in ("reasons", "latencies_s", "tried", "disturbed"):
            raw[name] = tuple(raw[name])
        return cls(**raw)


def short(result: LoadResult) -> dict[str, Any]:
    """Return the record without raw values, for people and programs that only read the outcome."""
    return asdict(replace(result, latencies_s=())) | {"judged_s": result.judged_s}

"""What `quantkit load` does: an artifact of each case, each scenario in a process of its own, a table at the end."""

from __future__ import annotations

import json
import tempfile
import threading
import time
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from quantkit import extras
from quantkit.catalog import BACKENDS, TARGETS
from quantkit.environment import fingerprint
from quantkit.errors import (
    InvalidSetting,
    MissingExtra,
    NothingMeasured,
    QuantizationError,
    StorageError,
    Unsupported,
)
from quantkit.extras import version
from quantkit.pipeline import plan
from quantkit.pipeline.artifact import artifact
from quantkit.pipeline.cache import Entry, digest
from quantkit.pipeline.isolate import Limits, Workshop
from quantkit.pipeline.locks import Room
from quantkit.pipeline.plan import unsupported, untimed
from quantkit.pipeline.settings import Settings, cache_folder, results_file
from quantkit.pipeline.sources import source_hash
from quantkit.records import Case
from quantkit.scenarios import search, table
from quantkit.scenarios.load import SCENARIOS, Load, LoadResult, short
from quantkit.scenarios.store import Loads

Say = Callable[[str], None]
EVERY_S = 5.0  # between two lines of progress
AGAIN = 2  # times that a disturbed run which failed is run again, in a search


@dataclass(frozen=True)
class Bench:
    """All that one invocation shares."""

    settings: Settings
    store: Loads
    say: Say
    fresh: bool = False


def run(options: Namespace, say: Say, show: Say) -> int:
    """Measure what is asked and not stored yet, and show it; without a case, show what is stored.

    Returns:
        0: every run was valid. 1: one was not. 2: a case failed beside others that did not.

    Raises:
        QuantizationError: a mistake of the command line, a case that cannot run, or nothing stored.
    """
    place, failed = options.results or results_file(), 0
    if not options.cases:
        if options.scenario != "all":
            raise InvalidSetting(
                f"--scenario {options.scenario} needs a case: quantkit load MODEL-METHOD-BACKEND-TARGET"
            )
        found = Loads(place, write=False).newest_loads()
        if not found:
            raise NothingMeasured("no case was put under load yet: quantkit load MODEL-METHOD-BACKEND-TARGET")
    else:
        cases, loads = [case_of(text) for text in options.cases], loads_of(options)
        if missing := extras.missing("loadgen"):
            raise MissingExtra(f"quantkit load {missing}")
        limit_s, memory = time_limit(options, loads), Settings.bytes_of(options.memory_limit)
        _check_length(loads, limit_s)
        limits = {"time_limit_s": limit_s, "memory_limit_bytes": memory}
        settings = Settings.of("regular", threads=options.threads, items=options.items, **limits)
        bench = Bench(settings, Loads(place), say, options.fresh)
        found, failed = of_all(cases, loads, bench)
    show(json.dumps([short(one) for one in found], indent=1) if options.format == "json" else table.text(found))
    if failed:
        return 2
    return 0 if all(one.valid for one in found) else 1


def case_of(text: str) -> Case:
    """Return the case of an id.

    Raises:
        InvalidSetting, UnknownName: no id, or a name that no catalog has.
        Unsupported: a case that cannot run, or not be timed, here.
    """
    case = plan.case_of(text)
    if TARGETS.get(case.target).simulated:
        raise Unsupported(f"{text}: load needs a real clock, that of target {case.target} is told")
    if reason := unsupported(case) or untimed(case):
        raise Unsupported(f"{text}: {reason}")
    return case


def loads_of(options: Namespace) -> list[Load]:
    """Return the scenarios that are asked for, with their numbers."""
    names = list(SCENARIOS) if options.scenario == "all" else [name.strip() for name in options.scenario.split(",")]
    given = {
        "duration_s": options.duration, "queries": options.queries, "percentile": options.percentile,
        "latency_s": None if options.latency is None else options.latency * 1e-3, "rate": options.rate,
        "samples_per_query": options.samples_per_query, "workers": options.workers, "seed": options.seed,
    }  # fmt: skip
    numbers = {name: value for name, value in given.items() if value is not None}
    only = {"server": ("latency_s", "rate"), "multi_stream": ("samples_per_query",)}
    for owner, own in only.items():
        if owner not in names and (stray := [name for name in own if name in numbers]):
            raise InvalidSetting(f"--{stray[0].removesuffix('_s').replace('_', '-')} belongs to scenario {owner}")
    return [
        Load(name, **{k: v for k, v in numbers.items() if k not in foreign(name, only)})
        for name in dict.fromkeys(names)
    ]


def foreign(scenario: str, only: dict[str, tuple[str, ...]]) -> set[str]:
    """Return the numbers that belong to other scenarios alone."""
    return {name for owner, own in only.items() if owner != scenario for name in own}


def time_limit(options: Namespace, loads: list[Load]) -> float:
    """Return the seconds that one run may take: five times its duration, ten minutes at least."""
    if options.time_limit is not None:
        return float(options.time_limit)
    return max(600.0, *(5 * load.duration_s for load in loads))


def _check_length(loads: list[Load], time_limit_s: float) -> None:
    """Refuse a server's rate at which the least number of queries would not be asked in the time.

    Raises:
        InvalidSetting: it would be killed at the time limit.
    """
    for load in loads:
        if load.rate is not None and load.least_queries / load.rate > time_limit_s:
            raise InvalidSetting(
                f"--rate {load.rate:g}: its least {load.least_queries:,} queries take "
                f"{load.least_queries / load.rate:,.0f} s, the time limit is {time_limit_s:,.0f} s: raise the rate, "
                "give fewer --queries, or a longer --time-limit"
            )


def of_all(cases: list[Case], loads: list[Load], bench: Bench) -> tuple[list[LoadResult], int]:
    """Return all outcomes and how many cases failed; one that fails costs no other its outcomes.

    Raises:
        QuantizationError: nothing came of any case, or the results file cannot be used.
    """
    found: list[LoadResult] = []
    faults: list[QuantizationError] = []
    for case in cases:
        try:
            for result in of_case(case, loads, bench):
                found.append(result)
        except StorageError:
            raise
        except QuantizationError as error:
            faults.append(error)
            if found or len(cases) > 1:
                bench.say(f"failed    {case.id}: {error}")
    if not found:
        raise faults[0]
    return found, len(faults)


def of_case(case: Case, loads: list[Load], bench: Bench) -> Iterator[LoadResult]:
    """Yield the outcome of each scenario of one case; each is kept as soon as it is there."""
    built = artifact(case, bench.settings, bench.say)
    for load in loads:
        key = key_of(built, load, bench.settings)
        found = None if bench.fresh else bench.store.kept(key)
        if found is None:
            found = measured(case, built, load, bench, key)
            now = datetime.now(UTC).isoformat(timespec="seconds")
            found = replace(found, key=key, created=now, fingerprint=fingerprint())
            bench.store.keep(found)
            bench.store.drop_parts(key)
        yield found


def key_of(built: Entry, load: Load, settings: Settings) -> str:
    """Return the hash of all that goes into an outcome: artifact, numbers, items, our own part, and the machine."""
    sources = source_hash(*(Path(__file__).with_name(name) for name in ("inside.py", "loadgen.py")))
    asked = [asdict(load), settings.threads, settings.items]
    return digest(["load", built.key, asked, sources, version("mlcommons-loadgen"), fingerprint()["id"]])


def measured(case: Case, built: Entry, load: Load, bench: Bench, key: str) -> LoadResult:
    """Run a scenario; a server without a rate is a search, whose finished runs survive an interruption."""
    modules = "quantkit.scenarios.inside", *BACKENDS.get(case.backend).run_modules
    with Workshop(modules, {"TORCHINDUCTOR_CACHE_DIR": str(cache_folder() / "inductor")}) as shop:
        if load.scenario != "server" or load.rate is not None:
            return once(shop, case, built, load, bench)
        done = {} if bench.fresh else bench.store.parts(key)

        def attempt(rate: float | None) -> LoadResult:
            name = "start" if rate is None else f"{rate:.9g}"
            if name in done:
                return LoadResult.from_json(done[name])
            found = undisturbed(lambda: once(shop, case, built, replace(load, rate=rate), bench))
            bench.store.keep_part(key, name, found.to_json())
            said = f"{table.number(search.rate_of(found))}/s: {table.judged(found)}, {table.verdict(found)}"
            bench.say(f"tried     {case.id} server {said}")
            return found

        return search.highest(attempt)


def undisturbed(attempt: Callable[[], LoadResult]) -> LoadResult:
    """Return the first of some runs that passed or was not disturbed: what failed beside other work may not have."""
    for _ in range(AGAIN):
        found = attempt()
        if found.valid or not found.disturbed:
            return found
    return attempt()


def once(shop: Workshop, case: Case, built: Entry, load: Load, bench: Bench) -> LoadResult:
    """Run one scenario in a process of its own, alone on the machine."""
    room = Room(bench.say).alone(f"put {case.id} under load")
    with room, tempfile.TemporaryDirectory(prefix="quantkit-heart-") as place:
        heart = Path(place) / "answers"
        heart.write_text("0")
        limits = Limits(bench.settings.time_limit_s, bench.settings.limits.memory_bytes)
        with progress(f"{case.id} {load.scenario}", heart, load, bench.say):
            found: LoadResult = shop.call(
                "quantkit.scenarios.inside:run", case, built.folder, bench.settings, load, heart, limits=limits
            )
            return found


@contextmanager
def progress(what: str, heart: Path, load: Load, say: Say) -> Iterator[None]:
    """Say every few seconds how many items are answered."""
    ended, started = threading.Event(), time.monotonic()
    rate = f" at {table.number(load.rate)}/s" if load.rate else ""
    least = f"at least {load.duration_s:g} s and {load.least_queries:,} queries"

    def tell() -> None:
        while not ended.wait(EVERY_S):
            with suppress(OSError):
                seconds = time.monotonic() - started
                say(f"load      {what}{rate}: {heart.read_text() or 0} answers, {seconds:.0f} s ({least})")

    thread = threading.Thread(target=tell, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()

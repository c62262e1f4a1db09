"""The pytest plug-in: `pytest benchmarks` plans the matrix, runs it, and ends in a table.

A benchmark is a test that takes the fixture `quantkit_case`; it gets one test per case of the matrix, marked with its
target and domain, skipped with the plan's reason where it cannot run. The fixture `quantkit_result` executes the case
(with all selected cases of the same model and target, because they are timed in the same rounds) and returns its
result; a case that crashed fails its test with one line. Other test suites do not notice this plug-in.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from quantkit.conclude.compare import Comparison
    from quantkit.pipeline.execute import Run
    from quantkit.pipeline.plan import Planned
    from quantkit.records import Case, Result

FIXTURE = "quantkit_case"
TARGETS = ("cpu", "mps", "ane", "cuda")  # markers that can be asked for anywhere, whatever is installed
MATRIX = ("models", "methods", "backends", "targets")
DOMAINS = ("vision", "text", "audio", "llm")
RUN = pytest.StashKey["Session"]()
LEFT_OUT = pytest.StashKey[int]()


class Gate:
    """What `--gate` asks for: a margin against full precision, or the results of an older run."""

    def __init__(self, text: str, results: Path):
        from quantkit.conclude.compare import checked_margin
        from quantkit.pipeline.store import older_results

        self.margin, self.older = None, None
        try:
            number = float(text)
        except ValueError:
            self.older = older_results(Path(text), results)
        else:
            self.margin = checked_margin(number)

    def comparisons(self, results: list[Result]) -> list[Comparison]:
        """Return the comparisons that are gated."""
        from quantkit.conclude.compare import against, comparisons

        return comparisons(results, margin=self.margin) if self.older is None else against(results, self.older)


class Session:
    """What one pytest session has measured: results by case, the run they share, the wall time since its start."""

    def __init__(self, run: Run, gate: Gate | None):
        self.run, self.gate = run, gate
        self.results, self.started = dict[Any, Any](), time.monotonic()

    def result(self, case: Case, selected: list[Case]) -> Result:
        """Return the case's result; the first case of a model and target executes all selected ones of both."""
        from quantkit.pipeline.execute import execute_group

        if case not in self.results:
            group = [other for other in selected if (other.model, other.target) == (case.model, case.target)]
            self.results |= {result.case: result for result in execute_group(group, self.run)}
        return self.results[case]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options of `pytest benchmarks`."""
    group = parser.getgroup("quantkit", "quantkit: benchmarks of quantized models")
    group.addoption(
        "--profile", default="fast", metavar="NAME", help="how much to measure: fast, regular or full (default: fast)"
    )
    for name in MATRIX:
        group.addoption(f"--{name}", metavar="A,B", help=f"only these {name} (default: all that the profile includes)")
    group.addoption("--results", metavar="FILE", help="results file (default: .quantkit/results.db)")
    group.addoption("--fresh", action="store_true", help="measure again what is stored already")
    gate = "fail on a loss of quality above this margin (0.01 = one point), or against the results of an older run"
    group.addoption("--gate", metavar="MARGIN|FILE", help=gate)
    group.addoption("--items", type=int, metavar="N", help="evaluation items (default: the profile's)")
    rounds = "fresh processes per case, 0 for no timing (default: the profile's)"
    group.addoption("--rounds", type=int, metavar="N", help=rounds)
    group.addoption("--threads", type=int, metavar="N", help="threads of one session (default: 1)")
    group.addoption("--time-limit", type=float, metavar="S", help="seconds that one process may take (default: 600)")
    group.addoption(
        "--memory-limit", type=float, metavar="GIB", help="memory that one process may take (default: 80 %% of all)"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Register the markers; refuse names that no catalog has before anything is collected."""
    from quantkit.catalog import TARGETS as KNOWN

    for name in sorted({*TARGETS, *KNOWN.names()}):
        config.addinivalue_line("markers", f"{name}: cases on the target {name}")
    for name in DOMAINS:
        config.addinivalue_line("markers", f"{name}: cases of {name} models")
    config.addinivalue_line("markers", "untimed(planned): cases that are built and judged here, but not timed")
    if config.getoption("profile") != "fast" or any(config.getoption(name) is not None for name in MATRIX):
        from quantkit.errors import QuantizationError

        try:
            _planned(config)
        except QuantizationError as error:
            raise pytest.UsageError(f"quantkit: {error}") from None


def _planned(config: pytest.Config) -> list[Planned]:
    """Return the cases that the options ask for."""
    from quantkit.pipeline.plan import plan

    given = {name: config.getoption(name) for name in MATRIX}
    names = {name: None if text is None else text.split(",") for name, text in given.items()}
    return plan(names.pop("models"), names.pop("methods"), **names, profile=config.getoption("profile"))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give a benchmark one test per case of the matrix."""
    if FIXTURE not in metafunc.fixturenames:
        return
    parameters = []
    for cell in _planned(metafunc.config):
        marks = [getattr(pytest.mark, name) for name in cell.markers]
        if cell.untimed:
            marks.append(pytest.mark.untimed(cell))
        if cell.reason:
            marks.append(pytest.mark.skip(reason=cell.reason))
        parameters.append(pytest.param(cell.case, id=cell.case.id, marks=marks))
    metafunc.parametrize(FIXTURE, parameters)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the cases that can be built but not timed here, unless they are asked for: a benchmark is about speed.

    Asked for means named: by `--targets`, `--backends`, `-m` or `-k`, or by the test's own id.
    """
    marked = [(item, item.get_closest_marker("untimed")) for item in items if _case(item) is not None]
    if not any(mark for _, mark in marked) or config.getoption("rounds") == 0:
        return
    from quantkit.pipeline.plan import left_out

    asked = [*(config.getoption(name) or "" for name in MATRIX[2:]), config.option.markexpr, config.option.keyword]
    words = set(re.findall(r"\w+", " ".join(asked + [a.partition("::")[2] for a in config.args])))
    out = {item for item, mark in marked if mark and left_out(mark.args[0], words)}
    if out:
        config.hook.pytest_deselected(items=list(out))
        items[:] = [item for item in items if item not in out]
        config.stash[LEFT_OUT] = len(out)


def _case(item: pytest.Item) -> Case | None:
    """Return the case of a benchmark; None for any other test."""
    return getattr(getattr(item, "callspec", None), "params", {}).get(FIXTURE)


def _session(config: pytest.Config) -> Session:
    """Return the session, opened at the first case: results file, processes, settings."""
    if RUN not in config.stash:
        run, asked = _run(config), config.getoption("gate")
        config.stash[RUN] = Session(run, Gate(asked, run.store.path) if asked else None)
    return config.stash[RUN]


def _run(config: pytest.Config) -> Run:
    from quantkit.pipeline.crew import Crew
    from quantkit.pipeline.execute import Run
    from quantkit.pipeline.settings import Settings, results_file
    from quantkit.pipeline.store import Store

    option = config.getoption
    changes = {name: option(name) for name in ("items", "rounds", "threads")}
    changes |= {"time_limit_s": option("time_limit"), "memory_limit_bytes": Settings.bytes_of(option("memory_limit"))}
    settings = Settings.of(option("profile"), **changes)
    reporter: Any = config.pluginmanager.get_plugin("terminalreporter")
    capture: Any = config.pluginmanager.get_plugin("capturemanager")

    lock = threading.Lock()  # builds run side by side, and pytest's capture is not made for that

    def say(line: str) -> None:
        with lock, capture.global_and_fixture_disabled():
            reporter.ensure_newline()
            reporter.write_line(f"  {line}")

    store = Store(Path(option("results")) if option("results") else results_file())
    return Run(settings, store, Crew(), say, fresh=option("fresh"))


@pytest.fixture
def quantkit_result(request: pytest.FixtureRequest, quantkit_case: Case) -> Result:
    """Return the result of this case, executed with all selected cases of its model and target."""
    from quantkit.errors import InvalidSetting, NoBaseline, QuantizationError

    items = [item for item in request.session.items if not item.get_closest_marker("skip")]
    selected = [case for case in map(_case, items) if case is not None]
    try:
        return _session(request.config).result(quantkit_case, selected)
    except (InvalidSetting, NoBaseline) as error:
        pytest.exit(f"quantkit: {error}", returncode=pytest.ExitCode.USAGE_ERROR)
    except QuantizationError as error:
        pytest.exit(f"quantkit: {error}", returncode=pytest.ExitCode.INTERNAL_ERROR)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> None:
    """Fail a benchmark whose case crashed or does not pass the gate, skip one that the toolchain refused."""
    session = item.config.stash.get(RUN, None)
    result = session.results.get(_case(item)) if session is not None else None
    if session is None or result is None:
        return
    if result.status == "unsupported":
        pytest.skip(result.reason)
    if result.status == "failed":
        pytest.fail(f"{result.case.id} failed: {result.reason}", pytrace=False)
    if session.gate is not None and result.context["quality"]["outcome"] != "none":
        _gate(session, result)


def _gate(session: Session, result: Result) -> None:
    """Fail on a regression, and where quality cannot be compared at all."""
    from quantkit.conclude.wording import explain
    from quantkit.errors import NoBaseline

    case = result.case
    family = [r for r in session.results.values() if (r.case.model, r.case.target) == (case.model, case.target)]
    try:
        pairs = session.gate.comparisons(family) if session.gate else []
    except NoBaseline as error:
        pytest.fail(f"gate: {case.id}: {error}", pytrace=False)
    for pair in pairs:
        if pair.result.case == case and pair.verdict in ("regression", "unavailable"):
            pytest.fail(f"gate: {case.id}: {explain(pair)}", pytrace=False)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Close the processes; say 5 where benchmarks were selected and nothing was measured."""
    if RUN in session.config.stash:
        session.config.stash[RUN].run.crew.__exit__()
    cases = [item for item in session.items if _case(item) is not None]
    measured = RUN in session.config.stash and any(r.status == "ok" for r in session.config.stash[RUN].results.values())
    if cases and not measured and exitstatus == pytest.ExitCode.OK and not session.config.getoption("collectonly"):
        session.exitstatus = pytest.ExitCode.NO_TESTS_COLLECTED


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Write our table, where it was measured, what it cost, and where it is kept."""
    if LEFT_OUT in config.stash and not config.getoption("collectonly"):
        count = config.stash[LEFT_OUT]
        how = "name their target or backend to have size and quality (-m ane, --backends coreml)"
        terminalreporter.write_line(f"{count} cases cannot be timed here and were left out: {how}")
    if RUN not in config.stash or not config.stash[RUN].results:
        return
    for line in _summary(config.stash[RUN]):
        terminalreporter.write_line(line)


def _summary(session: Session) -> Iterator[str]:
    from quantkit.conclude.report import table
    from quantkit.environment import fingerprint

    results = list(session.results.values())
    machine, wall, busy = fingerprint(), time.monotonic() - session.started, session.run.crew.busy_s()
    yield ""
    yield table(results, margin=session.gate.margin if session.gate else None)
    untimed = {r.case.target: r.context["untimed"] for r in results if r.context.get("untimed")}
    for target, reason in untimed.items():
        yield f"speed and memory on {target} unavailable: {reason}"
    yield ""
    yield f"{machine['processor']}, {machine['cores']} cores, {machine['system']}, torch {machine['versions']['torch']}"
    measured = f"{wall:.0f} s in all, {busy:.0f} s inside building and running models"
    yield measured + (
        f" (overhead {wall / busy:.2f})" if busy else ": everything was stored already (--fresh measures again)"
    )
    yield f"results: {session.run.store.path}"

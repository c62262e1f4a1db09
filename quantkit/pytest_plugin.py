"""The pytest plug-in: `pytest benchmarks` plans the matrix, runs it, and ends in a table.

A benchmark is a test that takes the fixture `quantkit_case`; it gets one test per case of the matrix, marked with its
target and domain, skipped with the plan's reason where it cannot run. The fixture `quantkit_result` executes the case
(with all selected cases of the same model and target, because they are timed in the same rounds) and returns its
result; a case that crashed fails its test with one line. Other test suites do not notice this plug-in.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from quantkit.pipeline.execute import Run
    from quantkit.records import Case, Result

FIXTURE = "quantkit_case"
TARGETS = ("cpu", "mps", "ane", "cuda", "simulated")
DOMAINS = ("vision", "text", "audio", "llm")
RUN = pytest.StashKey["Session"]()


class Session:
    """What one pytest session has measured: results by case, the run they share, the wall time since its start."""

    def __init__(self, run: Run):
        self.run, self.results, self.started = run, dict[Any, Any](), time.monotonic()

    def result(self, case: Case, selected: list[Case]) -> Result:
        """Return the case's result; the first case of a model and target executes all selected ones of both."""
        from quantkit.pipeline.execute import execute_group

        if case not in self.results:
            group = [other for other in selected if (other.model, other.target) == (case.model, case.target)]
            self.results |= dict(zip(group, execute_group(group, self.run), strict=True))
        return self.results[case]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options of `pytest benchmarks`."""
    group = parser.getgroup("quantkit", "quantkit: benchmarks of quantized models")
    group.addoption(
        "--profile", default="fast", metavar="NAME", help="how much to measure: fast, regular or full (default: fast)"
    )
    for name in ("models", "methods", "backends", "targets"):
        group.addoption(f"--{name}", metavar="A,B", help=f"only these {name} (default: all that the profile includes)")
    group.addoption("--results", metavar="FILE", help="results file (default: .quantkit/results.db)")
    group.addoption("--fresh", action="store_true", help="measure again what is stored already")
    gate = "fail on a loss of quality above this margin (0.01 = one point), or against the results of an older run"
    group.addoption("--gate", metavar="MARGIN|FILE", help=gate)
    group.addoption("--items", type=int, metavar="N", help="evaluation items (default: the profile's)")
    group.addoption("--rounds", type=int, metavar="N", help="fresh processes per case (default: the profile's)")
    group.addoption("--threads", type=int, metavar="N", help="threads of one session (default: 1)")
    group.addoption("--time-limit", type=float, metavar="S", help="seconds that one process may take (default: 600)")
    group.addoption(
        "--memory-limit", type=float, metavar="GIB", help="memory that one process may take (default: 80 %% of all)"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Register the markers."""
    for name in TARGETS:
        config.addinivalue_line("markers", f"{name}: cases on the target {name}")
    for name in DOMAINS:
        config.addinivalue_line("markers", f"{name}: cases of {name} models")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give a benchmark one test per case of the matrix."""
    if FIXTURE not in metafunc.fixturenames:
        return
    from quantkit.errors import QuantizationError
    from quantkit.pipeline.plan import plan

    option = metafunc.config.getoption
    names = {
        name: option(name).split(",") if option(name) else None for name in ("models", "methods", "backends", "targets")
    }
    try:
        planned = plan(names.pop("models"), names.pop("methods"), **names, profile=option("profile"))
    except QuantizationError as error:
        raise pytest.UsageError(str(error)) from None
    parameters = []
    for cell in planned:
        marks = [getattr(pytest.mark, name) for name in cell.markers]
        if cell.reason:
            marks.append(pytest.mark.skip(reason=cell.reason))
        parameters.append(pytest.param(cell.case, id=cell.case.id, marks=marks))
    metafunc.parametrize(FIXTURE, parameters)


def _case(item: pytest.Item) -> Case | None:
    """Return the case of a benchmark; None for any other test."""
    return getattr(getattr(item, "callspec", None), "params", {}).get(FIXTURE)


def _session(config: pytest.Config) -> Session:
    """Return the session, opened at the first case: results file, processes, settings."""
    if RUN not in config.stash:
        config.stash[RUN] = Session(_run(config))
    return config.stash[RUN]


def _run(config: pytest.Config) -> Run:
    from quantkit.pipeline.crew import Crew
    from quantkit.pipeline.execute import Run
    from quantkit.pipeline.settings import Settings, results_file
    from quantkit.pipeline.store import Store

    option = config.getoption
    changes = {name: option(name) for name in ("items", "rounds", "threads")}
    memory = option("memory_limit")
    changes |= {"time_limit_s": option("time_limit"), "memory_limit_bytes": memory and int(memory * 2**30)}
    settings = Settings.of(option("profile"), **changes)
    reporter: Any = config.pluginmanager.get_plugin("terminalreporter")
    capture: Any = config.pluginmanager.get_plugin("capturemanager")

    def say(line: str) -> None:
        with capture.global_and_fixture_disabled():
            reporter.ensure_newline()
            reporter.write_line(f"  {line}")

    store = Store(Path(option("results")) if option("results") else results_file())
    return Run(settings, store, Crew(), say, fresh=option("fresh"))


@pytest.fixture
def quantkit_result(request: pytest.FixtureRequest, quantkit_case: Case) -> Result:
    """Return the result of this case; fail with one line where it crashed, skip where the toolchain refused it."""
    from quantkit.errors import QuantizationError

    items = [item for item in request.session.items if not item.get_closest_marker("skip")]
    selected = [case for case in map(_case, items) if case is not None]
    try:
        result = _session(request.config).result(quantkit_case, selected)
    except QuantizationError as error:
        pytest.exit(f"quantkit: {error}", returncode=pytest.ExitCode.INTERNAL_ERROR)
    if result.status == "unsupported":
        pytest.skip(result.reason)
    if result.status == "failed":
        pytest.fail(f"{quantkit_case.id} failed: {result.reason}", pytrace=False)
    return result


@pytest.fixture
def quantkit_gate(request: pytest.FixtureRequest, quantkit_result: Result) -> None:
    """Fail the test on a regression, where `--gate` was given."""
    from quantkit.conclude.wording import explain
    from quantkit.errors import QuantizationError

    gate = request.config.getoption("gate")
    if not gate:
        return
    try:
        pairs = _gated(gate, list(_session(request.config).results.values()))
    except QuantizationError as error:
        pytest.exit(f"quantkit: {error}", returncode=pytest.ExitCode.USAGE_ERROR)
    for pair in pairs:
        if pair.result.case == quantkit_result.case and pair.verdict == "regression":
            pytest.fail(f"gate: {quantkit_result.case.id}: {explain(pair)}", pytrace=False)


def _gated(gate: str, results: list[Result]) -> list[Any]:
    from quantkit.conclude.compare import against, comparisons
    from quantkit.pipeline.store import Store

    try:
        margin = float(gate)
    except ValueError:
        return against(results, Store(Path(gate), write=False).newest())
    return comparisons(results, margin=margin)


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
    yield table(results)
    yield ""
    yield f"{machine['processor']}, {machine['cores']} cores, {machine['system']}, torch {machine['versions']['torch']}"
    measured = f"{wall:.0f} s in all, {busy:.0f} s inside building and running models"
    yield measured + (
        f" (overhead {wall / busy:.2f})" if busy else ": everything was stored already (--fresh measures again)"
    )
    yield f"results: {session.run.store.path}"

"""The pytest plug-in: `pytest benchmarks` plans the matrix, runs it, and ends in a table.

A benchmark is a test that takes the fixture `quantkit_case`; it gets one test per case of the matrix, marked with its
target and domain, skipped with the plan's reason where it cannot run. The fixture `quantkit_result` executes the case
(with all selected cases of the same model and target, because they are timed in the same rounds) and returns its
result; a case that crashed fails its test with one line. Other test suites do not notice this plug-in.

Here are the hooks that pytest and pytest-xdist call; what they do is in the modules beside.
"""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, Any

import pytest

from quantkit.pytest_plugin import options, summary, workers
from quantkit.pytest_plugin import session as sessions

if TYPE_CHECKING:
    from quantkit.records import Case, Result


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options of `pytest benchmarks`."""
    options.add(parser)


def pytest_configure(config: pytest.Config) -> None:
    """Register the markers; refuse names that no catalog has before anything is collected."""
    config.stash[summary.STARTED] = time.monotonic()
    options.register(config)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give a benchmark one test per case of the matrix."""
    if sessions.FIXTURE not in metafunc.fixturenames:
        return
    parameters = []
    for cell in options.planned(metafunc.config):
        marks = [getattr(pytest.mark, name) for name in cell.markers]
        if cell.untimed:
            marks.append(pytest.mark.untimed(cell))
        if cell.reason:
            marks.append(pytest.mark.skip(reason=cell.reason))
        if metafunc.config.pluginmanager.hasplugin("xdist"):
            marks.append(pytest.mark.xdist_group(f"{cell.case.model} on {cell.case.target}"))
        parameters.append(pytest.param(cell.case, id=cell.case.id, marks=marks))
    metafunc.parametrize(sessions.FIXTURE, parameters)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the cases that can be built but not timed here, unless they are asked for: a benchmark is about speed.

    Asked for means named: by `--targets`, `--backends`, `-m` or `-k`, or by the test's own id.
    """
    marked = [(item, item.get_closest_marker("untimed")) for item in items if sessions.case_of(item) is not None]
    if not any(mark for _, mark in marked) or config.getoption("rounds") == 0:
        return
    from quantkit.pipeline.plan import left_out

    asked = [*(config.getoption(name) or "" for name in options.MATRIX[2:]), config.option.markexpr]
    asked += [config.option.keyword, *(a.partition("::")[2] for a in config.args)]
    words = set(re.findall(r"\w+", " ".join(asked)))
    out = {item for item, mark in marked if mark and left_out(mark.args[0], words)}
    if out:
        config.hook.pytest_deselected(items=list(out))
        items[:] = [item for item in items if item not in out]
        config.stash[workers.LEFT_OUT] = len(out)


@pytest.fixture
def quantkit_result(request: pytest.FixtureRequest, quantkit_case: Case) -> Result:
    """Return the result of this case, executed with all selected cases of its model and target."""
    from quantkit.errors import QuantizationError

    try:
        return sessions.of(request.config).result(quantkit_case, sessions.selected(request.session))
    except QuantizationError as error:
        sessions.leave(request.config, error)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> None:
    """Fail a benchmark whose case crashed or does not pass the gate, skip one that the toolchain refused."""
    ours = item.config.stash.get(sessions.RUN, None)
    result = ours.results.get(sessions.case_of(item)) if ours is not None else None
    if ours is None or result is None:
        return
    if result.status == "unsupported":
        pytest.skip(result.reason)
    if result.status == "failed":
        pytest.fail(f"{result.case.id} failed: {result.reason}", pytrace=False)
    if ours.gate is not None and result.context["quality"]["outcome"] != "none":
        ours.gate.check(result.case, ours.family(result.case))


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Close the processes; say 5 where benchmarks were selected and nothing was measured."""
    config = session.config
    if sessions.RUN in config.stash:
        config.stash[sessions.RUN].run.crew.close()
    if sessions.worker(config) is not None or config.getoption("collectonly"):
        return
    summary.conclude(session, exitstatus)


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Write our table, where it was measured, what it cost, what ran where, and where it is kept."""
    for line in config.stash.get(summary.LINES, ()):
        terminalreporter.write_line(line)


def pytest_unconfigure(config: pytest.Config) -> None:
    """Take down the board of the workers."""
    workers.clean(config)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Tell a new worker of pytest-xdist where the board of this run is."""
    workers.invite(node)


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> None:
    """In a worker of pytest-xdist, build and judge side by side with the others, before any test is run."""
    workers.prepare(session)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """End the run when a worker ended with an error of ours."""
    workers.said_goodbye(node)

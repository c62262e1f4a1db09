"""What one pytest process measures: its results, the run that they come from, and how it ends where it cannot go on."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import pytest

from quantkit.pytest_plugin import options
from quantkit.pytest_plugin.gate import ERROR, Gate, asked_for

if TYPE_CHECKING:
    from quantkit.errors import QuantizationError
    from quantkit.pipeline.execute import Run
    from quantkit.records import Case, Result

FIXTURE = "quantkit_case"
RUN = pytest.StashKey["Session"]()
EXIT = "quantkit_exit"  # in what a worker of pytest-xdist sends home at its end: message and exit status


class Session:
    """What this process has measured: results by case, the run they share, the time of its start."""

    def __init__(self, run: Run, gate: Gate | None):
        self.run, self.gate = run, gate
        self.results, self.started = dict[Any, Any](), time.monotonic()

    def result(self, case: Case, selected: list[Case]) -> Result:
        """Return the case's result; the first case of a model and target executes all selected ones of both."""
        from quantkit.pipeline.together import group

        if case not in self.results:
            cases = [other for other in selected if (other.model, other.target) == (case.model, case.target)]
            self.results |= {result.case: result for result in group(cases, self.run)}
        return self.results[case]

    def family(self, case: Case) -> list[Result]:
        """Return the results of the case's model and target."""
        return [r for r in self.results.values() if (r.case.model, r.case.target) == (case.model, case.target)]


def case_of(item: pytest.Item) -> Case | None:
    """Return the case of a benchmark; None for any other test."""
    return getattr(getattr(item, "callspec", None), "params", {}).get(FIXTURE)


def refused(session: pytest.Session) -> list[tuple[Case, str]]:
    """Return the cases of this session that the plan refuses, each with its reason: an older run may have had them."""
    marked = [(case_of(item), item.get_closest_marker("skip")) for item in session.items]
    return [(case, mark.kwargs.get("reason", "")) for case, mark in marked if case is not None and mark is not None]


def selected(session: pytest.Session) -> list[Case]:
    """Return the cases of this session that are not skipped."""
    items = [item for item in session.items if not item.get_closest_marker("skip")]
    return [case for case in map(case_of, items) if case is not None]


def keep_refusals(found: Sequence[tuple[Case, str]], path: Path) -> None:
    """Store why cases cannot run that this machine has measured before: what it measured then does not stand for today.

    Raises:
        QuantizationError: the results file cannot be used.
    """
    from quantkit.pipeline.execute import store_refusals
    from quantkit.pipeline.plan import Planned
    from quantkit.pipeline.store import Store

    if not found or not path.is_file():
        return
    store = Store(path)
    known = {result.case for result in store.newest() if result.measured}
    store_refusals((Planned(case, reason) for case, reason in found if case in known), store)


def worker(config: pytest.Config) -> dict[str, Any] | None:
    """Return what pytest-xdist gave to this process where it is one of its workers."""
    return getattr(config, "workerinput", None)


def of(config: pytest.Config, board: Path | None = None) -> Session:
    """Return the session, opened when it is first asked for: results file, processes, settings.

    Args:
        board: folder of the board that the processes of this run share.
    """
    if RUN not in config.stash:
        run = _run(config, board)
        config.stash[RUN] = Session(run, asked_for(config, run.store.path))
    return config.stash[RUN]


def _run(config: pytest.Config, folder: Path | None) -> Run:
    from quantkit.pipeline.board import Board
    from quantkit.pipeline.crew import Crew, slots
    from quantkit.pipeline.execute import Run
    from quantkit.pipeline.store import Store

    settings, say, given = options.settings(config), _say(config), worker(config)
    store = Store(options.results(config))
    if given is None:
        return Run(settings, store, Crew(say=say), say, fresh=config.getoption("fresh"))
    crew = Crew(slots(given["workercount"]), say=say, board=Board(folder, given["workerid"]))
    return Run(settings, store, crew, say, fresh=config.getoption("fresh"))


def _say(config: pytest.Config) -> Callable[[str], None]:
    """Return a function that shows one line at once: in pytest's report, or of a worker on the error stream."""
    reporter: Any = config.pluginmanager.get_plugin("terminalreporter")
    capture: Any = config.pluginmanager.get_plugin("capturemanager")
    lock = threading.Lock()  # builds run side by side, and pytest's capture is not made for that
    given = worker(config)

    def say(line: str) -> None:
        with lock, capture.global_and_fixture_disabled():
            if given is None:
                reporter.ensure_newline()
                reporter.write_line(f"  {line}")
            else:
                sys.stderr.write(f"  [{given['workerid']}] {line}\n")
                sys.stderr.flush()

    return say


def leave(config: pytest.Config, error: QuantizationError) -> NoReturn:
    """End the run with one line; a worker lets the controller do it.

    What was typed wrong ends it with 4, as pytest's own options do; all else with 2, as `quantkit run` and `gate` do.
    """
    from quantkit.errors import InvalidSetting

    status = pytest.ExitCode.USAGE_ERROR if isinstance(error, InvalidSetting) else ERROR
    if worker(config) is not None:
        config.workeroutput[EXIT] = (f"quantkit: {error}", int(status))  # type: ignore[attr-defined]
    pytest.exit(f"quantkit: {error}", returncode=status)

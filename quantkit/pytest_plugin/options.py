"""The options and markers of `pytest benchmarks`, and what is made of them: the plan, and the run's settings."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from quantkit.pipeline.plan import Planned
    from quantkit.pipeline.settings import Settings

TARGETS = ("cpu", "mps", "ane", "cuda")  # markers that can be asked for anywhere, whatever is installed
MATRIX = ("models", "methods", "backends", "targets")
DOMAINS = ("vision", "text", "audio", "llm")


def add(parser: pytest.Parser) -> None:
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
    reruns = "disturbed rounds that may be timed again, for each model and target (default: the profile's)"
    group.addoption("--reruns", type=int, metavar="N", help=reruns)
    group.addoption("--threads", type=int, metavar="N", help="threads of one session (default: 1)")
    group.addoption("--time-limit", type=float, metavar="S", help="seconds that one process may take (default: 600)")
    group.addoption(
        "--memory-limit", type=float, metavar="GIB", help="memory that one process may take (default: 80 %% of all)"
    )


def register(config: pytest.Config) -> None:
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
            planned(config)
        except QuantizationError as error:
            raise pytest.UsageError(f"quantkit: {error}") from None


def planned(config: pytest.Config) -> list[Planned]:
    """Return the cases that the options ask for."""
    from quantkit.pipeline.plan import plan

    given = {name: config.getoption(name) for name in MATRIX}
    names = {name: None if text is None else text.split(",") for name, text in given.items()}
    return plan(names.pop("models"), names.pop("methods"), **names, profile=config.getoption("profile"))


def settings(config: pytest.Config) -> Settings:
    """Return the settings that the options ask for."""
    from quantkit.pipeline.settings import Settings

    option = config.getoption
    changes: dict[str, Any] = {name: option(name) for name in ("items", "rounds", "reruns", "threads")}
    changes |= {"time_limit_s": option("time_limit"), "memory_limit_bytes": Settings.bytes_of(option("memory_limit"))}
    return Settings.of(option("profile"), **changes)


def results(config: pytest.Config) -> Path:
    """Return the results file."""
    from quantkit.pipeline.settings import results_file

    asked = config.getoption("results")
    return Path(asked) if asked else results_file()

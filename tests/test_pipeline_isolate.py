"""A process of its own: what goes wrong in it costs one job, and is said in one line."""

import os
import subprocess
import sys
import time

import psutil
import pytest

from quantkit.errors import CalibrationError, CaseFailed
from quantkit.pipeline.isolate import Limits, Workshop

LIMITS = Limits(time_s=20, memory_bytes=2**31)


@pytest.fixture(scope="module")
def shop():
    with Workshop(["math"]) as opened:
        yield opened


def test_a_job_has_a_process_of_its_own(shop):
    first, second = (shop.call("os:getpid", limits=LIMITS) for _ in range(2))

    assert len({first, second, os.getpid()}) == 3


def test_a_value_comes_back(shop):
    assert shop.call("math:hypot", 3.0, 4.0, limits=LIMITS) == 5.0


@pytest.mark.parametrize(
    ("function", "arguments", "message"),
    [
        ("os:abort", (), "killed by SIGABRT"),
        ("os:_exit", (3,), "ended with status 3"),
        ("builtins:int", ("x",), "ValueError: invalid literal"),
        ("no_such_module:f", (), "ModuleNotFoundError"),
    ],
    ids=["abort", "exit", "exception", "import"],
)
def test_a_crash_is_said_in_one_line_and_the_shop_goes_on(shop, function, arguments, message):
    with pytest.raises(CaseFailed) as caught:
        shop.call(function, *arguments, limits=LIMITS)

    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert shop.call("math:sqrt", 9.0, limits=LIMITS) == 3.0


def test_our_own_errors_keep_their_class(shop):
    with pytest.raises(CalibrationError, match="got 0 items"):
        shop.call("quantkit.pipeline.inside:check_calibration", _empty_split(), limits=LIMITS)


def _empty_split():
    from quantkit.contracts import Split

    return Split((), (), ())


def test_the_time_limit_kills_with_all_that_the_job_started(shop):
    started = time.monotonic()

    with pytest.raises(CaseFailed, match="time limit is 1 s"):
        shop.call("subprocess:run", ["sleep", "61"], limits=Limits(1, 2**31))

    assert time.monotonic() - started < 10
    assert not [p for p in psutil.process_iter(["cmdline"]) if p.info["cmdline"] == ["sleep", "61"]]


def test_the_memory_limit_kills_and_says_both_figures(shop):
    code = "import time; hoard = bytearray(2**28); time.sleep(60)"

    with pytest.raises(CaseFailed, match=r"killed at 0\.\d+ GiB: the memory limit is 0\.125 GiB"):
        shop.call("builtins:exec", code, limits=Limits(20, 2**27))


@pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="elsewhere the watch is a thread with a second's delay"
)
def test_kill_9_of_the_caller_leaves_no_process():
    code = """
import sys
from quantkit.pipeline.isolate import Workshop, Limits
Workshop([]).call("time:sleep", 62.5, limits=Limits(100, 2**31))
"""
    caller = subprocess.Popen([sys.executable, "-c", code])
    wait_for(lambda: len(psutil.Process(caller.pid).children(recursive=True)) == 2)
    family = psutil.Process(caller.pid).children(recursive=True)

    caller.kill()
    caller.wait()

    wait_for(lambda: not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in family))


def wait_for(condition, seconds=20):
    """Wait until a condition holds; fail when it does not in time."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)

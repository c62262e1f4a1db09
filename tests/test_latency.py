"""The paired latency protocol: on simulated clocks exactly, on real processes for what goes wrong.

A callable with attributes `clock` and `wait` is timed by them; `Ticking` has a clock of its own, so that every figure
is known beforehand.
"""

import asyncio
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from quantkit import compare_latency, state
from quantkit.errors import CaseFailed, InvalidSetting
from quantkit.latency import Pace, Rule, protocol
from quantkit.latency.side import Host, Side
from tests.latency_stand import FEW, QUICK, compared


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    """These tests are of the protocol: what else runs on the machine is of no account."""
    monkeypatch.setenv("QUANTKIT_DISTURBED", "again")
    monkeypatch.setattr(state, "disturbances", lambda *_: ())


@pytest.mark.parametrize(
    ("candidate", "verdict"), [(0.002, "slower"), (0.0005, "faster"), (0.001005, "same"), (0.00105, "slower")]
)
def test_exact_times_give_exact_verdicts(candidate, verdict):
    found = compared(0.001, candidate)

    assert found.verdict == verdict and not found.reason
    assert found.speedup.value == pytest.approx(0.001 / candidate)
    assert (found.reference_s, found.candidate_s) == pytest.approx((0.001, candidate))
    assert len(found.blocks) == FEW.first, "decided at the first look"


def test_each_block_holds_the_calls_of_its_turns_without_the_first_of_a_turn():
    block = compared(0.001, 0.002).blocks[0]

    assert [len(calls) for calls in block.seconds] == [2 * 3, 2 * 2], (
        "4 calls less 1 in a turn of 4 ms; 2 calls, all kept"
    )


def test_loads_that_differ_too_much_are_never_decided():
    found = compared(0.001, 0.001, spread=1.0)

    assert found.verdict == "inconclusive" and found.reason == "3 looks did not decide it"
    assert len(found.blocks) == FEW.schedule[-1] and found.speedup.low < 1 < found.speedup.high


def test_when_the_time_is_up_it_says_so():
    found = compared(0.001, 0.001, spread=1.0, rule=Rule(first=50), limit_s=1.0)

    assert (found.verdict, found.reason) == ("inconclusive", "the time is up")
    assert 2 <= len(found.blocks) < 50 and found.speedup.value == pytest.approx(1.0, abs=0.7)


def test_a_disturbed_block_does_not_count_and_is_measured_again(monkeypatch):
    told = iter([("others took 80 % of a core",), (), ()])
    monkeypatch.setattr(state, "disturbances", lambda *_: next(told, ()))

    found = compared(0.001, 0.002)

    assert len(found.blocks) == 4 and len(found.tainted) == 1 and found.verdict == "slower"
    assert found.tainted[0].taint == ("others took 80 % of a core",)


def test_a_busy_machine_ends_it(monkeypatch):
    monkeypatch.setattr(state, "disturbances", lambda *_: ("others took 80 % of a core",))

    found = compared(0.001, 0.002)

    assert found.verdict == "inconclusive" and found.reason.startswith("the machine is busy: 4 of 4 blocks")
    assert found.speedup is None and found.reference_s is None


def test_real_callables_in_processes_of_their_own():
    here = os.getpid()

    def short():
        assert os.getpid() != here
        time.sleep(0.001)

    found = compare_latency(short, lambda: time.sleep(0.004), rule=FEW, pace=QUICK, limit_s=30)

    assert found.verdict == "slower" and found.speedup.value < 0.6


def test_what_cannot_be_pickled_is_refused_with_the_way_out():
    with pytest.raises(InvalidSetting, match=r"baseline cannot be sent .* give a factory, load=True"):
        compare_latency(threading.Lock().acquire, time.time)
    with pytest.raises(InvalidSetting, match="candidate must be callable without arguments: got int"):
        compare_latency(time.time, 3)


def raising():
    raise ValueError("no such weight")


def dying():
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize(
    ("candidate", "message"),
    [(raising, "ValueError: no such weight"), (dying, "candidate dying.* crashed while it was timed")],
)
def test_an_error_of_what_is_timed_is_one_line(candidate, message):
    with pytest.raises(CaseFailed, match=message):
        compare_latency(time.time, candidate, rule=FEW, pace=QUICK)


def test_a_factory_that_returns_no_callable_is_one_line():
    with pytest.raises(CaseFailed, match="returned int: it must return what is to be timed"):
        compare_latency(lambda: 3, lambda: 3, load=True)


def test_an_injected_slow_down_has_its_size():
    def side(name, spec):
        import cloudpickle

        blob = ("pickled factory", cloudpickle.dumps(lambda: lambda: time.sleep(0.002)))
        return Side(name, ("slow", spec, blob) if spec else blob)

    found = protocol.compare(side("as it is", 0), side("slowed", 0.5), rule=FEW, pace=Pace(turns=4), limit_s=30)

    assert 1 / found.speedup.value == pytest.approx(1.5, abs=0.1)


def test_loads_are_fresh_and_end_with_their_host(tmp_path):
    import cloudpickle

    def make():
        (tmp_path / str(os.getpid())).touch()
        return os.getpid

    side = Side("pid", ("pickled factory", cloudpickle.dumps(make)))
    with Host(side) as host:
        first, second = host.load(side), host.load(side)
        assert (len(first.time(0.0, 3, 3)), len(second.time(0.0, 1, 1))) == (3, 1)
        made = {int(path.name) for path in tmp_path.iterdir()}
        assert len(made) == 2 and not made & {host._process.pid, os.getpid()}, "each load has a process of its own"
        gone = made | {host._process.pid}
    deadline = time.monotonic() + 60
    while any(Path(f"/proc/{pid}").exists() for pid in gone) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not [pid for pid in gone if Path(f"/proc/{pid}").exists()]


def test_a_process_that_is_killed_between_two_turns_fails_the_case():
    """Not a broken pipe: the command line takes that for the end of its own reader, and for success."""
    import cloudpickle

    side = Side("sleeper", ("pickled", cloudpickle.dumps(time.time)))
    with Host(side) as host:
        load = host.load(side)
        os.killpg(host._process.pid, signal.SIGKILL)
        host._process.wait()
        with pytest.raises(CaseFailed, match="sleeper crashed while it was timed"):
            load.time(0.0, 1, 1)
        with pytest.raises(CaseFailed, match="sleeper ended before it could be loaded"):
            host.load(side)


def test_a_load_that_ends_by_itself_says_how():
    with pytest.raises(CaseFailed, match=r"^candidate leaving crashed while it was timed \(exit status 3\)"):
        compare_latency(time.time, leaving, rule=FEW, pace=QUICK)


def leaving():
    os._exit(3)


def test_a_factory_that_dies_names_its_side_alone():
    with pytest.raises(CaseFailed, match=r"^candidate dying crashed while it was loaded \(killed by SIGKILL\)"):
        compare_latency(lambda: time.time, dying, load=True, rule=FEW, pace=QUICK)


async def working():
    await asyncio.sleep(0)


def giving():
    yield 1


class Working:
    async def __call__(self):
        await asyncio.sleep(0)


@pytest.mark.parametrize("candidate", [working, giving, Working()], ids=["async", "generator", "async object"])
def test_a_function_of_which_a_call_does_nothing_is_refused(candidate):
    with pytest.raises(InvalidSetting, match=r"candidate is an? .*function: a call would only make it .*asyncio\.run"):
        compare_latency(time.time, candidate)
    with pytest.raises(CaseFailed, match=r"what is to be timed is an? .*function"):
        compare_latency(lambda: time.time, lambda: candidate, load=True, rule=FEW, pace=QUICK)
    with pytest.raises(CaseFailed, match=r"what is timed returned a (coroutine|generator): a call would only make it"):
        compare_latency(time.time, lambda: candidate(), rule=FEW, pace=QUICK)


@pytest.mark.parametrize("step", [0.0, -1.0, float("nan")], ids=["stands", "falls", "nan"])
def test_a_clock_that_does_not_rise_is_one_line(step):
    with pytest.raises(CaseFailed, match=r"^candidate .*: its clock gave .* s for a call, expected more than 0"):
        compared(0.001, step)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"limit_s": float("nan")}, "limit_s must be a positive number of seconds: got nan"),
        ({"limit_s": -1}, "limit_s must be"),
        ({"limit_s": "5"}, "limit_s must be a positive number of seconds: got '5'"),
        ({"seed": -1}, "seed must be a whole number from 0 on: got -1"),
        ({"rule": "x"}, "rule must be a quantkit.latency.Rule: got 'x'"),
        ({"pace": 3}, "pace must be a quantkit.latency.Pace: got 3"),
        ({"rule": Rule(alpha=1e-300)}, "alpha must be 1e-09 at least: got 1e-300"),
    ],
    ids=str,
)
def test_wrong_arguments_are_one_line(wrong, said):
    with pytest.raises(InvalidSetting, match=said):
        compare_latency(time.time, time.time, **wrong)
    with pytest.raises(InvalidSetting, match="1 turn and 1 call"):
        Pace(turns=0)


def test_a_limit_that_two_slow_blocks_do_not_fit_into_ends_it_at_once():
    start = time.monotonic()

    found = compare_latency(lambda: time.sleep(0.5), lambda: time.sleep(0.5), limit_s=0.6, rule=FEW)

    assert found.verdict == "inconclusive" and not found.blocks and time.monotonic() - start < 5
    assert found.reason == "two blocks do not fit into the limit: they need 4 s, and 8 are better; raise it" or (
        found.reason.startswith("two blocks do not fit into the limit: they need 5 s")
    )


def test_slow_calls_get_shorter_blocks_that_keep_to_the_limit():
    """A whole block would take (0.1 + 0.3) · 11 = 4.4 s; with one turn it takes 0.8 s."""
    said = []

    found = compare_latency(
        lambda: time.sleep(0.1), lambda: time.sleep(0.3), limit_s=4.0, rule=Rule(first=4, looks=3), say=said.append
    )

    assert found.verdict == "slower" and 2 <= len(found.blocks) <= 5 and found.elapsed_s < 5
    assert all(len(calls) == 1 for block in found.blocks for calls in block.seconds)
    assert "1 in a block, not 10" in said[0]


def test_long_waits_are_said_once(monkeypatch):
    from quantkit.latency import side

    monkeypatch.setattr(side, "TELL_S", 0.05)
    said = []

    compare_latency(lambda: time.sleep(0.15), time.time, limit_s=1.0, pace=Pace(turns=1), rule=FEW, say=said.append)

    assert len([line for line in said if line.startswith("waiting for baseline ")]) == 1

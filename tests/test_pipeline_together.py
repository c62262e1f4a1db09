"""One run by several processes: everything is built, judged and timed once, whoever does it."""

import os
import signal
import subprocess
import sys
import threading
from collections import Counter

import pytest

from quantkit.errors import CorruptFile
from quantkit.pipeline import together
from quantkit.pipeline.board import Board
from quantkit.pipeline.crew import Crew, slots
from quantkit.pipeline.execute import Run, groups
from quantkit.pipeline.settings import Settings
from quantkit.pipeline.store import Store
from quantkit.records import Case, Result

SETTINGS = Settings.of("fast", rounds=2, items=50, time_limit_s=20.0)


def case(method="int8_static", target="simulated"):
    return Case("tiny_plane", method, "grid", target)


def test_notes_are_read_by_all_and_a_torn_one_is_not(tmp_path):
    one, two = Board(tmp_path, "one"), Board(tmp_path, "two")
    one.note("work", seconds=1.5)
    two.note("work", seconds=2.5)
    two.note("other")
    with (tmp_path / "one.jsonl").open("a") as file:
        file.write('{"kind": "work", "writer": "one", "sec')  # killed while it wrote

    assert [(note["writer"], note["seconds"]) for note in one.notes("work")] == [("one", 1.5), ("two", 2.5)]
    assert [note["kind"] for note in Board(tmp_path).notes("work", "other")] == ["work", "work", "other"]


def test_without_a_folder_nothing_is_shared():
    board = Board()
    board.note("work", seconds=1.0)

    with board.claim("this"), board.claim("this"):
        assert not board.claimed("this")
    assert board.notes("work") == []


def test_a_claim_is_one_process_s_and_ends_with_it_by_kill_9(tmp_path):
    code = "import sys, time; from pathlib import Path; from quantkit.pipeline.board import Board\n"
    code += "with Board(Path(sys.argv[1]), 'other').claim('this'): print('has it', flush=True); time.sleep(60)"
    other = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    with other:
        assert other.stdout.readline() == "has it\n"
        board = Board(tmp_path, "mine")
        assert board.claimed("this")
        assert not board.claimed("that")
        other.send_signal(signal.SIGKILL)
        other.wait()

        with board.claim("this"):
            assert board.claimed("this")


def test_slots_are_shared_by_the_processes(monkeypatch):
    """4 slots on 8 cores; 2 processes have 2 each, 16 have one each: never none."""
    monkeypatch.setattr(os, "cpu_count", lambda: 8)

    assert [slots(), slots(2), slots(3), slots(16)] == [4, 2, 1, 1]


@pytest.fixture
def runs(plugins, home):
    """Two runs of one session, as two workers have them: they share results file, cache and board."""
    made = []
    for name in ("gw0", "gw1"):
        said = []
        crew = Crew(1, say=said.append, board=Board(home / "board", name))
        made.append(Run(SETTINGS, Store(home / "results.db"), crew, said.append))
        made[-1].said = said
    yield made
    for run in made:
        run.crew.close()


def side_by_side(*works):
    """Do all in threads of their own; return the errors."""
    errors = []

    def one(work):
        try:
            work()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=one, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(100)
    return errors


def test_all_is_built_and_judged_once_and_timed_by_the_first_who_comes(runs):
    """Two targets of one toolchain share artifacts and answers: 3 methods are 3 builds, 3 answers and 1 original."""
    methods = ("fp32", "int8_static", "int8_weight_only")
    cases = [case(method, target) for method in methods for target in ("simulated", "ane")]
    errors = side_by_side(*(lambda i=i: together.prepare(cases, runs[i], number=i, of=2) for i in range(2)))
    assert errors == []

    board = runs[0].crew.board
    work = [(note["purpose"], note["writer"]) for note in board.notes("work")]
    assert Counter(purpose for purpose, _ in work) == {"original": 1, "build": 3, "evaluate": 3}
    assert {writer for _, writer in work} == {"gw0", "gw1"}

    found = [None, None]

    def execute(i):
        found[i] = [result for group in groups(cases) for result in together.group(group, runs[i])]

    assert side_by_side(lambda: execute(0), lambda: execute(1)) == []
    assert [r.to_json() for r in found[0]] == [r.to_json() for r in found[1]]
    assert {result.case for result in found[0]} == set(cases)
    after = Counter(note["purpose"] for note in board.notes("work"))
    assert after == {"original": 1, "build": 3, "evaluate": 3, "trial": 3 * SETTINGS.rounds}
    (timed,) = board.notes("alone")  # nothing is timed on a neural engine that is not here
    assert timed["asked"] <= timed["start"] <= timed["stop"]
    assert len(runs[0].store.newest()) == len(cases)


def test_a_case_that_breaks_is_tried_once_in_a_run(runs, monkeypatch, tmp_path):
    monkeypatch.setenv("TINY_BREAKS", "abort")
    cases = [case("breaking"), case()]
    together.prepare(cases, runs[0], number=0, of=2)
    (seen,) = runs[0].crew.board.notes("ended")
    together.prepare(cases, runs[1], number=1, of=2)

    found = {result.case.method: result for result in together.group(cases, runs[1])}

    assert seen["error"] == "CaseFailed"
    assert (found["breaking"].status, found["breaking"].reason) == ("failed", seen["message"])
    assert "killed by SIGABRT" in seen["message"]
    assert found["int8_static"].status == "ok"
    assert [line for run in runs for line in run.said if "SIGABRT" in line and run is runs[1]] == []


def test_a_refusal_seen_by_another_process_stays_a_refusal(runs, monkeypatch):
    monkeypatch.setenv("TINY_BREAKS", "refuse")
    together.prepare([case("breaking")], runs[0])

    (found,) = [r for r in together.group([case("breaking")], runs[1]) if r.case.method == "breaking"]

    assert (found.status, found.reason.partition(":")[0]) == ("unsupported", "layer conv1")


def test_results_that_are_gone_are_named(tmp_path):
    store = Store(tmp_path / "results.db")
    store.add(Result(case(), "failed", "crashed", key="1"))

    assert together.results([("1", "failed")], store)[0].reason == "crashed"
    with pytest.raises(CorruptFile, match="has lost 2 results of this run: was it replaced"):
        together.results([("1", "failed"), ("1", "ok"), ("2", "ok")], store)


def test_nothing_is_lost_when_four_processes_write_one_results_file(tmp_path):
    """15 results and 15 parts from each of four processes that start at once."""
    code = """
import sys
from pathlib import Path
from quantkit.pipeline.store import Store
from quantkit.records import Case, Result
for number in range(15):
    store = Store(Path(sys.argv[1]))
    store.add(Result(Case("m", f"{sys.argv[2]}-{number}", "b", "t"), "ok", key=f"{sys.argv[2]}-{number}"))
    store.keep_part(sys.argv[2], str(number), [number])
"""
    file = tmp_path / "results.db"
    writers = [subprocess.Popen([sys.executable, "-c", code, str(file), str(i)]) for i in range(4)]

    assert [writer.wait(60) for writer in writers] == [0] * 4
    store = Store(file)
    assert len(store.newest()) == 60
    assert all(store.find(f"{i}-{number}") for i in range(4) for number in range(15))
    assert all(store.parts(str(i)) == {str(n): [n] for n in range(15)} for i in range(4))

"""The results file: what goes in comes out, and damage is noticed."""

import sqlite3

import pytest

from quantkit.errors import CorruptFile, NothingMeasured, StorageError
from quantkit.pipeline.store import Store
from quantkit.records import Case, Measurement, Result
from quantkit.units import Unit

CASE = Case("m", "int8_static", "b", "cpu")


def result(**changes):
    values = {
        "case": CASE,
        "status": "ok",
        "key": "k1",
        "created": "2026-01-01T00:00:00+00:00",
        "measurements": {"latency": Measurement("latency", Unit.SECOND, "lower", (0.1, 0.30000000000000004))},
        "outcomes": (1.0, 0.0),
        "latencies_s": ((0.1,), (0.2,)),
        "fingerprint": {"id": "machine"},
    }
    return Result(**(values | changes))


def test_round_trip_is_exact(tmp_path):
    store = Store(tmp_path / "r.db")

    store.add(result())

    assert store.find("k1") == result()
    assert Store(tmp_path / "r.db", write=False).newest() == [result()]


def test_a_failure_is_kept_but_tried_again(tmp_path):
    store = Store(tmp_path / "r.db")
    store.add(result(status="failed", reason="crashed"))

    assert store.find("k1") is None
    assert store.newest()[0].reason == "crashed"


def test_the_newest_result_of_a_case_is_the_current_one(tmp_path):
    store = Store(tmp_path / "r.db")
    store.add(result(key="old"))
    store.add(result(key="new"))

    assert [found.key for found in store.newest()] == ["new"]
    assert store.find("old").key == "old"


def test_a_result_that_was_taken_again_is_the_current_one_until_the_next_is_measured(tmp_path):
    """Code that was changed and changed back: the first result counts again, not the one of the changed code."""
    store = Store(tmp_path / "results.db")
    for key, reason in (("a", "first"), ("b", "changed")):
        store.add(result(key=key, reason=reason))

    store.take(["a"])
    taken = [found.reason for found in store.newest()]
    store.add(result(key="c", reason="later"))

    assert taken == ["first"]
    assert [found.reason for found in Store(tmp_path / "results.db", write=False).newest()] == ["later"]
    assert [found.reason for found in store.every()] == ["first", "changed", "later"]


def test_a_file_from_before_results_were_taken_is_read(tmp_path):
    store = Store(tmp_path / "results.db")
    store.add(result())
    with sqlite3.connect(store.path) as connection:
        connection.execute("DROP TABLE taken")

    assert len(Store(store.path, write=False).newest()) == 1


def test_a_changed_row_is_noticed(tmp_path):
    store = Store(tmp_path / "r.db")
    store.add(result())
    with sqlite3.connect(tmp_path / "r.db") as connection:
        connection.execute("UPDATE results SET payload = replace(payload, '0.1', '0.2')")

    with pytest.raises(CorruptFile, match="hash is not the recorded one"):
        store.newest()


def test_a_file_that_is_no_database_is_refused(tmp_path):
    (tmp_path / "r.db").write_text("these are not results, whatever the name says" * 100)

    with pytest.raises(CorruptFile, match=r"is damaged .* move it away"):
        Store(tmp_path / "r.db")


def test_a_torn_page_is_noticed(tmp_path):
    store = Store(tmp_path / "r.db")
    for number in range(50):
        store.add(result(key=str(number)))
    data = bytearray((tmp_path / "r.db").read_bytes())
    data[8192:12288] = b"\xff" * 4096
    (tmp_path / "r.db").write_bytes(data)

    with pytest.raises(CorruptFile):
        Store(tmp_path / "r.db").newest()


def test_a_newer_schema_is_refused(tmp_path):
    Store(tmp_path / "r.db")
    with sqlite3.connect(tmp_path / "r.db") as connection:
        connection.execute("PRAGMA user_version = 99")

    with pytest.raises(CorruptFile, match="schema 99"):
        Store(tmp_path / "r.db")


def test_an_empty_file_holds_no_results(tmp_path):
    (tmp_path / "r.db").touch()

    with pytest.raises(CorruptFile, match="holds no results"):
        Store(tmp_path / "r.db", write=False)


def test_reading_where_nothing_was_measured_says_what_to_do(tmp_path):
    with pytest.raises(NothingMeasured, match="measure first"):
        Store(tmp_path / "none.db", write=False)

    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")

    with pytest.raises(StorageError, match="choose another place with --results"):
        Store(tmp_path / "file" / "r.db")


def test_parts_survive_and_a_damaged_part_is_forgotten(tmp_path):
    store = Store(tmp_path / "r.db")
    store.keep_part("race", "0", {"a": 1})
    store.keep_part("race", "1", {"a": 2})
    with sqlite3.connect(tmp_path / "r.db") as connection:
        connection.execute("UPDATE parts SET payload = '{}' WHERE part = '1'")

    assert Store(tmp_path / "r.db").parts("race") == {"0": {"a": 1}}
    store.drop_parts("race")
    assert store.parts("race") == {}


def test_another_schema_of_a_record_is_not_read_as_ours():
    text = result().to_json().replace('"schema": 2', '"schema": 3')

    with pytest.raises(ValueError, match="schema 3"):
        Result.from_json(text)


def test_a_measurement_has_values_or_a_reason():
    with pytest.raises(ValueError, match="either values or a reason"):
        Measurement("x", Unit.SECOND, "lower")
    with pytest.raises(ValueError, match="either values or a reason"):
        Measurement("x", Unit.SECOND, "lower", (1.0,), "why")

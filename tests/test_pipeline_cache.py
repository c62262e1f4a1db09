"""The cache: an entry is whole and unchanged, or it is not used."""

import json

import pytest

from quantkit.errors import CorruptFile, QuantizationError, StorageError
from quantkit.pipeline import cache


def make(folder):
    (folder / "weights.bin").write_bytes(b"\x01\x02\x03")
    return {"answer": 42}


@pytest.fixture
def said():
    return []


def test_the_second_time_nothing_is_made(tmp_path, said):
    first = cache.obtain(tmp_path, "k" * 64, make, said.append)
    second = cache.obtain(tmp_path, "k" * 64, lambda folder: pytest.fail("made again"), said.append)

    assert (first.cached, second.cached) == (False, True)
    assert second.facts == {"answer": 42}
    assert second.size_bytes == 3
    assert said == []


@pytest.mark.parametrize("damage", ["changed", "missing", "manifest", "facts"])
def test_a_damaged_entry_is_said_and_made_again(tmp_path, said, damage):
    entry = cache.obtain(tmp_path, "k" * 64, make, said.append)
    if damage == "changed":
        (entry.folder / "weights.bin").write_bytes(b"\x01\x02\x04")
    elif damage == "missing":
        (entry.folder / "weights.bin").unlink()
    elif damage == "manifest":
        (entry.folder / cache.MANIFEST).write_text("{")
    else:
        manifest = json.loads((entry.folder / cache.MANIFEST).read_text())
        (entry.folder / cache.MANIFEST).write_text(json.dumps(manifest | {"facts": {"answer": 43}}))

    with pytest.raises(CorruptFile):
        cache.read(entry.folder)
    again = cache.obtain(tmp_path, "k" * 64, make, said.append)

    assert again.cached is False
    assert again.facts == {"answer": 42}
    assert "made again" in said[0]


def test_an_error_leaves_nothing_half_written(tmp_path, said):
    def broken(folder):
        (folder / "half").write_bytes(b"x")
        raise QuantizationError("no")

    with pytest.raises(QuantizationError, match="no"):
        cache.obtain(tmp_path, "k" * 64, broken, said.append)

    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_is_named(tmp_path, said):
    (tmp_path / "file").write_text("in the way")

    with pytest.raises(StorageError, match=r"cannot write .*file"):
        cache.obtain(tmp_path / "file" / "below", "k" * 64, make, said.append)


def test_a_full_disk_says_what_to_do(tmp_path, said):
    def full(folder):
        raise OSError(28, "No space left on device")

    with pytest.raises(StorageError, match=r"no space left on the disk that holds .* free some"):
        cache.obtain(tmp_path, "k" * 64, full, said.append)

    assert list(tmp_path.iterdir()) == []


def test_another_run_that_was_quicker_wins(tmp_path, said):
    """Two runs make the same entry at once: the second takes what the first has put there."""

    def slow(folder):
        cache.obtain(tmp_path, "k" * 64, make, said.append)
        return make(folder) | {"answer": 43}

    assert cache.obtain(tmp_path, "k" * 64, slow, said.append).facts == {"answer": 42}
    assert len(list(tmp_path.iterdir())) == 1


def test_an_entry_is_made_anew_where_that_is_asked_for(tmp_path, said):
    first = cache.obtain(tmp_path, "k" * 64, make, said.append)
    held = (first.folder / "weights.bin").open("rb")

    again = cache.obtain(tmp_path, "k" * 64, lambda folder: make(folder) | {"answer": 43}, said.append, anew=True)

    assert (again.cached, again.facts, cache.read(first.folder).facts) == (False, {"answer": 43}, {"answer": 43})
    assert held.read() == b"\x01\x02\x03", "whoever had the old one open still reads it"
    assert len(list(tmp_path.iterdir())) == 1 and said == []
    held.close()


def test_an_entry_that_cannot_be_made_anew_stays(tmp_path, said):
    def broken(folder):
        raise QuantizationError("no")

    cache.obtain(tmp_path, "k" * 64, make, said.append)
    with pytest.raises(QuantizationError, match="no"):
        cache.obtain(tmp_path, "k" * 64, broken, said.append, anew=True)

    assert cache.obtain(tmp_path, "k" * 64, broken, said.append).facts == {"answer": 42}

"""Data sets: checked files, fair prefixes, and calibration that never meets evaluation."""

import shutil

import numpy as np
import pytest

from quantkit import files
from quantkit.catalog import DATASETS
from quantkit.errors import CorruptFile

NAMES = DATASETS.names()
FILES = [(name, location) for name in NAMES for location in DATASETS.get(name).info.sha256]
MOST = {"noise_images": 16}  # computed on the spot, 3 ms each


def content(split):
    """Return the bytes of each item's inputs."""
    return [b"".join(x[i].tobytes() for x in split.inputs) for i in range(len(split))]


@pytest.mark.parametrize("name", NAMES)
def test_calibration_never_meets_evaluation(name):
    """By content, not by name: no calibration item is equal to an evaluation item."""
    dataset = DATASETS.get(name)

    evaluation, calibration = dataset.evaluation(MOST.get(name)), dataset.calibration(MOST.get(name))

    assert not set(content(evaluation)) & set(content(calibration))
    assert not set(evaluation.ids) & set(calibration.ids)


@pytest.mark.parametrize("part", ["evaluation", "calibration"])
@pytest.mark.parametrize("name", NAMES)
def test_prefix_is_a_prefix(name, part):
    load = getattr(DATASETS.get(name), part)

    whole, first = load(MOST.get(name)), load(6)

    assert len(first) == 6 and first.ids == whole.ids[:6]
    assert len(set(whole.ids)) == len(whole) == len(whole.targets) and all(len(x) == len(whole) for x in whole.inputs)
    for few, all_ in zip((*first.inputs, first.targets), (*whole.inputs, whole.targets), strict=True):
        np.testing.assert_array_equal(few, all_[:6])
        assert few.flags.c_contiguous and np.isfinite(few).all()


@pytest.mark.parametrize("name", NAMES)
def test_limit_must_be_positive(name):
    with pytest.raises(ValueError, match=r"limit must be at least \d.*: got 0"):
        DATASETS.get(name).evaluation(0)


@pytest.mark.parametrize(("name", "location"), FILES)
def test_tampered_file_is_refused(name, location, tmp_path, monkeypatch):
    for other in DATASETS.get(name).info.sha256:
        (tmp_path / other).parent.mkdir(exist_ok=True)
        shutil.copy(files.ASSETS / other, tmp_path / other)
    data = bytearray((tmp_path / location).read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / location).write_bytes(data)
    monkeypatch.setattr(files, "ASSETS", tmp_path)

    with pytest.raises(CorruptFile, match="is corrupt"):
        [load(2) for load in (DATASETS.get(name).evaluation, DATASETS.get(name).calibration)]


@pytest.mark.parametrize("name", NAMES)
def test_info_is_complete(name):
    info = DATASETS.get(name).info

    assert info.name == name and info.title and info.licence and info.provenance


def test_fashion_mnist_prefix_is_a_fair_sample():
    """1,000 of 10,000 without replacement: a class has 100 on average, deviation sqrt(1000 · .1 · .9 · .9) = 9."""
    split = DATASETS.get("fashion_mnist").evaluation()

    counts = np.bincount(split.targets[:1000], minlength=10)

    assert np.abs(counts - 100).max() < 4 * 9
    assert len(split) == 10_000 and np.bincount(split.targets).tolist() == [1000] * 10
    assert split.inputs[0].shape == (10_000, 1, 28, 28) and split.inputs[0].dtype == np.float32
    assert (split.inputs[0].min(), split.inputs[0].max()) == (0.0, 1.0)


def test_fashion_mnist_calibration_has_every_class():
    split = DATASETS.get("fashion_mnist").calibration()

    assert np.bincount(split.targets).tolist() == [200] * 10


def test_pydoc_targets_are_the_next_tokens():
    split = DATASETS.get("pydoc").evaluation()

    assert split.inputs[0].shape == split.targets.shape == (512, 128)
    np.testing.assert_array_equal(split.inputs[0][:, 1:], split.targets[:, :-1])
    assert split.inputs[0].dtype == split.targets.dtype == np.int64


def test_passages_come_in_pairs():
    """Query and document of a passage side by side; an odd limit loses its last row."""
    split = DATASETS.get("pydoc_passages").evaluation(7)

    assert split.targets.tolist() == [0, 0, 1, 1, 2, 2]
    assert split.ids[:3] == ("test/0/query", "test/0/document", "test/1/query")
    ids, mask = split.inputs
    assert ids.shape == mask.shape == (6, 64)
    assert (ids[:, 0] == 101).all() and ((ids != 0) == mask.astype(bool)).all()  # 101 is [CLS], 0 is [PAD]
    assert (mask.sum(1) > 2).all() and (np.diff(mask, axis=1) <= 0).all()


def test_voices_share_no_recording():
    """And all five voices are there, 80 and 20 clips of each."""
    dataset = DATASETS.get("voices")

    evaluation, calibration = dataset.evaluation(), dataset.calibration()

    assert np.bincount(evaluation.targets).tolist() == [80] * 5
    assert np.bincount(calibration.targets).tolist() == [20] * 5
    assert evaluation.inputs[0].shape == (400, 160, 40) and evaluation.inputs[0].dtype == np.float32


def test_noise_images_have_the_spectrum_of_photographs():
    """Power falls from each octave of spatial frequency to the next: 1/f^2a in two dimensions, a >= .5."""
    images = DATASETS.get("noise_images").evaluation(4).inputs[0]

    power = (np.abs(np.fft.fft2(images)) ** 2).mean(1)
    radius = np.hypot(np.fft.fftfreq(224)[:, None], np.fft.fftfreq(224)[None]) * 224
    octaves = [power[:, (radius >= low) & (radius < 2 * low)].mean(1) for low in (4, 8, 16, 32)]

    assert (np.diff(octaves, axis=0) < 0).all()
    assert images.dtype == np.float32 and images.shape[1:] == (3, 224, 224)

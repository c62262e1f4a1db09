"""From any DataLoader to items: what is input, what is target, what is kept apart, what is refused and how."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from quantkit.engines.loader import Parts, items_of
from quantkit.errors import CalibrationError
from quantkit.procedures.calibration import cleaned

NET = nn.Sequential(nn.Linear(3, 2))
PARTS = Parts(1000)


class Pair(nn.Module):
    """Takes two inputs by name, the second optional."""

    def forward(self, ids, mask=None):
        return ids if mask is None else ids * mask


def numbered(count):
    """Return items whose first value is their place."""
    return torch.arange(count, dtype=torch.float32)[:, None].repeat(1, 3)


def test_targets_are_what_forward_does_not_take():
    x, y = numbered(10), torch.arange(10)

    items = items_of(NET, DataLoader(TensorDataset(x, y), batch_size=4), PARTS)

    assert items.labelled
    assert (items.evaluation.inputs[0][:, 0] == items.evaluation.targets).all()
    assert len(items.evaluation.inputs) == 1


@pytest.mark.parametrize("batch", ["tensor", "tuple of one"])
def test_batches_without_targets(batch):
    data = [numbered(8)] if batch == "tensor" else [(numbered(8),)]

    items = items_of(NET, data, PARTS)

    assert not items.labelled
    assert len(items.calibration) + len(items.evaluation) == 8


def test_dictionaries_go_by_name_and_what_forward_does_not_take_is_told():
    rows = {"mask": torch.ones(6, 4), "ids": torch.arange(24).reshape(6, 4), "labels": torch.arange(6), "uid": ["a"]}

    items = items_of(Pair(), [rows], PARTS)

    assert items.names == ("mask", "ids")
    assert items.labelled
    assert "uid" in items.notes[0]
    assert items.calibration.inputs[1].dtype == np.int64


def test_the_loader_is_divided_without_overlap_and_over_its_whole_length():
    """50 items at a fifth: 10 are kept apart, the first and the last among them, 40 calibrate."""
    items = items_of(NET, DataLoader(numbered(50), batch_size=7), PARTS)

    judged, calibrated = (set(split.inputs[0][:, 0].tolist()) for split in (items.evaluation, items.calibration))

    assert len(judged) == 10
    assert {0.0, 49.0} <= judged
    assert judged | calibrated == set(map(float, range(50)))
    assert not judged & calibrated


def test_an_item_that_is_judged_never_calibrates_even_when_it_comes_twice():
    data = [torch.cat([numbered(10), numbered(10)])]

    items = items_of(NET, data, PARTS)

    judged = set(items.evaluation.inputs[0][:, 0].tolist())
    assert not judged & set(items.calibration.inputs[0][:, 0].tolist())


def test_no_more_is_read_than_is_needed():
    """30 to calibrate and 20 to judge are in 5 batches of 10: a sixth is never asked for."""
    asked = []

    def endless():
        while True:
            asked.append(len(asked))
            yield numbered(10) + 10 * len(asked)

    items = items_of(NET, endless(), Parts(30, evaluation=20))

    assert len(asked) == 5
    assert (len(items.calibration), len(items.evaluation)) == (30, 20)


def test_a_shuffling_loader_takes_no_random_numbers_from_the_user():
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)

    items_of(NET, DataLoader(TensorDataset(numbered(10)), batch_size=2, shuffle=True), PARTS)

    assert torch.rand(1) == expected


def broken(how):
    bad = numbered(10)
    bad[3, 1] = float("nan")
    return {
        "empty": [],
        "number": 7,
        "tensor": numbered(4),
        "nan": [bad],
        "ragged": [torch.ones(2, 3), torch.ones(2, 4)],
        "scalar": [torch.tensor(1.0)],
        "strings": [["a", "b"]],
        "rows": [((torch.ones(3, 3), torch.ones(2, 3)), torch.ones(3))],
        "keys": [{"nothing": torch.ones(2)}],
        "other keys": [{"ids": torch.ones(2, 1)}, {"mask": torch.ones(2, 1)}],
    }[how]


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("empty", "got 0 batches, expected at least 1"),
        ("number", "must be a DataLoader or another iterable of batches: got int"),
        ("tensor", "must be a DataLoader or another iterable of batches: got Tensor"),
        ("nan", "1 of 10 items, the first is item 3"),
        ("ragged", r"got \[3\] and \[4\]; pad or crop"),
        ("scalar", "a Tensor without axes"),
        ("strings", "must be a tensor"),
        ("rows", "input 1 has 2 rows and input 0 has 3"),
        ("keys", r"forward\(ids, mask\) takes: got nothing"),
        ("other keys", "same keys as the first: 'ids' is missing"),
    ],
)
def test_what_cannot_be_used_is_refused_with_the_next_step(how, message):
    network = Pair() if "keys" in how else NET

    with pytest.raises(CalibrationError, match=message):
        items_of(network, broken(how), PARTS)


def test_a_batch_that_cannot_be_collated_is_the_data_sets_fault():
    with pytest.raises(CalibrationError, match="the loader cannot make a batch"):
        items_of(NET, DataLoader([torch.ones(3), torch.ones(4)], batch_size=2), PARTS)


def test_cleaning_leaves_out_what_is_not_finite_and_says_so():
    items = items_of(NET, broken("nan"), PARTS, cleaned)

    assert len(items.calibration) + len(items.evaluation) == 9
    assert "1 of 10 items left out (item 3: holds nan or inf)" in items.notes

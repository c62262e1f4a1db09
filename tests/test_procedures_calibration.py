"""Calibration data that is refused, doubted or cleaned, and layers that are blamed for a bad result."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from quantkit.contracts import Plan, Split
from quantkit.errors import CalibrationError, Unsupported
from quantkit.numerics.fidelity import sqnr_db
from quantkit.pipeline import inside
from quantkit.procedures import layers
from quantkit.procedures.blame import Blame, blame, judge, noises_db
from quantkit.procedures.calibration import check, cleaned
from quantkit.scheme import PerTensor, Scheme

INT4, INT8 = Scheme(4, granularity=PerTensor()), Scheme(8, granularity=PerTensor())


def images(count=200, seed=0, classes=10):
    """Return items [count, 1, 4, 4] with as many of each class."""
    values = np.random.default_rng(seed).random((count, 1, 4, 4)).astype(np.float32)
    return Split((values,), np.arange(count) % classes, tuple(f"train/{i}" for i in range(count)))


def tokens(lengths, width=8, padding=0):
    """Return token sequences that end in padding after `lengths` tokens."""
    values = np.random.default_rng(0).integers(1, 50, (len(lengths), width))
    for row, length in zip(values, lengths, strict=True):
        row[length:] = padding
    return Split((values,), np.zeros((len(values), width)), tuple(map(str, range(len(values)))))


def test_good_data_raises_no_doubt():
    split = images()

    assert check(split, example=split.item(0), evaluation=images(50, seed=1)) == ()


def test_what_is_refused_names_what_was_got_and_the_next_step():
    split, broken = images(), images()
    broken.inputs[0][[3, 9], 0, 1, 2] = np.nan, np.inf
    refused = {
        "got 0 items, expected at least 1; give the data set a calibration split": (Split((), np.zeros(0), ()), {}),
        "input 0 has 200 rows for 2 items: give one row an item": (Split(split.inputs, split.targets, ("a", "b")), {}),
        r"nan or inf in 2 of 200 items, the first is train/3: remove or repair": (broken, {}),
        r"got float32 \[1, 4, 4\] an item, expected float32 \[3, 4, 4\]; prepare it": (
            split, {"example": (np.zeros((1, 3, 4, 4), np.float32),)},
        ),
        r"got float32 \[1, 4, 4\] an item, expected float64 \[1, 4, 4\]": (
            split, {"example": (np.zeros((1, 1, 4, 4)),)},
        ),
        "has 1 inputs, expected 2: give one array for each": (split, {"example": (np.zeros(1), np.zeros(1))}),
    }  # fmt: skip

    for message, (data, options) in refused.items():
        with pytest.raises(CalibrationError, match=message):
            check(data, **options)


def test_items_that_are_judged_are_refused_by_content_not_by_name():
    """Three of the evaluation items are calibration items 7, 8 and 9 under other names; a changed one is not."""
    split, judged = images(), images(20, seed=1)
    judged.inputs[0][4:7] = split.inputs[0][7:10]
    judged.inputs[0][10] = split.inputs[0][11]
    judged.inputs[0][10, 0, 0, 0] += 1e-3

    with pytest.raises(CalibrationError, match=r"holds 3 items .*the first: train/7, train/8, train/9; take"):
        check(split, evaluation=judged)


def test_inputs_of_all_positions_make_an_item():
    """Equal tokens with another mask are another item."""
    ids = np.ones((4, 3), np.int64)
    one = Split((ids, ids), np.zeros(4), tuple("abcd"))
    other = Split((ids, 0 * ids), np.zeros(4), tuple("abcd"))

    check(one, evaluation=other)
    with pytest.raises(CalibrationError, match="holds 4 items"):
        check(one, evaluation=one)


def doubt(split, **options):
    """Return the only doubt."""
    (found,) = check(split, **options)
    return found


def test_few_items_are_doubted():
    assert doubt(images(99)) == "99 calibration items are few: ranges from fewer than 100 miss rare values"
    assert check(images(100)) == ()
    assert check(images(20), minimum=20) == ()


def test_absent_and_uneven_classes_are_doubted():
    """Of classes 0..9 class 4 is absent; 8 classes have one item of 200 left, the first has 193: 193 > 10 · 1."""
    absent, uneven, even = images(), images(), images()
    absent.targets[absent.targets == 4] = 5
    uneven.targets[:] = 0
    uneven.targets[:9] = np.arange(1, 10)

    assert doubt(absent) == "calibration data has no item of 1 of 10 classes: 4"
    assert doubt(uneven) == "calibration classes are uneven: the largest has 191 items, the smallest 1"
    even.targets[:] = [0] * 18 + [1] * 182
    assert "18" in doubt(even)
    even.targets[:] = [0] * 20 + [1] * 180
    assert check(even) == (), "ten times as many is still let by"


@pytest.mark.parametrize("targets", [np.zeros(200, int), np.arange(200) // 2, np.zeros(200), np.zeros((200, 3), int)])
def test_targets_that_are_no_classes_are_not_doubted(targets):
    """One class only, a name for each pair, real numbers, a row of tokens."""
    split = images()

    assert check(Split(split.inputs, targets, split.ids)) == ()


def test_equal_repeated_and_constant_items_are_doubted():
    equal, repeated, constant = images(), images(), images()
    equal.inputs[0][:] = equal.inputs[0][:1]
    repeated.inputs[0][100:125] = repeated.inputs[0][:25]
    constant.inputs[0][5] = 0.5

    assert doubt(equal) == "all 200 calibration items are equal: they count as one"
    assert doubt(repeated) == "25 of 200 calibration items repeat an earlier one: they add nothing"
    assert doubt(constant) == "calibration input 0 is one constant value in 1 of 200 items"


def test_sequences_of_padding_are_doubted():
    """Of 120 sequences of 8 tokens, 80 fill 2 or 3: less than half; of 120 of 4 to 8 tokens none does."""
    short = tokens([2, 3] * 40 + [8] * 40)

    assert doubt(short) == (
        "calibration input 0 is mostly padding: 80 of 120 sequences fill less than half of 8 positions (median 3)"
    )
    assert check(tokens([4, 5, 6, 7, 8] * 24)) == ()


def test_cleaning_keeps_the_first_of_each_good_item():
    split = images(6, classes=2)
    split.inputs[0][1, 0, 0, 0] = np.inf
    split.inputs[0][4] = split.inputs[0][2]

    kept, dropped = cleaned(split)

    assert kept.ids == ("train/0", "train/2", "train/3", "train/5")
    np.testing.assert_array_equal(kept.inputs[0], split.inputs[0][[0, 2, 3, 5]])
    np.testing.assert_array_equal(kept.targets, split.targets[[0, 2, 3, 5]])
    assert dropped == ["train/1: holds nan or inf", "train/4: equal to train/2"]
    check(kept)
    assert cleaned(kept)[1] == []


def test_nothing_left_after_cleaning_is_an_error():
    split = images(3)
    split.inputs[0][:] = np.nan

    with pytest.raises(CalibrationError, match="all 3 calibration items hold nan or inf"):
        cleaned(split)


def test_a_build_checks_and_its_notes_carry_the_doubts(monkeypatch, tmp_path):
    """The pipeline's own step, with a data set whose calibration is 12 images: they reach the report's notes."""
    from quantkit.catalog import BACKENDS, DATASETS
    from quantkit.contracts import BuildReport
    from quantkit.pipeline.settings import Settings
    from quantkit.records import Case

    data = DATASETS.get("fashion_mnist")
    report = BuildReport((), 0, 0.0, "fp32", notes=("chosen",))
    monkeypatch.setattr(type(BACKENDS.get("onnxruntime")), "build", lambda *_: report)
    case = Case("fmnist_cnn", "int8_static", "onnxruntime", "cpu")

    built = inside.build(case, tmp_path, Settings.of("fast", calibration=12))

    assert built["report"]["notes"][0] == "chosen"
    assert "12 calibration items are few: ranges from fewer than 100 miss rare values" in built["report"]["notes"]
    monkeypatch.setattr(data, "calibration", data.evaluation, raising=False)
    with pytest.raises(CalibrationError, match="holds 12 items that quality is judged on, the first: t10k/"):
        inside.build(case, tmp_path, Settings.of("fast", calibration=12))


@pytest.fixture(scope="module")
def network():
    """Three linear layers; a single large weight takes all codes of the second."""
    torch.manual_seed(0)
    made = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 10)).eval()
    with torch.no_grad():
        made[2].weight[0, 0] = 20.0
        made[4].weight[:, 0] = 0.0  # what the large weight gives is used by nobody
    return made


@pytest.fixture(scope="module")
def rows():
    values = np.random.default_rng(0).standard_normal((64, 16)).astype(np.float32)
    return Split((values,), np.zeros(64), tuple(map(str, range(64))))


def test_the_layer_with_an_outlier_is_to_blame(network, rows):
    """Its other weights, all below 0.18, lie below half of its 4-bit step of 20/7: they become 0."""
    found = blame(network, Plan(INT4), rows)

    assert [one.layer for one in found] == ["2"]
    assert found[0].note.startswith("Linear, 1024 weights in w4a16-per-tensor, ")


def test_all_layers_come_sorted_and_their_shares_are_one(network, rows):
    found = blame(network, Plan(INT4), rows, share=1)

    assert {one.layer for one in found} == {"0", "2", "4"}
    assert [one.sqnr_db for one in found] == sorted(one.sqnr_db for one in found)
    assert sum(float(one.note.split(", ")[-1].split("%")[0]) for one in found) == pytest.approx(100, abs=1.5)


def test_a_layers_figure_is_that_of_a_network_with_only_this_layer_rounded(network, rows):
    """By hand: weights on ±7 steps of the largest / 7, everything else as it was."""
    import copy

    by_hand = copy.deepcopy(network)
    with torch.no_grad():
        scale = by_hand[4].weight.abs().max() / 7
        by_hand[4].weight.copy_((by_hand[4].weight / scale).round() * scale)
        expected = sqnr_db(network(torch.from_numpy(rows.inputs[0])), by_hand(torch.from_numpy(rows.inputs[0])))

    assert noises_db(network, Plan(INT4), rows)["4"] == pytest.approx(expected, abs=0.01)


def test_static_activations_and_kept_layers_count(network, rows):
    """A layer in float is not measured; 8-bit inputs cost more than 8-bit weights alone."""
    weights = noises_db(network, Plan(INT8, {"0": None}), rows)
    both = noises_db(network, Plan(Scheme(8, granularity=PerTensor(), activations="static"), {"0": None}), rows)

    assert set(weights) == set(both) == {"2", "4"}
    assert both["4"] < weights["4"]


def test_powers_add_up_to_the_error_in_company(network, rows):
    """Errors of layers are nearly independent at 8 bits: their summed power is that of all at once within 1.5 dB."""
    plan = Plan(INT8)
    together = layers.answers(layers.simulated(network, plan), rows)
    alone = sum(10 ** (-db / 10) for db in noises_db(network, plan, rows).values())

    assert -10 * math.log10(alone) == pytest.approx(
        sqnr_db(layers.answers(network, rows).numpy(), together.numpy()), abs=1.5
    )


def test_no_error_means_no_blame(rows):
    """Weights of -1, 0 and 1 lie on every symmetric grid whose largest code stands for 1."""
    network = nn.Sequential(nn.Linear(16, 4)).eval()
    with torch.no_grad():
        network[0].weight.copy_(torch.ones(4, 16))

    assert blame(network, Plan(INT4), rows) == []


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        (Plan(Scheme(32, "fp32")), "quantizes no layer"),
        (Plan(Scheme(8, "mxfp8")), "mxfp8 is not simulated"),
    ],
    ids=["float", "mxfp8"],
)
def test_a_plan_that_cannot_be_blamed_is_refused(network, rows, plan, message):
    with pytest.raises(Unsupported, match=message):
        blame(network, plan, rows)
    with pytest.raises(ValueError, match="share must be above 0 and at most 1: got 0"):
        blame(network, Plan(INT4), rows, share=0)


def test_the_judgement_names_the_layers_at_fault():
    worst = Blame("2", 3.21, "Linear, 1024 weights in w4a16, 98% of the layers' error")

    assert judge(0.99, 0.99, [worst]) is None
    assert judge(0.9, 0.99, [worst]) == (
        "90.00% of the quality is kept, expected at least 99.00%; to blame: 2 (3.2 dB alone: Linear, 1024 weights in "
        "w4a16, 98% of the layers' error); keep these layers in more bits, or take smaller groups or another method"
    )
    assert judge(0.9, 0.99, []).endswith("expected at least 99.00%; take more bits, smaller groups or another method")

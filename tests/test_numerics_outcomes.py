"""Per-item outcomes: values by hand, and laws that any scorer must keep."""

import math

import numpy as np
import pytest

from quantkit.numerics import blocks, outcomes


def test_top1_is_right_or_wrong_per_item():
    """Guesses 2, 0 and, by the tie rule, 0 against labels 2, 1, 0."""
    logits = [[0.0, 1.0, 3.0], [2.0, 1.0, 0.0], [4.0, 4.0, 1.0]]

    assert outcomes.top1(logits, [2, 1, 0]).tolist() == [1.0, 0.0, 1.0]


def test_nats_are_the_mean_of_minus_log_probability():
    """Logits ln 1, ln 3 give probabilities 1/4, 3/4: tokens (0, 1) cost (ln 4 + ln 4/3) / 2."""
    logits = np.log([[[1.0, 3.0], [1.0, 3.0]], [[1.0, 1.0], [1.0, 1.0]]])

    found = outcomes.nats_per_token(logits, [[0, 1], [1, 0]])

    assert found.tolist() == pytest.approx([(math.log(4) + math.log(4 / 3)) / 2, math.log(2)], abs=1e-12)


def test_nats_do_not_depend_on_blocks_or_a_shift(monkeypatch):
    """Softmax does not see a constant per position, and blocks that cut through items must be put together again."""
    rng = np.random.default_rng(0)
    logits, tokens = rng.standard_normal((5, 7, 11)), rng.integers(0, 11, (5, 7))
    p = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    expected = -np.log(np.take_along_axis(p, tokens[..., None], axis=-1))[..., 0].mean(axis=1)
    monkeypatch.setattr(blocks, "BLOCK", 30)

    assert outcomes.nats_per_token(logits + 1000.0, tokens) == pytest.approx(expected, rel=1e-10)


def test_nearest_neighbour_leaves_the_item_itself_out():
    """Were an item its own neighbour, all would be right; here every nearest other item has the other label."""
    embeddings = [[1.0, 0.0], [1.0, 0.01], [0.0, 1.0], [0.01, 1.0]]

    assert outcomes.nearest_neighbour(embeddings, [0, 1, 0, 1]).tolist() == [0.0] * 4
    assert outcomes.nearest_neighbour(embeddings, [0, 0, 1, 1]).tolist() == [1.0] * 4


def test_nearest_neighbour_agrees_with_a_plain_loop(monkeypatch):
    """Independent implementation, one pair at a time; steps of 4 cut the 23 queries."""
    rng = np.random.default_rng(1)
    x, labels = rng.standard_normal((23, 3)), rng.integers(0, 3, 23)
    expected = []
    for i, a in enumerate(x):
        angles = {j: a @ b / math.dist(b, (0, 0, 0)) for j, b in enumerate(x) if j != i}
        expected.append(float(labels[max(angles, key=angles.get)] == labels[i]))
    monkeypatch.setattr(outcomes, "STEP", 4)

    assert outcomes.nearest_neighbour(x, labels).tolist() == expected


def test_retrieval_goes_by_angle_not_by_length():
    """Document 2 is a thousand times longer but points elsewhere; query 2 is closer to document 1."""
    queries = [[1.0, 0.1], [1.0, 0.2]]
    documents = [[0.01, 0.001], [0.0, 1000.0]]

    assert outcomes.retrieval(queries, documents).tolist() == [1.0, 0.0]


def test_a_collapsed_model_retrieves_one_of_n():
    """All embeddings equal: every query ties on all documents and gets the first."""
    assert outcomes.retrieval(np.ones((8, 4)), np.ones((8, 4))).sum() == 1.0


def test_errors_name_shapes_types_and_ranges():
    """Each message says what was got."""
    with pytest.raises(ValueError, match=r"2 axes and targets all but the last: got \(2, 3\) and \(3,\)"):
        outcomes.top1(np.zeros((2, 3)), [0, 1, 2])
    with pytest.raises(ValueError, match="integers: got float64"):
        outcomes.top1(np.zeros((2, 3)), [0.0, 1.0])
    with pytest.raises(ValueError, match=r"tokens must be in 0..3: got 0..4"):
        outcomes.nats_per_token(np.zeros((1, 2, 4)), [[0, 4]])
    with pytest.raises(ValueError, match="at least 2 items: got 1"):
        outcomes.nearest_neighbour([[1.0]], [0])
    with pytest.raises(ValueError, match=r"got \(2, 3\) and \(3, 3\)"):
        outcomes.retrieval(np.ones((2, 3)), np.ones((3, 3)))
    with pytest.raises(ValueError, match="finite"):
        outcomes.top1([[np.nan, 0.0]], [0])

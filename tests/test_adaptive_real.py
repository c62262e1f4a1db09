"""Artifacts, calibration and the command, for real: on a toy toolchain and on ONNX Runtime."""

import json

import numpy as np
import pytest

from quantkit import cli
from quantkit.adaptive import build, command, judge
from quantkit.adaptive.cascade import Requirement
from quantkit.adaptive.feedback import Audit
from quantkit.catalog import DATASETS, TARGETS
from quantkit.contracts import Split
from quantkit.errors import InvalidSetting, Unsupported
from quantkit.pipeline.settings import Settings
from quantkit.records import Case

SETTINGS = Settings.of("fast", calibration=64)


def cases(model, *methods, backend="onnxruntime"):
    return tuple(Case(model, method, backend, "cpu") for method in methods)


def test_groups_hold_all_items_in_order_but_an_incomplete_last_one():
    split = Split((np.arange(20).reshape(10, 2),), np.arange(10), tuple("abcdefghij"))

    found = build.grouped(split, 4)

    assert len(found) == 2 and found.ids == ("a", "e")
    assert np.concatenate([found.item(i)[0] for i in range(2)]).tolist() == split.inputs[0][:8].tolist()


def test_what_cannot_be_batched_says_why(home):
    dynamic, stepwise = cases("fmnist_lstm", "int8_dynamic")[0], Case("pydoc_gpt_cached", "fp32", "mlx", "cpu")

    assert "one request at a time" in build.unbatched(stepwise)
    assert build.unbatched(cases("fmnist_cnn", "int8_static")[0]) is None
    with pytest.raises(Unsupported, match="depend on their neighbours"):
        build.artifact(dynamic, SETTINGS, print, size=4)


@pytest.mark.parametrize(
    ("model", "backend", "reason"),
    [("pydoc_gpt_cached", "mlx", "keeps a state"), ("minilm", "onnxruntime", "no class scores")],
)
def test_models_without_a_session_say_why(home, model, backend, reason):
    with pytest.raises(Unsupported, match=reason), build.opened([Case(model, "fp32", backend, "cpu")], SETTINGS, print):
        pass


def test_precisions_of_two_models_are_refused():
    with (
        pytest.raises(InvalidSetting, match="one model"),
        build.opened(cases("fmnist_cnn", "fp32") + cases("fmnist_vit", "fp32"), SETTINGS, print),
    ):
        pass


def test_the_ratio_of_means_covers_the_truth():
    """Two arms of 2 and 1 ms on average with exponential noise: 95 % of intervals hold 2; 100 are drawn."""
    rng = np.random.default_rng(0)
    inside = 0
    for seed in range(100):
        slow, fast = rng.exponential(2e-3, 2_000), rng.exponential(1e-3, 2_000)
        found = judge.ratio_of_means(slow, fast, seed=seed)
        inside += found.low <= 2.0 <= found.high

    assert inside >= 87  # binomial, 100 at 93 %: fewer have a chance of 1 %


@pytest.mark.slow
def test_a_session_of_a_toy_toolchain_from_build_to_answer(plugins, home):
    """The toy quantizer's int8 is as good as fp32, so that it is trusted; answers are those of its artifacts."""
    items = DATASETS.get("tiny_points").evaluation()
    wanted = build.Wanted(
        cases("tiny_plane", "int8_weight_only", "fp32", backend="grid"), Requirement(0.02),
        false_alarms=0.05, audit=Audit(share=0.1),
    )  # fmt: skip
    validation, held = command.halves(items, seed=0)
    with build.opened(wanted.cases, SETTINGS, lambda line: None) as precisions:
        made, thresholds = build.calibrated(wanted, precisions, validation)
        said, costs = build.answers(precisions, held, TARGETS.get("cpu"))
        answered = [made.answer(held.item(i)) for i in range(len(held))]

    names = [p.name for p in precisions]
    assert thresholds.certified and min(costs) > 0
    for i, one in enumerate(answered):
        source = -1 if one.audited else names.index(one.precision)
        assert one.output.tolist() == said[source, i : i + 1].tolist()
    assert set(validation.ids).isdisjoint(held.ids) and len(validation) + len(held) == 2_000


@pytest.mark.slow
def test_the_cascade_of_a_real_network_with_batches(home, monkeypatch):
    """fmnist_cnn, fp32 and int8 static by ONNX Runtime: kept on held-out images, batches answer as single ones do."""
    items = DATASETS.get("fashion_mnist").evaluation(1_600)
    wanted = build.Wanted(cases("fmnist_cnn", "int8_static", "fp32"), Requirement(0.02))
    validation, held = command.halves(items, seed=0)
    with build.opened(wanted.cases, SETTINGS, lambda line: None, sizes=(1, 8)) as precisions:
        made, thresholds = build.calibrated(wanted, precisions, validation)
        one_by_one = [made.answer(held.item(i)) for i in range(80)]
        futures = [made.submit(held.item(i)) for i in range(80)]
        served = [made.serve() for _ in range(10)]
        noise = made.answer((np.random.default_rng(0).random((1, 1, 28, 28), np.float32),))
        found = command.judged(wanted, made, precisions, held, seed=0)

    assert thresholds.certified and thresholds.values[0] < 1 and found["kept"]
    assert served == [8] * 10
    for alone, future in zip(one_by_one, futures):
        together = future.result()
        assert together.precision == alone.precision
        # int8 ranges are calibrated, the same for both sizes; sums in another order may move a code by one.
        assert np.abs(together.output - alone.output).max() < 0.5
    agree = [int(f.result().output.argmax()) == int(a.output.argmax()) for f, a in zip(futures, one_by_one)]
    assert np.mean(agree) >= 0.97
    assert (noise.precision, noise.reason) == ("fp32", "out of calibration")
    assert made.counters.read()["answers"]["int8_static"] > 0.5 * made.counters.read()["requests"]


@pytest.mark.slow
def test_the_command_says_what_came_out(plugins, home, capsys):
    arguments = ["adapt", "tiny_plane", "--backend", "grid", "--methods", "int8_weight_only", "--loss", "0.02",
                 "--false-alarms", "0.05"]  # fmt: skip

    status = cli.main([*arguments, "--format", "json"])
    found = json.loads(capsys.readouterr().out)

    assert status == 0 and found["kept"] and found["items"] == 1_000
    assert found["counters"]["requests"] >= 1_000
    assert cli.main(arguments) == 0
    assert "kept on the held-out items" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--methods", "fp32"], "cheaper than fp32"),
        (["--methods", "int8_statik"], "Did you mean 'int8_static'"),
        (["--methods", "int8_static", "--loss", "0"], "loss must lie between 0 and 1"),
        (["--methods", "int8_static", "--confidence", "entropy"], "no confidence named 'entropy'"),
        (["--methods", "int4_weight_only", "--items", "300"], "the convolutions would stay float"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_a_mistake_is_said_in_one_line(home, capsys, arguments, said):
    assert cli.main(["adapt", "fmnist_cnn", *arguments]) == 2

    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("quantkit: ") and said in error

"""The validation across formats: rows, verdicts, the cross-check of toolchains, folded names, the written page."""

import itertools
import math
import re
import subprocess
import sys

import numpy as np
import pytest

from quantkit import cli
from quantkit.conclude.crosscheck import BIT_DB, crosscheck, errors_in_common, independent_db, mutual_db
from quantkit.conclude.folding import fold
from quantkit.conclude.formats import document, rows_of, verdicts
from quantkit.conclude.formats_notes import missing, refused_always, told
from quantkit.errors import NothingMeasured, UnknownName
from quantkit.pipeline.store import Store
from quantkit.records import Case, Measurement, Result
from quantkit.units import Unit

LOGITS = np.random.default_rng(0).standard_normal(256)


def made(method, backend, target="cpu", *, right=1_900, of=2_000, sqnr=40.0, sample=LOGITS, coverage=1.0, **context):
    """A result whose first `right` items are right; `context` replaces facts of its context."""
    outcomes = tuple(np.repeat([1.0, 0.0], [right, of - right]).tolist())
    facts = {
        "profile": "full", "baseline": method == "fp32", "items": of, "fidelity_items": of, "scheme": method,
        "quality": {"name": "top1_accuracy", "outcome": "binary", "better": "higher", "margin": 0.01},
        "model": {"domain": "vision", "family": "cnn", "licence": "MIT", "provenance": "made up", "sha256": ["1"]},
        "data": {"name": "items", "licence": "MIT", "provenance": "made up", "sha256": {"d": "1"}},
        "left_in_float": [], "notes": [], "executor": f"{backend} 1.0", "answers": f"{backend} {method}",
    } | context  # fmt: skip
    measured = {
        "quality": ("share", outcomes), "sqnr_db": ("dB", (sqnr,)), "coverage": ("share", (coverage,)),
        "bits_per_weight": ("bit", (8.0,)),
    }  # fmt: skip
    units = {"share": Unit.SHARE, "dB": Unit.DECIBEL, "bit": Unit.BIT}
    measurements = {name: Measurement(name, units[unit], "higher", values) for name, (unit, values) in measured.items()}
    if math.isinf(sqnr):
        same = Measurement.unavailable("sqnr_db", Unit.DECIBEL, "higher", "outputs are equal to the original's")
        measurements["sqnr_db"] = same
    machine = {"system": "Linux", "processor": "P", "features": [], "cores": 2, "memory_gib": 8, "python": "3.11"}
    return Result(
        Case("m", method, backend, target), "ok", created="2026-01-02T03:04:05+00:00", measurements=measurements,
        outcomes=outcomes, sample=tuple(np.asarray(sample).tolist()), context=facts,
        fingerprint=machine | {"versions": {"torch": "2"}},
    )  # fmt: skip


def ended(status, reason, method="nf4", backend="b", target="cpu"):
    return Result(Case("m", method, backend, target), status, reason)


def checked(*results):
    return crosscheck(rows_of(results))


def text(*results, markdown=False):
    return document(results, command="quantkit formats", markdown=markdown)


# Names


@pytest.mark.parametrize(
    ("names", "folded"),
    [
        (["head"], ["head"]),
        (["a.0", "a.1", "a.2", "a.5"], ["a.0-2,5 (4)"]),
        (["a.0.q", "head", "a.1.q", "a.1.k"], ["a.0-1.q (2)", "head", "a.1.k"]),
        (["a.0.b.0", "a.0.b.1", "a.1.b.0", "a.1.b.1"], ["a.0-1.b.0-1 (4)"]),
        (["conv1", "conv01", "conv2"], ["conv1-2 (2)", "conv01"]),
        (["x", "x"], ["x"]),
        ([], []),
    ],
)
def test_names_fold_by_hand(names, folded):
    assert fold(names) == folded


def unfolded(name):
    """Every name that a folded one stands for: its ranges written out, in all combinations."""
    plain = re.sub(r" \(\d+\)$", "", name)
    if plain == name:
        return [name]
    pieces = re.split(r"(\d+(?:[-,]\d+)*)", plain)
    choices = []
    for place, piece in enumerate(pieces):
        ends = [tuple(map(int, run.split("-"))) for run in piece.split(",")] if place % 2 else []
        choices.append([str(n) for run in ends for n in range(run[0], run[-1] + 1)] if place % 2 else [piece])
    return ["".join(parts) for parts in itertools.product(*choices)]


@pytest.mark.parametrize("seed", range(20))
def test_folding_loses_no_name_and_invents_none(seed):
    rng = np.random.default_rng(seed)
    names = {f"layers.{a}.part.{b}.{'qkv'[c]}" for a, b, c in rng.integers(0, (12, 3, 3), (40, 3))}

    written = [one for name in fold(sorted(names)) for one in unfolded(name)]

    assert sorted(written) == sorted(names)


# Rows


def test_targets_with_equal_answers_share_a_row():
    """One executor answered for three targets; on the Mac's own unit the answers are others."""
    same = [made("half", "coreml", target, answers="reference") for target in ("mps", "ane", "cpu")]

    assert [row.label for row in rows_of(same)] == ["coreml (cpu, ane, mps)"]

    same[0].context["answers"] = "the unit itself"
    assert [row.label for row in rows_of(same)] == ["coreml (cpu, ane)", "coreml (mps)"]


def test_full_precision_comes_first_in_each_format():
    rows = rows_of([made("a", "x"), made("fp32", "x"), made("fp32", "b"), ended("failed", "why")])

    assert [(row.result.case.backend, row.result.case.method) for row in rows] == [
        ("b", "fp32"),
        ("x", "fp32"),
        ("x", "a"),
    ]


# Verdicts


def test_full_precision_in_pytorch_is_the_baseline_of_all_formats():
    rows = rows_of([made("fp32", "pytorch"), made("fp32", "x"), made("int8", "x"), made("int8", "y")])

    pairs = {row.result.case: pair for row, pair in zip(rows, verdicts(rows), strict=True)}

    assert pairs.pop(Case("m", "fp32", "pytorch", "cpu")) is None
    assert {pair.baseline.case.backend for pair in pairs.values()} == {"pytorch"}


def test_without_it_a_format_is_its_own_baseline():
    rows = rows_of([made("fp32", "x"), made("int8", "x"), made("int8", "y")])

    own, judged, alone = verdicts(rows)

    assert own is None
    assert judged.baseline.case.backend == "x"
    assert (alone.verdict, "stored neither" in alone.reason) == ("unavailable", True)


@pytest.mark.parametrize(
    "change", [{"of": 1_000, "right": 950}, {"model": {"sha256": ["2"]}}], ids=["items", "weights"]
)
def test_what_pytorch_cannot_be_paired_with_falls_back_on_its_own_format(change):
    rows = rows_of([made("fp32", "pytorch"), made("fp32", "x", **change), made("int8", "x", **change)])

    _, own, judged = verdicts(rows)

    assert own is None
    assert judged.baseline.case.backend == "x"


@pytest.mark.parametrize(("candidates", "verdict"), [(2, "pass"), (3, "inconclusive")])
def test_verdicts_of_one_model_hold_together(candidates, verdict):
    """400 items, none judged differently: p = 0.99^400 = 0.0180. Holm: 2 · 0.0180 < 0.05 < 3 · 0.0180 = 0.0539."""
    rows = rows_of(
        [made("fp32", "pytorch", of=400, right=400)]
        + [made(f"x{i}", "x", of=400, right=400) for i in range(candidates)]
    )

    assert {pair.verdict for pair in verdicts(rows) if pair} == {verdict}


# Cross-check


def test_independent_noise_adds_up():
    """Powers 10^-2 + 10^-2 = 2·10^-2: 20 - 10·log10(2); 10^-1 + 10^-2 = 0.11; nothing adds nothing."""
    assert independent_db(20, 20) == pytest.approx(20 - 10 * math.log10(2))
    assert independent_db(10, 20) == pytest.approx(-10 * math.log10(0.11))
    assert independent_db(10, math.inf) == pytest.approx(10)
    assert independent_db(math.inf, math.inf) == math.inf


def test_mutual_sqnr_is_of_equal_places_on_equal_items():
    """Signal 3² + 4² = 25, noise 0.5² = 0.25: 100 = 20 dB."""
    first, second = made("a", "x", sample=[3.0, 4.0]), made("a", "y", sample=[3.0, 4.5])

    assert mutual_db(first, second) == pytest.approx(20)
    assert mutual_db(first, made("a", "y", sample=[3.0, 4.5], fidelity_items=10)) is None
    assert mutual_db(first, made("a", "y", sample=[])) is None


ORTHOGONAL = np.tile([1.0, -1.0], 128), np.repeat([1.0, -1.0], 128)


@pytest.mark.parametrize(
    ("first", "second", "words"),
    [
        ((1, 0), (1, 0), "mostly the same roundings"),
        ((1, 0), (0, 1), "independent roundings"),
        ((1, 0), (-1, 0), "errors in opposite directions"),
        ((1, 0), (0.28, 0.96), "partly the same roundings"),
    ],
    ids=["same", "independent", "opposite", "partly"],
)
def test_errors_in_common(first, second, words):
    """Errors of equal power N in two orthogonal patterns: differences have 0, 2N, 4N, (0.72² + 0.96²)N = 1.44N."""
    signal = np.sign(LOGITS) * 10  # 100 per output, noise 1: 20 dB
    samples = [signal + sum(w * e for w, e in zip(weights, ORTHOGONAL, strict=True)) for weights in (first, second)]

    (check,) = checked(*(made("a", b, sqnr=20.0, sample=s) for b, s in zip("xy", samples, strict=True)))

    assert errors_in_common(check.pairs[0]) == words


@pytest.mark.parametrize(
    ("first", "second", "word"),
    [(40, 34.1, "agree"), (40, 33.9, "differ"), (130, 105, "agree"), (130, 99, "differ"), (math.inf, 120, "agree"),
     (math.inf, 50, "differ"), (math.inf, math.inf, "agree")],
)  # fmt: skip
def test_toolchains_differ_by_more_than_a_bit(first, second, word):
    """One bit is 6.02 dB; above 100 dB it is the order of float32 sums."""
    (check,) = checked(made("a", "x", sqnr=first), made("a", "y", sqnr=second))

    assert check.pairs[0].word == word
    assert pytest.approx(6.0206, abs=1e-4) == BIT_DB


def test_the_most_faithful_toolchain_is_the_reference():
    (check,) = checked(made("a", "x", sqnr=30), made("a", "y", sqnr=36), made("a", "z", sqnr=20), made("other", "x"))

    assert check.reference.label == "y"
    assert [(pair.other.label, pair.word) for pair in check.pairs] == [("z", "differ"), ("x", "agree")]


def test_at_the_floor_of_float32_pytorch_is_the_reference():
    (check,) = checked(made("fp32", "a", sqnr=131), made("fp32", "pytorch", sqnr=128), made("fp32", "z", sqnr=60))

    assert check.reference.label == "pytorch"
    assert [(pair.other.label, pair.word) for pair in check.pairs] == [("z", "differ"), ("a", "agree")]


@pytest.mark.parametrize(
    ("right", "of", "word"),
    [
        (1_900, 2_000, "agree"),
        (1_860, 2_000, "differ"),
        (1_885, 2_000, "differ"),
        (1_888, 2_000, "close"),
        (1_898, 2_000, "agree"),
    ],
    ids=["equal", "40 lost", "15 lost", "12 lost", "2 lost"],
)
def test_toolchains_differ_in_quality(right, of, word):
    """k lost and none gained: two-sided p = 2 · 2^-k, so that 12 are surely not zero and 2 may well be.

    A true loss of one point would lose 20 (Poisson): 12 or fewer with p = 0.039, 15 or fewer with p = 0.157 only.
    """
    (check,) = checked(made("a", "x"), made("a", "y", sqnr=39.0, right=right, of=of))

    (pair,) = check.pairs
    assert pair.word == word
    assert pair.quality.drop_low <= (1_900 - right) / of <= pair.quality.drop_high
    assert pair.p_equal == pytest.approx(min(1.0, 2 * 0.5 ** (1_900 - right)))


def test_few_items_prove_no_agreement():
    """50 equal items: a difference of one point would show in 1 - 0.99^50 = 39 % of all samples only."""
    (check,) = checked(made("a", "x", of=50, right=45), made("a", "y", of=50, right=45))

    assert check.pairs[0].word == "not proved"
    assert "Not proved to agree" in text(made("a", "x", of=50, right=45), made("a", "y", of=50, right=45))


@pytest.mark.parametrize(("others", "word"), [(1, "close"), (4, "agree")])
def test_words_of_one_model_hold_together(others, word):
    """7 lost, none gained: p = 2 · 2^-7 = 0.0156, and four times that is 0.0625: no longer refused."""
    results = [made("a", "x", of=4_000), *(made("a", f"y{i}", sqnr=39.0, of=4_000, right=1_893) for i in range(others))]

    (check,) = checked(*results)

    assert {pair.word for pair in check.pairs} == {word}


def test_random_weights_agree_by_fidelity_alone():
    none = {"name": "fidelity", "outcome": "none", "better": "higher", "margin": 0.01}
    results = [made("a", "x", quality=none), made("a", "y", quality=none, sqnr=35.0), made("fp32", "x", quality=none)]

    (check,) = checked(*results)

    assert check.pairs[0].word == "agree"
    assert "judged by fidelity only" in text(*results)


def test_a_disagreement_is_named_bounded_and_given_its_known_facts():
    """64 of 2,000 lost: 3.20 points; the other toolchain left three layers in float and says what it did."""
    left = [f"layers.{i}.out: not a multiple of 32" for i in range(3)]
    results = [
        made("int4", "x", notes=["codes 0..15"]),
        made("int4", "y", sqnr=20.0, right=1_836, left_in_float=left, coverage=0.5, scheme="w4", notes=["codes 1..15"]),
    ]

    (line,) = [line for line in text(*results).splitlines() if line.startswith("- int4: y and x")]

    for part in (
        "20.0 and 40.0 dB to the original, 20.0 dB apart",
        "quality loss +3.20 in [+",
        "3.20 % judged differently",
        "int4 in x, w4 in y",
        "weights kept as codes: 100 % in x, 50 % in y",
        "only y leaves in float layers.0-2.out (3)",
        "of x alone note 1",
        "of y alone note 2",
    ):
        assert part in line


# The page


def test_layers_in_float_are_named_once_for_all_cases_that_share_them():
    left = ["embed: no form of Gather", "blocks.0.norm: too small", "blocks.1.norm: too small"]
    said = text(*(made(method, "x", left_in_float=left, coverage=0.9) for method in ("a", "b")), made("fp32", "x"))

    assert "- x a, b: embed: no form of Gather; blocks.0-1.norm (2): too small\n" in said


def test_weights_left_in_float_without_a_word_still_show():
    said = text(made("a", "x", coverage=0.75), made("half", "x", coverage=0.0, scheme="fp16"))

    assert "- x a: the toolchain gives no reason, but 25.0 % of the weights are floats\n" in said
    assert "x half: the toolchain" not in said


def test_cases_without_a_result_are_grouped_by_reason():
    failures = [ended("unsupported", "no LSTM", method, "b", target) for method in "pq" for target in ("cpu", "ane")]
    said = text(made("fp32", "x"), *failures, ended("failed", "killed", "p", "c"))

    assert "- b (cpu, ane) p, q: unsupported: no LSTM\n" in said
    assert "- c p: failed: killed\n" in said
    assert said.count("no LSTM") == 1
    assert "5 failed" not in said
    assert "6 stored results (1 failed, 1 ok, 4 unsupported), measured 2026-01-02, profile full" in said


def test_a_pair_that_was_never_stored_is_a_named_hole():
    other = made("fp32", "y")
    said = text(made("int8", "x"), made("fp32", "x"), other, Result(Case("n", "int8", "x", "cpu"), "failed", "why"))

    assert "- y: int8\n" in said  # no model has it
    assert "- x fp32; y fp32: not stored" in said  # n lacks what m has


def test_executors_that_the_name_does_not_tell_are_marked():
    said = text(made("fp32", "coreml", executor="mil-reference"), made("fp32", "coreml2", executor="CoreML2 unit"))

    assert "coreml* " in said
    assert "* run by mil-reference" in said
    assert "coreml2*" not in said


def test_machines_and_versions_are_listed():
    second = made("a", "x")
    second.fingerprint.update(processor="Q")
    third = made("b", "x")
    third.fingerprint["versions"] = {"torch": "3"}
    said = text(made("fp32", "x"), second, third)

    assert "- 2 results: Linux, P, 2 cores, 8 GiB, Python 3.11; torch 2 or 3\n" in said
    assert "- 1 results: Linux, Q, 2 cores" in said


def test_equal_outputs_say_so():
    assert re.search(r"baseline +equal ", text(made("fp32", "pytorch", sqnr=math.inf)))


def test_markdown_keeps_what_it_would_take_for_its_own():
    said = text(made("fp32", "x", notes=["<op> a|b *c*"]), markdown=True)

    assert "\\<op> a\\|b \\*c\\*" in said
    assert "\n## m\n" in said
    assert "\n| x " in said


def test_older_results_without_executor_and_sample_still_show():
    old = made("fp32", "x", sample=[])
    del old.context["executor"]

    assert "fp32" in text(old)


def test_no_results_and_unknown_models_are_refused():
    with pytest.raises(NothingMeasured, match="measure first"):
        text()
    with pytest.raises(UnknownName, match=r"no stored result of a model 'mm'\. Did you mean 'm'"):
        document([made("fp32", "x")], ["mm"], command="", markdown=False)


# The command


def test_the_command_writes_the_page_whole(home, capsys):
    Store(home / "results.db").add(made("fp32", "pytorch"))
    page = home / "docs" / "formats.md"

    assert cli.main(["formats", "m", "--write", str(page)]) == 0
    assert capsys.readouterr().out == f"written: {page}\n"
    written = page.read_text()
    assert written.startswith("# ")
    assert f"Written by 'quantkit formats m --write {page}' from 1 stored results" in written
    assert [file.name for file in page.parent.iterdir()] == ["formats.md"]

    assert cli.main(["formats", "--format", "markdown"]) == 0
    assert capsys.readouterr().out.partition("Machines")[2] == written.partition("Machines")[2]


def test_the_command_without_results_is_3_and_with_an_unknown_model_2(home, capsys):
    assert cli.main(["formats"]) == 3
    assert "measure first" in capsys.readouterr().err

    Store(home / "results.db").add(made("fp32", "pytorch"))
    assert cli.main(["formats", "nothing", "--write", str(home / "page.md")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not (home / "page.md").exists()


def test_the_command_has_help_with_an_example(capsys):
    with pytest.raises(SystemExit):
        cli.main(["formats", "--help"])

    assert "quantkit formats fmnist_cnn" in capsys.readouterr().out.partition("examples:")[2]


def test_the_command_imports_no_toolchain(home):
    Store(home / "results.db").add(made("fp32", "pytorch"))
    code = "import sys; from quantkit import cli; cli.main(['formats'])\n"
    code += "sys.exit(bool({'torch', 'onnxruntime', 'transformers'} & set(sys.modules)))"

    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


# Refusals


def refused(model, method, reason, backend="b"):
    return Result(Case(model, method, backend, "cpu"), "unsupported", reason)


def test_what_every_model_is_refused_is_told_once_for_all_schemes():
    """nf4 and mxfp4 are refused for both models by the same words; fp4 for one of two only."""
    results = [refused(model, name, f"it has integers, not {name}") for model in "mn" for name in ("nf4", "mxfp4")]
    results += [refused("m", "fp4", "no Linear"), Result(Case("n", "fp4", "b", "cpu"), "failed", "killed")]

    always = refused_always(results)

    assert told(always) == ["b mxfp4, nf4: unsupported: it has integers, not this scheme"]
    assert missing(results[:2] + results[4:5], set(), always) == ["b fp4: unsupported: no Linear"]


def test_one_models_refusals_are_told_with_it():
    assert refused_always([refused("m", "nf4", "no")]) == set()

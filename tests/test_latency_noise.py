"""What this machine can tell apart: the noise floor, the rule from it, and the self-test that measures both."""

import json
from dataclasses import replace

import pytest

from quantkit import compare_latency
from quantkit.errors import CorruptFile, InvalidSetting, NothingMeasured, StorageError
from quantkit.latency import Rule, floor, noise
from quantkit.pipeline.noise import LEAST_FLOOR, Trial, floor_of, keep, trials
from quantkit.pipeline.noise import file as noise_file
from tests.latency_stand import QUICK, Ticking


def trial(speedup, slowed=0.0, verdict="same"):
    return Trial(slowed, verdict, speedup, 20, 0, 9.0, 0.01, 2, "2026-11-22")


def test_the_floor_is_what_one_equal_comparison_in_a_hundred_exceeds():
    """Effects of ±1 %: their median is 0.67449 sigma of a normal law, the floor 2.5758 sigma."""
    found = [trial(1.01), trial(0.99)] * 10

    assert floor_of(found) == pytest.approx(0.01 / 0.67449 * 2.57583, rel=1e-4)
    assert floor_of(found[:19]) is None, "too few"
    assert floor_of([trial(1.0)] * 20) == LEAST_FLOOR
    assert floor_of([trial(0.95, slowed=0.05)] * 20) is None, "slowed sides say nothing of it"


def test_the_rule_takes_the_floor_of_this_machine(tmp_path):
    path = tmp_path / "noise.jsonl"
    assert floor.rule(path=path) == Rule()

    for _ in range(10):
        keep(trial(1.005), path)
        keep(trial(0.995), path)

    assert floor.rule(path=path).floor == pytest.approx(0.01909, rel=1e-3)
    assert floor.rule(path=path).tolerance == pytest.approx(2 * 0.01909, rel=1e-3)


def test_rates_have_exact_intervals():
    """0 of 200: the upper end is 1 - 0.025^(1/200)."""
    found = [trial(1.0)] * 200 + [trial(0.95, 0.05, "slower")] * 3 + [trial(0.97, 0.05, "inconclusive")]

    assert noise.false_alarms(found).interval == pytest.approx((0.0, 1 - 0.025 ** (1 / 200)))
    assert (noise.detected(found, 0.05).count, noise.detected(found, 0.05).of) == (3, 4)


def test_comparisons_are_kept_and_a_cut_line_is_named(tmp_path):
    path = tmp_path / "noise.jsonl"
    keep(trial(float("nan")), path)
    assert trials(path)[0].speedup != trials(path)[0].speedup

    path.write_text(path.read_text() + '{"slowed": 0.0, "verd')

    with pytest.raises(CorruptFile, match="cannot be read"):
        trials(path)


def test_a_folder_that_cannot_be_written_is_said(tmp_path):
    (tmp_path / "file").write_text("")

    with pytest.raises(StorageError, match="cannot write"):
        keep(trial(1.0), tmp_path / "file" / "noise.jsonl")


def test_the_self_test_goes_on_where_it_was_cut(tmp_path, monkeypatch):
    path, asked = tmp_path / "noise.jsonl", []
    for _ in range(3):
        keep(trial(1.0), path)
    monkeypatch.setattr(noise.subject, "layers_for", lambda threads: 4)
    monkeypatch.setattr(noise, "_one", lambda share, *_, **__: asked.append(share) or trial(0.95, share, "slower"))

    found = noise.measure([0.0, 0.05], 4, threads=2, limit_s=60, say=lambda line: None, path=path)

    assert sorted(asked) == [0.0, 0.05, 0.05, 0.05, 0.05] and len(found) == len(trials(path)) == 8
    with pytest.raises(InvalidSetting, match="at least 1 comparison"):
        noise.measure([0.0], 0, threads=2, limit_s=60, say=print, path=path)


def test_the_report_is_a_table():
    lines = noise.report([trial(1.0)] * 20 + [trial(0.95, 0.05, "slower")] * 20)

    assert "| equal: false alarms | 20 | 0 (0.0%) | 0.0% to 16.8% |" in lines[2]
    assert "| slowed by 5%: found | 20 | 20 (100.0%) | 83.2% to 100.0% |" in lines[3]
    assert lines[-1] == "noise floor: 0.50%"


def test_the_network_of_the_self_test_runs():
    pytest.importorskip("onnxruntime")
    from quantkit.latency import subject

    (y,) = subject.opened(2, 1)()

    assert y.shape == (64, 512) and (y >= 0).all() and y.any()


def test_a_comparison_takes_the_measured_floor_when_no_rule_is_given(home):
    for _ in range(20):
        keep(trial(1.02))

    found = compare_latency(Ticking(0.001), Ticking(0.00105), load=True, pace=QUICK, limit_s=30)

    assert found.rule.floor == pytest.approx(0.02 / 0.67449 * 2.57583, rel=1e-3) and found.verdict == "same"


def test_a_corrupt_file_of_comparisons_is_one_line_of_every_comparison(home):
    keep(trial(1.0))
    noise_file().write_bytes(b"\xff\xfe\n")

    with pytest.raises(CorruptFile, match=r"jsonl cannot be read .*remove it and run 'quantkit selftest noise' again"):
        compare_latency(Ticking(0.001), Ticking(0.001), load=True, pace=QUICK)


@pytest.mark.parametrize(
    "line", [b"\xff", b"1.3", b"[]", b'{"slowed": 0.0}', "speedup null", "speedup text", "slowed nan"], ids=str
)
def test_every_wrong_line_names_the_file(tmp_path, line):
    path = tmp_path / "noise.jsonl"
    if isinstance(line, str):
        name, _, value = line.partition(" ")
        values = {"null": None, "text": "1.0", "nan": float("nan")}
        line = json.dumps(vars_of(trial(1.0)) | {name: values[value]}).encode()
    path.write_bytes(line)

    with pytest.raises(CorruptFile, match=r"noise\.jsonl cannot be read"):
        trials(path)


def vars_of(one):
    return {name: getattr(one, name) for name in Trial.__dataclass_fields__}


def test_lines_of_before_still_read(tmp_path):
    """Files from before the limit was noted have none: it was the default."""
    old = vars_of(trial(1.0))
    del old["limit_s"]
    (tmp_path / "noise.jsonl").write_text(json.dumps(old) + "\n")

    assert trials(tmp_path / "noise.jsonl") == [trial(1.0)]


@pytest.mark.parametrize(
    "changed",
    [
        {"verdict": "inconclusive"},
        {"limit_s": 5.0},
        {"blocks": 9, "tainted": 2},
        {"speedup": float("nan"), "verdict": "inconclusive", "elapsed_s": 61.0},
    ],
    ids=["cut", "short limit", "7 blocks count", "no estimate"],
)
def test_what_was_cut_short_is_no_part_of_the_floor(changed):
    poor = replace(trial(1.5), **changed)

    assert floor_of([trial(1.0)] * 20 + [poor] * 30) == LEAST_FLOOR
    assert floor_of([poor] * 30) is None


def test_undecided_after_all_its_time_counts_and_the_noisiest_number_of_threads_decides():
    undecided = replace(trial(1.02), verdict="inconclusive", elapsed_s=60.2, threads=1)

    assert floor_of([trial(1.0)] * 200 + [undecided] * 20) == pytest.approx(0.02 / 0.67449 * 2.57583, rel=1e-3)


def test_a_machine_that_is_too_noisy_is_refused_and_the_tolerance_has_an_end(tmp_path):
    """A floor of 30 % would call half the speed of a side the same."""
    path = tmp_path / "noise.jsonl"
    for _ in range(20):
        keep(trial(1.08), path)

    with pytest.raises(NothingMeasured, match=r"too noisy: equal sides differ by up to 30\.6%.*remove .*noise\.jsonl"):
        floor.rule(path=path)
    assert floor.rule(floor=0.02, path=path).tolerance == pytest.approx(0.04), "a given floor needs no file"
    assert floor.rule(floor=0.09, path=path).tolerance == pytest.approx(0.1)
    assert noise._rule(path) == Rule(), "the self-test itself goes on"


@pytest.mark.parametrize(("alpha", "given"), [(1e-300, None), (0.01, 0.6), (0.01, float("nan")), (2.0, 0.01)])
def test_a_rule_outside_its_range_says_what_was_given(alpha, given, tmp_path):
    with pytest.raises(InvalidSetting, match=str(given if alpha == 0.01 else alpha)):
        floor.rule(alpha, given, tmp_path / "none")


def test_comparisons_without_an_estimate_are_no_rates_and_are_measured_again(tmp_path, monkeypatch):
    path, asked = tmp_path / "noise.jsonl", []
    nothing = replace(trial(float("nan")), verdict="inconclusive", tainted=20)
    for one in [nothing] * 4 + [trial(1.0)]:
        keep(one, path)
    monkeypatch.setattr(noise.subject, "layers_for", lambda threads: 4)
    monkeypatch.setattr(noise, "_one", lambda share, *_, **__: asked.append(share) or trial(1.0))

    found = noise.measure([0.0], 4, threads=2, limit_s=60, say=lambda line: None, path=path)

    assert asked == [0.0] * 3 and (noise.false_alarms(found).count, noise.false_alarms(found).of) == (0, 4)
    lines = noise.report(found)
    assert "| equal: false alarms | 4 | 0 (0.0%) |" in lines[2]
    assert "4 of 8 comparisons gave no estimate and do not count" in "\n".join(lines)


def test_the_self_test_on_a_busy_machine_measures_nothing_and_says_so(home, monkeypatch, capsys):
    from quantkit.cli import main

    nothing = replace(trial(float("nan")), verdict="inconclusive", tainted=20)
    monkeypatch.setattr(noise.subject, "layers_for", lambda threads: 4)
    monkeypatch.setattr(noise, "_one", lambda share, *_, **__: replace(nothing, slowed=share))

    assert main(["selftest", "noise", "--comparisons", "2"]) == 3
    said = capsys.readouterr()

    assert "| equal: false alarms | 0 | - |" in said.out and "0.0%" not in said.out
    assert "no estimate, does not count" in said.err and "run the same command again" in said.err
    assert main(["selftest", "noise", "--comparisons", "2"]) == 3, "it tries again"
    assert len(trials()) == 2 * 2 * 3

"""Stored results over commits: which are lined up, which steps are found, and what is said of them.

All histories here are simulated (tests/history_stand.py).
"""

import json
import math
import shutil
from dataclasses import replace

import numpy as np
import pytest

from quantkit import cli
from quantkit.environment import revision
from quantkit.errors import InvalidSetting, NothingMeasured
from quantkit.history.changes import changes, suspects
from quantkit.history.figures import KINDS, value
from quantkit.history.levels import proposed
from quantkit.history.report import report
from quantkit.history.series import history, since
from quantkit.pipeline.store import Store
from quantkit.records import Case, Result
from tests.history_stand import CASE, commit, git, nights, repository, run

pytest.importorskip("asv", reason="needs asv: pip install 'quantkit[history]'")


def found(results, figure, **how):
    """The steps of one figure."""
    return changes(history(results, kinds=[figure]).series, **how)


# --- figures


def test_error_is_the_share_of_wrong_items():
    """20 of 2,000 wrong: 1 %; Wilson's interval at 99 % by his formula, z = 2.5758."""
    result = run(0, wrong=range(20))

    share, low, high = value(KINDS["error"], result)

    z2, n, p = 2.5758293035489004**2, 2_000, 0.01
    middle, reach = (p + z2 / 2 / n) / (1 + z2 / n), math.sqrt(z2 * (p * (1 - p) / n + z2 / 4 / n**2)) / (1 + z2 / n)
    assert (share, low, high) == pytest.approx((0.01, middle - reach, middle + reach))


def test_every_figure_is_better_when_less():
    """A worse result in all respects has larger figures, all of them: asv knows no other direction."""
    good = run(0)
    bad = run(0, latency_s=0.004, size=200_000, wrong=range(50), sqnr_db=10.0, memory=60e6)

    for kind in KINDS.values():
        pair = value(kind, good), value(kind, bad)
        assert pair == (None, None) if kind.name == "loss" else pair[0][0] < pair[1][0], kind.name


def test_a_relative_error_is_ten_to_the_minus_sqnr_over_twenty():
    assert value(KINDS["relative_error"], run(0, sqnr_db=40.0))[0] == pytest.approx(0.01)


def test_a_loss_is_its_mean():
    quality = {"name": "nats", "outcome": "score", "better": "lower", "margin": 0.01}
    result = run(0, outcomes=(1.0, 2.0, 3.0))
    result = replace(result, context=result.context | {"quality": quality})

    assert value(KINDS["loss"], result)[0] == 2.0
    assert value(KINDS["error"], result) is None


def test_a_clock_that_stood_still_gives_no_figure():
    assert value(KINDS["latency"], run(0, latencies_s=((0.0,), (0.0,)))) is None


def test_a_disturbed_machine_leaves_size_and_quality():
    """A tainted result: its timings are worthless, the rest is as good as ever."""
    result = run(0, status="tainted", reason="other processes", wrong=range(20))

    assert value(KINDS["latency"], result) is None
    assert value(KINDS["time_ratio"], result) is None
    assert value(KINDS["error"], result)[0] == 0.01
    table = history([result, run(1)])
    assert {s.kind.name: len(s.runs) for s in table.series}["latency"] == 1
    assert table.left_out == ("1 measured while the machine was disturbed: their timings only",)


def test_what_failed_has_no_figure():
    assert value(KINDS["artifact_size"], run(0, status="failed")) is None


# --- series


def test_commits_stand_in_their_own_order_however_late_they_were_measured():
    results = [run(2), run(0, created="2027-01-01T00:00:00+00:00"), run(1)]

    series = history(results, kinds=["latency"]).series[0]

    assert [r.commit for r in series.runs] == [commit(0), commit(1), commit(2)]


def test_results_of_other_machines_and_data_are_left_out_and_named():
    results = [run(0, machine="m0"), run(1, data="d0"), run(2, items=1_000), run(3), run(4)]

    table = history(results, kinds=["latency"])

    assert [r.commit for r in table.series[0].runs] == [commit(3), commit(4)]
    said = " | ".join(table.left_out)
    assert "1 of another machine or other libraries: m0 (a processor, 2 cores, Linux x86_64)" in said
    assert "1 of another version of the data" in said
    assert "1 with other items than the newest of their case" in said


def test_results_without_a_commit_or_of_changed_files_are_left_out():
    nowhere = run(0)
    nowhere = replace(nowhere, fingerprint=nowhere.fingerprint | {"revision": {}})
    results = [nowhere, run(1, dirty=True), run(2)]

    assert len(history(results).series[0].runs) == 1
    assert len(history(results, dirty=True).series[0].runs) == 2
    assert any("outside of a git checkout" in reason for reason in history(results).left_out)


def test_results_that_older_versions_stored_have_no_commit():
    """Their fingerprint has no revision at all."""
    old = run(0)
    old = replace(old, fingerprint={k: v for k, v in old.fingerprint.items() if k != "revision"})

    with pytest.raises(NothingMeasured, match="1 without a commit"):
        history([old])


def test_a_branch_leaves_other_commits_out_and_orders_the_rest():
    order = [commit(2), commit(0)]

    table = history([run(0), run(1), run(2)], order=order, kinds=["latency"])

    assert [r.commit for r in table.series[0].runs] == order
    assert table.left_out == ("1 of commits that are not on this branch",)


def test_another_machine_can_be_asked_for():
    table = history([run(0, machine="aaa"), run(1, machine="bbb")], machine="aa", kinds=["latency"])

    assert table.machine == "aaa"
    with pytest.raises(InvalidSetting, match="fits several: aaa, aab"):
        history([run(0, machine="aaa"), run(1, machine="aab")], machine="aa")


def test_nothing_measured_has_a_reason():
    with pytest.raises(NothingMeasured, match="nothing was measured"):
        history([run(0, status="failed")])
    with pytest.raises(NothingMeasured, match="of another machine"):
        history([run(0)], machine="elsewhere")


# --- steps


@pytest.mark.parametrize(
    ("step", "noise", "count"),
    [(0.03, 0.01, 40), (0.05, 0.01, 20), (0.05, 0.02, 40), (0.10, 0.01, 10), (0.10, 0.02, 16), (0.20, 0.02, 10)],
)
def test_injected_steps_are_found(step, noise, count):
    """The step, its place and its size, by both timings; 3 % in 1 % of noise is the hardest of these."""
    for figure in ("latency", "time_ratio"):
        (change,) = found(nights(count, step=step, noise=noise), figure)

        assert change.regression
        assert abs(change.series.runs.index(change.after) - count // 2) <= (2 if step < 0.1 else 1)
        assert change.size.low < 1 + step < change.size.high
        assert change.size.low > 1


def test_a_step_down_is_no_regression():
    (change,) = found(nights(20, step=-0.1), "latency")

    assert change.direction == "better"
    assert not change.regression


def test_a_regression_that_was_undone_does_not_stand():
    results = [run(n, latency_s=0.0033 if 10 <= n < 20 else 0.003, noise=0.005) for n in range(30)]

    up, down = found(results, "latency")

    assert (up.direction, up.stands, up.regression) == ("worse", False, False)
    assert (down.direction, down.stands) == ("better", True)


def test_silent_when_nothing_changed():
    """One hundred simulated histories of 30 nights without a step, noise of 1 and 2 %: no alert in any."""
    alarms = [
        change
        for seed in range(50)
        for noise in (0.01, 0.02)
        for change in found(nights(30, noise=noise, seed=seed), "latency")
    ]

    assert not alarms


def test_an_outlier_is_neither_a_step_nor_does_it_hide_one():
    results = nights(20, step=0.1)
    results[5] = run(5, latency_s=0.0045)

    assert [c.after.commit for c in found(results, "latency")] == [commit(10)]


def test_a_lone_newest_run_is_suspect_and_no_alert():
    results = [*nights(12), run(12, latency_s=0.0036)]
    table = history(results, kinds=["latency"])

    assert not changes(table.series)
    (suspect,) = suspects(table.series)
    assert suspect.after.commit == commit(12)
    assert not suspects(history(nights(13), kinds=["latency"]).series)


def test_a_size_that_grew_once_is_a_step_at_once():
    (change,) = found([run(0), run(1), run(2, size=101_000)], "artifact_size")

    assert change.size.value == pytest.approx(1.01)
    assert change.after.commit == commit(2)
    assert change.regression


def test_a_size_that_differs_by_a_few_bytes_is_none():
    assert not found([run(0), run(1, size=100_050)], "artifact_size")


def test_quality_is_compared_item_by_item():
    """30 items lost and none won: McNemar's exact test gives 2·(1/2)^30; the drop is 30/2,000 = 1.5 points."""
    (change,) = found([run(0), run(1), run(2, wrong=range(30))], "error")

    assert change.size.value == pytest.approx(0.015)
    assert change.p == pytest.approx(2 * 0.5**30)
    assert 0 < change.size.low < 0.015 < change.size.high
    assert change.regression


def test_quality_that_lost_as_much_as_it_won_is_no_step():
    """Other items wrong, but as many: the same share by another road."""
    assert not found([run(0, wrong=range(20)), run(1, wrong=range(20, 40))], "error")


def test_quality_that_came_back_does_not_stand():
    results = [run(0), run(1, wrong=range(30)), run(2)]

    assert [(c.direction, c.regression) for c in found(results, "error")] == [("worse", False), ("better", False)]


def test_a_step_at_one_commit_is_not_the_codes():
    """The same commit measured again and again, and the machine became slower: said, but no regression."""
    told = {"revision": {"commit": commit(0), "committed": 1, "dirty": False}}
    results = [replace(r, fingerprint=r.fingerprint | told) for r in nights(20, step=0.2)]

    (change,) = found(results, "latency")

    assert not change.regression
    assert "no change of code" in report(history(results, kinds=["latency"]), [change]).notes[0]


def test_error_rates_hold_over_the_whole_table():
    """The same series alone and beside fifty silent ones: Holm multiplies its chance by 51."""
    one = nights(20, step=0.06, noise=0.01)
    cases = [Case(f"model{i}", "fp32", "b", "cpu") for i in range(50)]
    silent = [run(n, case=case) for case in cases for n in range(20)]

    (alone,) = found(one, "latency")
    (among,) = found(one + silent, "latency")

    assert among.p == pytest.approx(51 * alone.p)


def test_proposals_leave_lone_outliers_out():
    values = [1.0] * 6 + [1.5] + [1.0] * 6

    assert proposed(values) == [[*range(6), *range(7, 13)]]


def test_too_few_runs_say_nothing():
    for count in (1, 2, 3):
        assert not found(nights(count, step=0.5), "latency")


# --- words and command line


def stored(home, results):
    store = Store(home / "results.db")
    for result in results:
        store.add(result)


def test_the_command_names_commit_case_figure_size_and_interval(home, capsys):
    stored(home, nights(20, step=0.1))

    status = cli.main(["history", "--figures", "latency"])

    out = capsys.readouterr().out
    (line,) = [line for line in out.splitlines() if line.startswith("worse")]
    assert status == 1
    assert CASE.id in line and "latency" in line and commit(10)[:8] in line
    assert "%" in line and "[" in line and "p = " in line
    assert "1 regressions in 1 series" in out


def test_a_machine_that_became_slower_is_told_from_a_method_that_did(home, capsys):
    """Both arms slower: the ratio stands still, and the line says so. Only the candidate slower: it does not."""
    both = [run(n, latency_s=0.003 * (1 + n // 10), reference_s=0.006 * (1 + n // 10), noise=0.003) for n in range(20)]
    hint = "it is the machine, or what full precision shares"

    for results, expected in ((both, True), (nights(20, step=0.5, noise=0.003), False)):
        table = history(results)
        said = report(table, changes(table.series))
        (slower,) = [line for line in said.alerts if ": latency " in line]
        assert (hint in slower) == expected


def test_exit_statuses(home, capsys):
    """0 nothing, 1 a regression, 3 nothing to compare."""
    assert cli.main(["history"]) == 3
    stored(home, [run(0)])
    assert cli.main(["history"]) == 3
    assert "one commit only" in capsys.readouterr().out
    stored(home, [run(n) for n in range(1, 6)])
    assert cli.main(["history"]) == 0
    stored(home, [run(6, size=200_000)])
    assert cli.main(["history"]) == 1
    assert cli.main(["history", "--figures", "latency"]) == 0
    assert cli.main(["history", "--cases", "no-such-case"]) == 3


def test_accepted_steps_are_not_told_again(home, capsys):
    stored(home, nights(20, step=0.2))

    assert cli.main(["history", "--since", commit(15)[:10]]) == 0
    assert cli.main(["history", "--since", commit(3)[:10]]) == 1
    assert cli.main(["history", "--since", "0000"]) == 2
    assert "--since 0000" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--figures", "speed"], "no figure named 'speed'"),
        (["--alpha", "2"], "--alpha"),
        (["--branch", "nope"], "nope"),
    ],
)
def test_wrong_words_are_said_in_one_line(home, capsys, words, message):
    stored(home, [run(0)])

    assert cli.main(["history", *words]) == 2
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1


def test_a_branch_of_a_real_repository(home, capsys, monkeypatch, tmp_path):
    folder, hashes = repository(tmp_path / "repo", 3)
    monkeypatch.chdir(folder)
    told = [{"commit": h, "committed": 5, "dirty": False} for h in (*hashes, commit(9))]
    results = [run(i) for i in range(4)]
    stored(home, [replace(r, fingerprint=r.fingerprint | {"revision": t}) for r, t in zip(results, told, strict=True)])

    assert cli.main(["history", "--branch", "main", "--figures", "artifact_size"]) == 0
    out = capsys.readouterr().out
    assert f"{hashes[0][:8]}..{hashes[2][:8]}" in out
    assert "1 of commits that are not on this branch" in out


def test_since_needs_a_known_commit():
    with pytest.raises(InvalidSetting, match="--since ffff is not among the 1 measured commits"):
        since(history([run(0)]), "ffff")
    with pytest.raises(InvalidSetting, match="fits several"):
        since(history([run(n) for n in range(40)]), commit(0)[0])


def test_every_stored_result_is_read_in_order(tmp_path):
    store = Store(tmp_path / "r.db")
    for number in (3, 1, 2):
        store.add(run(number))

    assert [json.loads(r.to_json())["fingerprint"]["revision"]["commit"] for r in store.every()] == [
        commit(3), commit(1), commit(2),
    ]  # fmt: skip
    assert all(isinstance(r, Result) for r in store.every())


def test_a_result_knows_the_commit_of_the_working_directory(tmp_path):
    """Hash and time of the commit; dirty where a tracked file differs, not where a new one lies about."""
    folder, hashes = repository(tmp_path / "repo", 2)
    copies = [shutil.copytree(folder, tmp_path / name) for name in ("changed", "littered")]
    (copies[0] / "code_of_commit.py").write_text("other")
    (copies[1] / "notes.txt").write_text("mine")
    clean = {"commit": hashes[1], "committed": 1_700_086_400, "dirty": False}

    assert revision(folder) == revision(copies[1]) == clean
    assert revision(copies[0]) == clean | {"dirty": True}
    assert revision(tmp_path) == {}


@pytest.mark.slow
def test_false_alerts_over_a_long_time():
    """100 simulated histories without a step, looked at every night from the 5th to the 40th.

    At any one look at most 1 % alert; at most 3 ever do: three deviations above a true rate of 0.5 %.
    """
    looks, ever = [0] * 41, 0
    for seed in range(100):
        (series,) = history(nights(40, noise=0.015, seed=1_000 + seed), kinds=["latency"]).series
        alerts = [n for n in range(5, 41) if changes([replace(series, runs=series.runs[:n])])]
        ever += bool(alerts)
        for n in alerts:
            looks[n] += 1

    assert max(looks) <= 1
    assert ever <= 3


def test_noise_does_not_hide_in_a_mean_of_zero():
    """Figures that are zero (no wrong item at all) are followed by items, never by logarithms."""
    assert not found([run(n) for n in range(6)], "error")
    assert np.isfinite(history([run(0)], kinds=["error"]).series[0].values).all()


# --- what creeps


def test_quality_that_creeps_is_found():
    """Eight more of 2,000 items wrong every night: no neighbours prove it (2/2^8 = 0.008); sums of them do.

    One series, 14 changes, so 27 tests: 16 lost items have 2/2^16·27 = 0.0008 <= 0.002. No night is to blame.
    """
    results = [run(n, wrong=range(8 * n)) for n in range(15)]

    found_ones = found(results, "error")

    assert found_ones[0].regression and found_ones[0].crept
    assert (found_ones[0].before.commit, found_ones[0].after.commit) == (commit(0), commit(2))
    assert found_ones[0].p == pytest.approx(27 * 2 * 0.5**16)
    assert [c.after.commit for c in found_ones] == [commit(n) for n in range(2, 15, 2)]
    (line, *_) = report(history(results, kinds=["error"]), found_ones).alerts
    assert f"by {commit(2)[:8]}" in line and f"crept since {commit(0)[:8]}" in line


def test_a_sudden_loss_after_a_level_is_blamed_on_its_commit():
    """The level stood until run 4: that run, not the first of the level, is named before."""
    (change,) = found([*(run(n) for n in range(5)), run(5, wrong=range(30))], "error")

    assert (change.before.commit, change.after.commit, change.crept) == (commit(4), commit(5), False)


def test_a_loss_is_found_against_the_run_before_even_where_the_first_was_as_bad():
    """Nine items won (not proved), then thirty others lost: 30 to 0 against the run before."""
    (change,) = found([run(0, wrong=range(9)), run(1), run(2, wrong=range(100, 130))], "error")

    assert change.regression and not change.crept


def test_quality_that_came_back_in_part_still_stands():
    """200 lost, 30 won back, proved both: still 170 worse than before."""
    lost, _ = found([run(0), run(1, wrong=range(200)), run(2, wrong=range(170))], "error")

    assert lost.regression


def test_constant_quality_is_silent():
    """200 simulated series of 15 nights, 100 of 2,000 items by chance: 0.002 each; more than 4 have p = 5e-5."""
    rng = np.random.default_rng(0)
    alarms = 0
    for _ in range(200):
        (series,) = history([run(n) for n in range(15)], kinds=["error"]).series
        flips = [np.r_[rng.integers(0, 2, 100), np.ones(1_900)].astype(float).tobytes() for _ in series.runs]
        runs = tuple(replace(r, outcomes=o) for r, o in zip(series.runs, flips, strict=True))
        alarms += bool(changes([replace(series, runs=runs)]))

    assert alarms <= 4


def test_size_and_fidelity_that_creep_are_found():
    """0.09 % a night is below 0.1 %, two nights are above; 0.2 dB are 2.3 %, three nights make 7.2 %, above 5 %."""
    results = [run(n, size=round(100_000 * 1.0009**n), sqnr_db=30 - 0.2 * n) for n in range(4)]

    (size, *_), (fidelity,) = found(results, "artifact_size"), found(results, "relative_error")

    assert (size.before.commit, size.after.commit, size.crept) == (commit(0), commit(2), True)
    assert (fidelity.before.commit, fidelity.after.commit, fidelity.crept) == (commit(0), commit(3), True)
    assert fidelity.size.value == pytest.approx(10**0.03)
    assert size.regression and fidelity.regression


def test_a_size_that_shrank_in_part_still_stands():
    grown, shrunk = found([run(0), run(1, size=110_000), run(2, size=104_000)], "artifact_size")

    assert grown.regression
    assert shrunk.direction == "better"


def test_timings_that_creep_are_found():
    """1 % a night in 1 % of noise over 40 nights: asv's solver puts no step into it, and 47 % would be lost unseen."""
    results = [run(n, latency_s=0.003 * 1.01**n, noise=0.01) for n in range(40)]

    (change,) = found(results, "latency")

    assert change.regression and change.crept
    assert change.before.commit == commit(0)
    assert change.size.low < 1.01**20 < change.size.high


# --- accepted


@pytest.fixture
def rebased(home, monkeypatch, tmp_path):
    """Three commits of one second, the third worse by 10 points; measured newest first."""
    folder = tmp_path / "rebased"
    folder.mkdir()
    monkeypatch.setenv("GIT_AUTHOR_DATE", "1700000000 +0000")
    monkeypatch.setenv("GIT_COMMITTER_DATE", "1700000000 +0000")
    git(folder, "init", "--quiet", "--initial-branch=main")
    for number in range(3):
        git(folder, "commit", "--quiet", "--allow-empty", "--message", f"S{number}")
    hashes = git(folder, "rev-list", "--reverse", "main").split()
    monkeypatch.chdir(folder)
    for number in (2, 1, 0):
        told = {"commit": hashes[number], "committed": 1_700_000_000, "dirty": False}
        result = run(3 - number, wrong=range(200) if number == 2 else ())
        stored(home, [replace(result, fingerprint=result.fingerprint | {"revision": told})])
    return hashes


@pytest.mark.parametrize("how", [[], ["--branch", "main"]])
def test_since_goes_by_the_place_and_not_by_the_time(rebased, capsys, how):
    for name in (rebased[0], "HEAD~2", rebased[0][:12], "HEAD~1"):
        assert cli.main(["history", "--since", name, *how]) == 1, name
        assert f"at {rebased[2][:8]}" in capsys.readouterr().out


def test_nothing_after_the_accepted_commit_is_no_pass(rebased, capsys):
    assert cli.main(["history", "--since", "HEAD"]) == 3
    assert "nothing was measured after the accepted commit" in capsys.readouterr().out


def test_a_gap_at_the_accepted_commit_hides_no_step():
    """The case was not measured at commit 1: whether the step came before or after it is not known, so it is told."""
    other = replace(CASE, method="int8_dynamic")
    table = history([run(0), run(0, case=other), run(1, case=other), run(2, wrong=range(50))], kinds=["error"])

    (change,) = changes(since(table, commit(1)).series)

    assert (change.before.commit, change.after.commit) == (commit(0), commit(2))


def test_what_crept_before_the_accepted_commit_is_accepted():
    """Eight items a night, seven nights accepted: what is told crept since then."""
    table = history([run(n, wrong=range(8 * min(n, 9))) for n in range(12)], kinds=["error"])

    (change,) = changes(since(table, commit(7)).series)

    assert change.before.commit == commit(7)


# --- words for what is not there


def test_a_word_that_fits_no_case_is_named_with_cases_that_exist(home, capsys):
    stored(home, [run(0)])

    assert cli.main(["history", "--cases", "zzz"]) == 3
    err = capsys.readouterr().err
    assert "zzz" in err and CASE.id in err


def test_figures_that_no_result_has_are_named_with_those_that_there_are(home, capsys):
    stored(home, [run(0, latencies_s=(), reference_latencies_s=())])

    assert cli.main(["history", "--figures", "latency"]) == 3
    assert "none has latency, there is peak_memory, artifact_size, error, relative_error" in capsys.readouterr().err


def test_how_sure_intervals_are_is_said(home, capsys):
    stored(home, [run(0), run(1)])

    cli.main(["history"])

    assert "intervals: 95% of each step, 99% of the newest values" in capsys.readouterr().out

"""Simulated histories: results as `quantkit run` stores them, with levels, noise and commits that a test chooses."""

import hashlib
import os
import subprocess

import numpy as np

from quantkit.records import Case, Measurement, Result
from quantkit.units import Unit

CASE = Case("fmnist_cnn", "int8_static", "onnxruntime", "cpu")
ROUNDS, CALLS = 7, 11


def commit(number):
    """A hash like git's."""
    return hashlib.sha1(str(number).encode()).hexdigest()


def run(number, *, latency_s=0.003, reference_s=0.006, noise=0.0, seed=0, size=100_000, wrong=(), items=2_000,
        sqnr_db=30.0, memory=50e6, machine="m1", data="d1", case=CASE, dirty=False, **changes):  # fmt: skip
    """The result of one night: `noise` is the deviation of the whole run's level, each process adds a third of it."""
    rng = np.random.default_rng([seed, number])
    night, before = latency_s * np.exp(noise * rng.standard_normal(2) * [1, 0])[0], reference_s
    peaks = tuple((memory * (1 + 0.001 * rng.random(ROUNDS))).tolist())
    outcomes = np.ones(items)
    outcomes[list(wrong)] = 0
    told = {"commit": commit(number), "committed": 1_700_000_000 + 86_400 * number, "dirty": dirty}
    context = {
        "quality": {"name": "top1_accuracy", "outcome": "binary", "better": "higher", "margin": 0.01},
        "data": {"sha256": {"file": data}}, "threads": 1, "items": items, "executor": "here", "simulated": True,
    }  # fmt: skip
    values = {
        "case": case, "status": "ok", "created": f"2026-01-01T00:{number // 60:02}:{number % 60:02}+00:00",
        "measurements": {
            "artifact_size": Measurement("artifact_size", Unit.BYTE, "lower", (float(size),)),
            "peak_memory": Measurement("peak_memory", Unit.BYTE, "lower", peaks),
            "sqnr_db": Measurement("sqnr_db", Unit.DECIBEL, "higher", (sqnr_db,)),
        },
        "outcomes": tuple(outcomes.tolist()),
        "latencies_s": rounds(night, noise / 3, rng), "reference_latencies_s": rounds(before, noise / 3, rng),
        "context": context,
        "fingerprint": {"id": machine, "processor": "a processor", "cores": 2, "system": "Linux x86_64",
                        "python": "3.11.7", "memory_gib": 16, "kernel": "6.1", "revision": told},
    }  # fmt: skip
    return Result(**(values | changes))


def rounds(level, noise, rng):
    """Seven processes of eleven calls each."""
    processes = level * np.exp(noise * rng.standard_normal(ROUNDS))
    return tuple(tuple((p * np.exp(0.01 * rng.standard_normal(CALLS))).tolist()) for p in processes)


def nights(count, *, step=0.0, at=None, noise=0.01, seed=0, **changes):
    """One result a night; from night `at` on the candidate takes `step` (0.05 = 5 %) longer."""
    at = count // 2 if at is None else at
    level = changes.pop("latency_s", 0.003)
    return [
        run(n, latency_s=level * (1 + step * (n >= at)), noise=noise, seed=seed, **changes) for n in range(count)
    ]  # fmt: skip


def git(folder, *words):
    """Run git in a folder, without anybody's settings."""
    names = {f"GIT_{who}_{what}": "t@t" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    alone = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
    done = subprocess.run(["git", *words], cwd=folder, env=os.environ | names | alone, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def repository(folder, commits=6):
    """A git repository with that many commits, a day apart, on the branch main; return it and their hashes."""
    folder.mkdir(parents=True, exist_ok=True)
    git(folder, "init", "--quiet", "--initial-branch=main")
    hashes = []
    for number in range(commits):
        (folder / "code_of_commit.py").write_text(f"number = {number}\n")
        git(folder, "add", ".")
        date = f"{1_700_000_000 + 86_400 * number} +0000"
        os.environ["GIT_AUTHOR_DATE"] = os.environ["GIT_COMMITTER_DATE"] = date
        try:
            git(folder, "commit", "--quiet", "--message", f"number {number}")
        finally:
            del os.environ["GIT_AUTHOR_DATE"], os.environ["GIT_COMMITTER_DATE"]
        hashes.append(git(folder, "rev-parse", "HEAD"))
    return folder, hashes

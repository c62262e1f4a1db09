"""What the tests of the latency protocol share: a call on a clock of its own, a short pace, a small repository."""

import os
import random
import subprocess

from quantkit import compare_latency
from quantkit.latency import Pace, Rule

QUICK = Pace(warmup_s=0.0, turns=2, turn_s=0.004)
FEW = Rule(first=3, looks=3)


class Ticking:
    """A factory of a call that takes exactly so many seconds of a clock of its own."""

    def __init__(self, seconds, spread=0.0):
        self.seconds, self.spread, self.now = seconds, spread, 0.0

    def __call__(self):
        seconds = self.seconds * (1 + self.spread * random.Random(os.getpid()).random())  # drawn once a load

        def call():
            self.now += seconds

        call.clock = lambda: self.now
        return call


def compared(reference, candidate, spread=0.0, **options):
    sides = Ticking(reference, spread), Ticking(candidate, spread)
    return compare_latency(*sides, load=True, **({"rule": FEW, "pace": QUICK} | options))


def git(folder, *words):
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    subprocess.run(["git", "-C", str(folder), *identity, *words], check=True, capture_output=True)


def committed(folder, files, message="next"):
    """Write files into a repository, which is made where it is missing, and commit them."""
    if not (folder / ".git").exists():
        folder.mkdir(exist_ok=True)
        git(folder, "init", "-b", "main")
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    git(folder, "add", "-A")
    git(folder, "commit", "-m", message)


def timed_module(seconds):
    """Return the text of a module whose call takes exactly so many seconds of a clock of its own."""
    return (
        "class Call:\n    now = 0.0\n    def clock(self): return self.now\n"
        f"    def __call__(self): self.now += {seconds}\n"
    )

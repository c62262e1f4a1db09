"""Disturbed rounds: run again, a stated number of times, then kept and said.

A round is replaced whole, because its arms are compared with each other; it is run again after the others, when what
disturbed it may have passed. Of two tries the one with fewer disturbed trials is kept.
"""

from __future__ import annotations

import os
import re
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

from quantkit.errors import InvalidSetting
from quantkit.pipeline.arm import Arm
from quantkit.state import conditions

VARIABLE = "QUANTKIT_DISTURBED"
Trials = dict[str, Any]  # case id -> what `pipeline.trial` returned


def watched() -> bool:
    """Return whether disturbed rounds are run again and said; `QUANTKIT_DISTURBED=keep` takes them as they are.

    Raises:
        InvalidSetting: the variable says something else.
    """
    asked = os.environ.get(VARIABLE, "")
    if asked not in ("", "again", "keep"):
        raise InvalidSetting(f"{VARIABLE} must be 'again' or 'keep': got '{asked}'")
    return asked != "keep"


def disturbed(trial: dict[str, Any]) -> tuple[str, ...]:
    """Return why one trial is tainted."""
    return tuple(trial["trial"].get("disturbed", ()))


class Rounds:
    """The rounds of a race: iterate over the numbers of those to run, and `add` what each gave.

    Args:
        count: how many there are.
        again: how many may be run again in all.
    """

    def __init__(self, count: int, again: int):
        self._waiting, self._again = deque(range(count)), again
        self.trials: dict[int, Trials] = {}
        self.reruns = 0

    def __iter__(self) -> Iterator[int]:
        while self._waiting:
            yield self._waiting.popleft()

    def add(self, number: int, trials: Trials) -> str:
        """Keep a round's trials unless an earlier try was better; return what is said when it will be run again."""
        before = self.trials.get(number)
        if before is None or _tainted(trials) <= _tainted(before):
            self.trials[number] = trials
        reasons = [reason for one in self.trials[number].values() for reason in disturbed(one)]
        if not reasons or not self._again:
            return ""
        self._again -= 1
        self.reruns += 1
        self._waiting.append(number)
        return f"round {number + 1} will be run again: {reasons[0]}"


def state_of(arm: Arm) -> dict[str, Any]:
    """Return the state that a result keeps: of the machine at the start, and around each trial's timed calls."""
    names = ("own_s", "before", "after", "memory")
    return {
        "machine": arm.machine.as_dict() if arm.machine else {},
        "conditions": list(conditions(arm.machine)) if arm.machine else [],
        "reruns": arm.reruns,
        "noise_floor": arm.noise_floor,
        "trials": [
            {name: one["trial"][name] for name in names if name in one["trial"]} | {"disturbed": list(disturbed(one))}
            for one in arm.trials
        ],
    }


def _tainted(trials: Trials) -> int:
    return sum(bool(disturbed(one)) for one in trials.values())


def verdict(trials: Sequence[Any], baseline: Sequence[Any], reruns: int) -> str:
    """Return why a result is tainted, and in how many rounds; empty where it is not.

    Args:
        trials: the candidate's, one for each round.
        baseline: those of the baseline in the same rounds; empty for a baseline itself.
        reruns: how many rounds had been run again.
    """
    beside: Sequence[Any] = baseline or [{"trial": {}}] * len(trials)
    rounds = [disturbed(one) + disturbed(other) for one, other in zip(trials, beside, strict=True)]
    bad = [reasons for reasons in rounds if reasons]
    if not bad or not watched():
        return ""
    worst = {re.split(r"\d", line)[0]: line for line in sorted(line for reasons in bad for line in reasons)}
    tried = f", {reruns} run again" if reruns else ""
    return f"{'; '.join(worst.values())}; {len(bad)} of {len(rounds)} rounds{tried}"

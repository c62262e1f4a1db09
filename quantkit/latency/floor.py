"""The rule for this machine: from which effect on a verdict is given, as its noise floor was measured."""

from __future__ import annotations

from pathlib import Path

from quantkit.errors import InvalidSetting, NothingMeasured
from quantkit.pipeline.noise import file, floor_of, trials
from quantkit.stats.sequential import Rule

MOST_FLOOR = 0.10  # from here on hardly any change of code would show
MOST_TOLERANCE = 0.10
LEAST_ALPHA = 1e-9  # below, a confidence cannot be told from 1 in floating point


def rule(alpha: float = 0.01, floor: float | None = None, path: Path | None = None) -> Rule:
    """Return the rule: with a given floor, else this machine's, else the default where the self-test has not been run.

    Args:
        alpha: chance of a false verdict.
        floor: relative, 0 to 0.1; None takes the measured one.
        path: of the file of comparisons; this machine's by default.

    Raises:
        InvalidSetting: alpha or floor outside its range.
        NothingMeasured: equal sides differ by so much here that no verdict would mean anything.
        CorruptFile: the comparisons that are kept cannot be read.
    """
    if not LEAST_ALPHA <= alpha < 1:
        raise InvalidSetting(f"alpha must be between 0 and 1, and {LEAST_ALPHA:g} at least: got {alpha}")
    if floor is not None and not 0 <= floor < MOST_FLOOR:
        raise InvalidSetting(
            f"the floor must be at least 0 and below {MOST_FLOOR:g} (a share: 0.02 is 2 %): got {floor}"
        )
    found = floor_of(trials(path)) if floor is None else floor
    if found is None:
        return Rule(alpha)
    if found >= MOST_FLOOR:
        raise NothingMeasured(
            f"this machine is too noisy: equal sides differ by up to {found:.1%} (below {MOST_FLOOR:.0%} is needed); "
            f"end other work, remove {path or file()} and run 'quantkit selftest noise' again, or set --floor"
        )
    return with_floor(found, alpha)


def with_floor(floor: float, alpha: float = 0.01) -> Rule:
    """Return the rule of a floor; what is `same` may differ by twice as much, by 10 % at most."""
    return Rule(alpha, floor=floor, tolerance=max(Rule().tolerance, min(2 * floor, MOST_TOLERANCE)))

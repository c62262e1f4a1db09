"""Whether one artifact is faster than another: only when the interval and the machine's own noise floor agree."""

from typing import Literal

from quantkit.stats.interval import Estimate

SpeedVerdict = Literal["faster", "slower", "inconclusive"]


def speed_verdict(estimate: Estimate, floor: float = 0.02) -> SpeedVerdict:
    """Return whether the speed-up is real: its interval excludes 1 AND its size exceeds the noise floor.

    Args:
        estimate: speed-up (reference latency over candidate latency) with its interval.
        floor: largest relative effect that two equal arms show on this machine (A/A runs), >= 0. It is applied alike
            in both directions: above 1 + floor, or below 1 / (1 + floor).

    Raises:
        ValueError: negative or nan floor.

    >>> speed_verdict(Estimate(1.5, 1.2, 1.9, 0.95))
    'faster'
    >>> speed_verdict(Estimate(1.01, 1.005, 1.015, 0.95), floor=0.02)
    'inconclusive'
    """
    if not floor >= 0:
        raise ValueError(f"floor must be a relative effect >= 0: got {floor}")
    if not estimate.excludes(1.0):
        return "inconclusive"
    if estimate.value > 1 + floor:
        return "faster"
    return "slower" if estimate.value < 1 / (1 + floor) else "inconclusive"

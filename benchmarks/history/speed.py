"""Speed: `Speed` is timed by asv, in its own way; `Ratio` by the pipeline, in turn with the baseline.

Inside the clock of `Speed`: one call of the loaded artifact on one item, and the wait for its target. asv sets up anew
before every call, so the loaded artifact is kept by its name.
"""

from quantkit.history.figures import KINDS, value
from quantkit.pipeline.plan import baseline_of

from .common import OfCases, opened, planned, result_of

ROUNDS = 5  # fresh processes of each arm


class Speed(OfCases):
    """Seconds of one call."""

    number, repeat, warmup_time = 20, (3, 15, 10.0), 0.2

    def setup(self, case):
        opened(case)

    def time_call(self, case):
        call, wait = opened(case)
        call()
        wait()


class Ratio(OfCases):
    """Time of one call over that of the full-precision case on the same backend; that case itself has none."""

    unit = ""

    def track_time_ratio(self, case):
        if baseline_of(planned()[case]) == planned()[case]:
            return float("nan")
        found = value(KINDS["time_ratio"], result_of(case, ROUNDS))
        return found[0] if found else float("nan")

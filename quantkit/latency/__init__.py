"""Which of two is faster: the paired latency protocol, between artifacts, callables, and revisions of the code.

`protocol.compare` is the whole story; `blocks` measures one pair of fresh loads, `side` keeps the processes, `artifact`
and `own` say what can be compared, `noise` measures what this machine can tell apart.
"""

from quantkit.latency.blocks import Pace as Pace
from quantkit.latency.own import compare_latency as compare_latency
from quantkit.latency.protocol import LatencyComparison as LatencyComparison
from quantkit.stats.sequential import Rule as Rule

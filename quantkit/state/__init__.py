"""The state of the machine and of this process, as data: what disturbs a measurement, and what a process holds.

>>> before = snapshot(slow=False); after = snapshot(slow=False)
>>> after.monotonic_s >= before.monotonic_s
True
"""

from quantkit.state.driver import driver_bytes as driver_bytes
from quantkit.state.memory import Memory as Memory
from quantkit.state.memory import memory as memory
from quantkit.state.memory import reset_peak as reset_peak
from quantkit.state.record import Snapshot as Snapshot
from quantkit.state.record import own_processor_s as own_processor_s
from quantkit.state.record import snapshot as snapshot
from quantkit.state.taint import Limits as Limits
from quantkit.state.taint import conditions as conditions
from quantkit.state.taint import disturbances as disturbances

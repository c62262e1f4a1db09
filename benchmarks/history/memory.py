"""Peak memory of a process that loads an artifact and answers a few items (with asv's runner and quantkit in it)."""

from .common import OfCases, opened

CALLS = 20


class Memory(OfCases):
    """What asv sees of the process: its largest resident set."""

    def peakmem_process(self, case):
        call, wait = opened(case)
        for _ in range(CALLS):
            call()
        wait()

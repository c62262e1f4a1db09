"""Targets: what they say where they are not, and the memory counter of macOS against a library that is made up here."""

import ctypes

import pytest

from quantkit import environment
from quantkit.catalog import TARGETS
from quantkit.targets import _apple


class FakeLibrary:
    """A FIXTURE, not macOS: fills in `rusage_info_v4` as <sys/resource.h> lays it out, or refuses."""

    def __init__(self, status=0):
        self.status = status

    def proc_pid_rusage(self, pid, flavour, pointer):
        assert flavour == 4
        raw = (ctypes.c_uint64 * 37).from_address(ctypes.addressof(pointer._obj))
        for index in range(2, 37):  # the first 16 bytes are the uuid
            raw[index] = index
        return self.status


def test_the_peak_footprint_is_the_31st_number_of_the_structure():
    """16 bytes of uuid (two words), then 28 numbers come before ri_lifetime_max_phys_footprint: word 2 + 28 = 30."""
    assert ctypes.sizeof(_apple.RusageInfo) == 16 + 35 * 8
    assert _apple.peak_footprint(FakeLibrary()) == 30


def test_a_refused_footprint_falls_back_to_the_resident_set():
    assert _apple.peak_footprint(FakeLibrary(status=-1)) > 2**10


@pytest.mark.parametrize("name", ["mps", "ane"])
@pytest.mark.parametrize(
    ("system", "machine", "here"), [("Darwin", "arm64", True), ("Darwin", "x86_64", False), ("Linux", "aarch64", False)]
)
def test_apple_units_are_timed_on_apple_silicon_only(monkeypatch, name, system, machine, here):
    """Cases on them are never refused: elsewhere they are built and judged, and speed says what it needs."""
    monkeypatch.setattr(environment.platform, "system", lambda: system)
    monkeypatch.setattr(environment.platform, "machine", lambda: machine)

    assert TARGETS.get(name).unavailable() is None
    assert TARGETS.get(name).untimed() == (None if here else "needs macOS on Apple silicon")


def test_the_clock_of_an_apple_unit_only_goes_forward():
    ane = TARGETS.get("ane")
    first = ane.clock()
    ane.synchronize()
    assert ane.clock() > first

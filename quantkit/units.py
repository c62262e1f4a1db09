"""Units of measurements: SI inside; friendly multiples appear only in reports. MiB is 2^20 bytes, MB 10^6."""

from enum import StrEnum


class Unit(StrEnum):
    """The unit of every value of one measurement."""

    SECOND = "s"
    BYTE = "B"
    PER_SECOND = "1/s"
    JOULE = "J"
    DECIBEL = "dB"
    BIT = "bit"
    NAT = "nat"
    SHARE = "1"  # a number in 0..1, or a plain ratio

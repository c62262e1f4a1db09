"""Everything a caller may want to handle. Each message is one line: what, got, expected, next step."""


class QuantizationError(Exception):
    """Base of all errors that quantkit raises on purpose; the command line prints it without a traceback."""


class UnknownName(QuantizationError, LookupError):
    """A name that no catalog entry has; the message carries the nearest known one."""


class MissingExtra(QuantizationError, ImportError):
    """A toolchain that is not installed; the message carries the exact pip command."""


class Unsupported(QuantizationError):
    """A case that this backend, method or target cannot do; the plan turns it into a hole with a reason."""


class CalibrationError(QuantizationError, ValueError):
    """Calibration data that cannot be used: empty, not finite, of the wrong shape."""


class HardwareCompatibilityError(QuantizationError):
    """A target that this machine does not have, or that refuses the artifact."""


class CorruptFile(QuantizationError):
    """A weight file, data file, artifact or stored result whose hash is not the recorded one."""


class StorageError(QuantizationError, OSError):
    """A folder that cannot be written or a disk that is full."""


class CaseFailed(QuantizationError):
    """A case that crashed, was killed or ran past its limits in its own process."""


class NothingMeasured(QuantizationError):
    """A question about results where there are none."""


class InvalidSetting(QuantizationError, ValueError):
    """A number or name of an option that makes no sense; the message has what was expected."""


class NoBaseline(QuantizationError):
    """A comparison without anything to compare with, or with something not comparable."""


class BudgetTooSmall(QuantizationError, ValueError):
    """A budget that no assignment of schemes keeps; the message carries the smallest possible cost."""


class ClockStepped(QuantizationError):
    """A clock that went backwards while something was timed by it: the figures mean nothing."""

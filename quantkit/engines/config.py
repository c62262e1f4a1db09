"""What is asked for: a method, a target and how much data, checked when it is built. Imports nothing heavy."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

from quantkit.errors import InvalidSetting

FORMATS = {"pytorch": "pytorch", "onnx": "onnxruntime", "coreml": "coreml", "tflite": "litert", "mlx": "mlx",
           "huggingface": "bitsandbytes"}  # fmt: skip
FRAMEWORKS = ("pytorch", "onnx", "huggingface")


class QuantizationMethod(Enum):
    """The five procedures that users name."""

    PTQ_8BIT = "ptq_8bit"
    PTQ_4BIT = "ptq_4bit"
    QAT = "qat"
    MIXED_PRECISION = "mixed_precision"
    DYNAMIC = "dynamic"


class HardwareTarget(Enum):
    """What the model is to run on. The values are the targets' names, but for ALL: every one of them."""

    CPU = "cpu"
    MPS_GPU = "mps"
    ANE = "ane"
    ALL = "all"


@dataclass(frozen=True)
class QuantizationConfig:
    """One wish, complete when it is built.

    Args:
        method: how to quantize.
        hardware_target: what it is to run on; `ALL` makes an artifact for each.
        calibration_dataset_size: at most this many items of the loader are calibrated with.
        accuracy_threshold: share of the original's accuracy that must be kept; less is a warning.
        benchmark_baseline: also time original and quantized model side by side.
        export_formats: formats to write besides: "onnx", "coreml", "tflite", "mlx", "pytorch", "huggingface".
        strict: an accuracy below the threshold is a QuantizationError instead of a warning.

    Raises:
        InvalidSetting: a value of the wrong kind or out of range, with what was expected.
    """

    method: QuantizationMethod
    hardware_target: HardwareTarget
    calibration_dataset_size: int = 1000
    accuracy_threshold: float = 0.95
    benchmark_baseline: bool = True
    export_formats: list[str] | None = None
    strict: bool = False

    def __post_init__(self) -> None:
        member("method", self.method, QuantizationMethod)
        member("hardware_target", self.hardware_target, HardwareTarget)
        whole("calibration_dataset_size", self.calibration_dataset_size)
        share("accuracy_threshold", self.accuracy_threshold)
        if isinstance(self.export_formats, str):
            raise InvalidSetting(f"export_formats is a list of names: got {self.export_formats!r}, write a list of it")
        for name in self.export_formats or ():
            known("export format", name, FORMATS)


def member(name: str, value: object, kind: type[Enum]) -> None:
    """Refuse what is no member of an enumeration.

    Raises:
        InvalidSetting: with the members, and the one that the value looks like.
    """
    if isinstance(value, kind):
        return
    words = {str(one.value): one.name for one in kind} | {one.name.lower(): one.name for one in kind}
    near = difflib.get_close_matches(str(value).lower(), words, n=1)
    hint = f" Did you mean {kind.__name__}.{words[near[0]]}?" if near else ""
    members = ", ".join(one.name for one in kind)
    raise InvalidSetting(f"{name} must be a {kind.__name__}: got {value!r}.{hint} Members: {members}")


def known(what: str, name: object, names: Iterable[str]) -> None:
    """Refuse a name that is not among `names`.

    Raises:
        InvalidSetting: with the nearest one.
    """
    choices = list(names)
    if name in choices:
        return
    near = difflib.get_close_matches(str(name).lower(), choices, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise InvalidSetting(f"unknown {what} {name!r}.{hint} Known: {', '.join(choices)}")


def whole(name: str, value: object) -> None:
    """Refuse what is no whole number of at least 1."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InvalidSetting(f"{name} must be a whole number of at least 1: got {value!r}")


def share(name: str, value: object) -> None:
    """Refuse what is no number above 0 and at most 1."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 1:
        raise InvalidSetting(f"{name} must be a share above 0 and at most 1 (0.95 = 95 %): got {value!r}")

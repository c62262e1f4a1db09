"""How numbers are kept: width, format, who shares a scale, and what happens to activations."""

from dataclasses import dataclass
from typing import Literal

Format = Literal["fp32", "bf16", "fp16", "int"]
Activations = Literal["none", "dynamic", "static"]
FLOAT_BITS = {"fp32": 32, "bf16": 16, "fp16": 16}


@dataclass(frozen=True, slots=True)
class PerTensor:
    """One scale for the whole tensor."""


@dataclass(frozen=True, slots=True)
class PerChannel:
    """One scale for each index of `axis`, the axis that is kept (0 = output channel)."""

    axis: int = 0


@dataclass(frozen=True, slots=True)
class PerGroup:
    """One scale for `group_size` neighbouring weights along the inputs of one output channel."""

    group_size: int
    axis: int = 0


Granularity = PerTensor | PerChannel | PerGroup


@dataclass(frozen=True, slots=True)
class Scheme:
    """How one layer's numbers are kept.

    Args:
        bits: width of one weight code, 2..8 for integers; 16 or 32 for floats.
        format: number format of the weights.
            (A 16-bit float method lets each backend take bf16 or fp16; the manifest says which.)
        granularity: who shares a weight scale.
        activations: `none` keeps them in float, `dynamic` takes a range at run time, `static` a calibrated one.
        symmetric: weight codes lie in ±(2^(bits−1) − 1) around zero.

    >>> Scheme(bits=8, activations="static").name, Scheme(bits=4, granularity=PerGroup(32)).name
    ('w8a8', 'w4a16g32')
    """

    bits: int
    format: Format = "int"
    granularity: Granularity = PerChannel()
    activations: Activations = "none"
    symmetric: bool = True

    def __post_init__(self) -> None:
        if self.format == "int" and not 2 <= self.bits <= 8:
            raise ValueError(f"integer weights take 2 to 8 bits: got {self.bits}")
        if self.format != "int" and self.bits != FLOAT_BITS[self.format]:
            raise ValueError(f"{self.format} weights have {FLOAT_BITS[self.format]} bits: got {self.bits}")

    @property
    def quantized(self) -> bool:
        """True where weights are integer codes."""
        return self.format == "int"

    @property
    def name(self) -> str:
        """The field's short name: fp32, bf16, w8a8, w8a8-dynamic, w4a16g32."""
        if not self.quantized:
            return self.format
        name = f"w{self.bits}a{16 if self.activations == 'none' else 8}"
        if isinstance(self.granularity, PerGroup):
            name += f"g{self.granularity.group_size}"
        if isinstance(self.granularity, PerTensor):
            name += "-per-tensor"
        return name + ("-dynamic" if self.activations == "dynamic" else "")

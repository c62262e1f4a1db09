"""How numbers are kept: width, format, who shares a scale, what happens to activations, how codes are chosen."""

from dataclasses import dataclass
from typing import Literal

Format = Literal["fp32", "bf16", "fp16", "int", "lut", "nf4", "fp4", "mxfp4", "mxfp8", "nvfp4"]
Activations = Literal["none", "dynamic", "static"]
Ranges = Literal["minmax", "moving_average", "percentile", "entropy", "mse"]
FLOAT_BITS = {"fp32": 32, "bf16": 16, "fp16": 16}
CODE_BITS = {"nf4": 4, "fp4": 4, "mxfp4": 4, "mxfp8": 8, "nvfp4": 4}  # formats of one width


@dataclass(frozen=True, slots=True)
class PerTensor:
    """One scale (or palette) for the whole tensor."""


@dataclass(frozen=True, slots=True)
class PerChannel:
    """One scale for each index of `axis`, the axis that is kept (0 = output channel)."""

    axis: int = 0


@dataclass(frozen=True, slots=True)
class PerGroup:
    """One scale for `group_size` neighbouring weights along the inputs of one output channel."""

    group_size: int
    axis: int = 0


@dataclass(frozen=True, slots=True)
class PerChannelGroup:
    """One scale (or palette) for `channels` neighbouring indices of `axis`."""

    channels: int
    axis: int = 0


Granularity = PerTensor | PerChannel | PerGroup | PerChannelGroup


@dataclass(frozen=True, slots=True)
class Scheme:
    """How one layer's numbers are kept, and how the toolchain's quantizer is told to choose them.

    Args:
        bits: width of one weight code, 2..8 for integers and palettes (1..8); 16 or 32 for floats.
        format: number format of the weights: a float, `int` (uniform codes), `lut` (a palette: each code points into
            a table of 2^bits values), or fixed values with a scale per block (nf4, fp4, mxfp4, mxfp8, nvfp4).
            (A 16-bit float method lets each backend take bf16 or fp16; the manifest says which.)
        granularity: who shares a weight scale or a palette.
        activations: `none` keeps them in float, `dynamic` takes a range at run time, `static` a calibrated one.
        symmetric: weight codes lie in ±(2^(bits−1) − 1) around zero.
        activation_bits: width of an activation code where `activations` is not `none`: 8 or 16.
        double: the scales, or the entries of the palette, are themselves kept in 8 bits.
        sparsity: share of the weights that is set to zero (the smallest ones) and not stored.
        ranges: how a static activation range is taken from calibration data: extremes, their moving average over
            the items, a high percentile, least loss of information (entropy) or least squared error (mse).
        codes: how weight codes are chosen: to the nearest, by half-quadratic optimization (HQQ, Badri & Shaji 2023) or
            with second-order error feedback from calibration data (GPTQ, arXiv:2210.17323).

    >>> Scheme(bits=8, activations="static").name, Scheme(bits=4, granularity=PerGroup(32)).name
    ('w8a8', 'w4a16g32')
    >>> Scheme(4, "lut", PerTensor()).name, Scheme(4, "nf4", PerGroup(64), double=True).name
    ('lut4', 'nf4-double')
    """

    bits: int
    format: Format = "int"
    granularity: Granularity = PerChannel()
    activations: Activations = "none"
    symmetric: bool = True
    activation_bits: int = 8
    double: bool = False
    sparsity: float = 0.0
    ranges: Ranges = "minmax"
    codes: Literal["nearest", "hqq", "gptq"] = "nearest"

    def __post_init__(self) -> None:
        if self.format in ("int", "lut") and not 1 + (self.format == "int") <= self.bits <= 8:
            raise ValueError(f"{self.format} weights take {1 + (self.format == 'int')} to 8 bits: got {self.bits}")
        known = FLOAT_BITS | CODE_BITS
        if self.format in known and self.bits != known[self.format]:
            raise ValueError(f"{self.format} weights have {known[self.format]} bits: got {self.bits}")
        if self.activation_bits not in (8, 16):
            raise ValueError(f"activation codes take 8 or 16 bits: got {self.activation_bits}")
        if not 0 <= self.sparsity < 1:
            raise ValueError(f"sparsity is a share from 0 to below 1: got {self.sparsity}")

    @property
    def quantized(self) -> bool:
        """True where weights are codes, not floats."""
        return self.format not in FLOAT_BITS

    @property
    def name(self) -> str:
        """The field's short name: fp32, bf16, w8a8, w8a8-dynamic, w4a16g32, lut4, lut4a8, nf4-double, s50-w8a16."""
        if not self.quantized:
            return self.format
        float_activations = self.activations == "none"
        name = f"w{self.bits}a{16 if float_activations else self.activation_bits}"
        if self.format != "int":
            name = f"lut{self.bits}" if self.format == "lut" else self.format
            name += "" if float_activations else f"a{self.activation_bits}"
        name += self._sharing()
        name += "-dynamic" if self.activations == "dynamic" else ""
        name += "-static" if self.activations == "static" and self.activation_bits == 16 else ""
        name += "-double" if self.double else ""
        name += f"-{self.ranges}" if self.ranges != "minmax" else ""
        name += f"-{self.codes}" if self.codes != "nearest" else ""
        return f"s{round(self.sparsity * 100)}-{name}" if self.sparsity else name

    def _sharing(self) -> str:
        """Return what the name says of granularity: nothing where the format has one usual sharing."""
        if isinstance(self.granularity, PerGroup) and self.format == "int":
            return f"g{self.granularity.group_size}"
        if isinstance(self.granularity, PerChannelGroup):
            return f"-c{self.granularity.channels}"
        return "-per-tensor" if isinstance(self.granularity, PerTensor) and self.format == "int" else ""

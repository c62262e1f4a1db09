"""What a layer's weights take as stored, in bytes: codes, scales, zero points, palettes. Exact arithmetic.

Milliseconds and joules are no arithmetic: `quantkit.search` measures them on the target.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from torch import nn

from quantkit.errors import Unsupported
from quantkit.procedures import layers
from quantkit.scheme import PerChannel, PerChannelGroup, PerGroup, PerTensor, Scheme

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Storage:
    """How a container keeps what goes with the codes of a weight [out, in, ...].

    Args:
        float_bits: width of a weight that stays in float where the scheme names no width of its own (fp32).
        half_bits: width of a weight in a 16-bit scheme.
        scale_bits: width of a scale or of a palette's entry.
        offset_bits: width of the zero point kept with every scale, 0 for none, whatever the scheme; None keeps one as
            wide as a code where codes are affine.
        kernel_shared: groups run along input channels and hold the whole kernel (Core ML's blocks); else they run
            along all weights of an output channel.
        instead_of_channels: group sizes tried in turn where a scheme asks for one scale per channel.
        padded: a last group that is not full is filled up; else such a layer stays in float.
        products_only: layers that are no matrices [out, in] stay in float.

    >>> Storage().bytes((64, 128), Scheme(4, granularity=PerGroup(32)))  # 4,096 of codes, 256 scales of 2
    4608
    """

    float_bits: int = 16
    half_bits: int = 16
    scale_bits: int = 16
    offset_bits: int | None = 0
    kernel_shared: bool = False
    instead_of_channels: tuple[int, ...] = ()
    padded: bool = True
    products_only: bool = False

    def bytes(self, shape: Shape, scheme: Scheme | None) -> int:
        """Return the bytes of one weight of this shape in a scheme; None stays in float.

        Raises:
            Unsupported: a format whose storage is not known here (NF4, floats of 4 and 8 bits), or sparse weights.
        """
        count = math.prod(shape)
        if scheme is None or not scheme.quantized:
            return _whole(count * (self.half_bits if scheme and scheme.bits == 16 else self.float_bits))
        if scheme.format not in ("int", "lut") or scheme.sparsity or scheme.double:
            raise Unsupported(f"the bytes of {scheme.name} are not counted: integers, palettes and floats are")
        per = self._sharing(shape, scheme)
        if per is None:
            return _whole(count * self.half_bits)
        if scheme.format == "lut":
            return _whole(count * scheme.bits) + _whole(_sharers(shape, per) * 2**scheme.bits * self.scale_bits)
        return self._integers(shape, per, scheme)

    def _integers(self, shape: Shape, per: object, scheme: Scheme) -> int:
        scales, codes = _sharers(shape, per), math.prod(shape)
        if isinstance(per, PerGroup):
            run = shape[1] if self.kernel_shared else math.prod(shape[1:])
            inside = math.prod(shape[2:]) if self.kernel_shared else 1
            blocks = math.ceil(run / per.group_size)
            scales = shape[0] * blocks
            codes = scales * per.group_size * inside if self.padded else codes
        offset = self.offset_bits
        if offset is None:
            offset = 0 if scheme.symmetric else scheme.bits
        return _whole(codes * scheme.bits) + _whole(scales * self.scale_bits) + _whole(scales * offset)

    def _sharing(self, shape: Shape, scheme: Scheme) -> object | None:
        """Return who shares a scale in this container, or None where the layer stays in float."""
        per: object = scheme.granularity
        if self.products_only and len(shape) != 2:
            return None
        if isinstance(per, PerChannel) and self.instead_of_channels and scheme.format == "int":
            whole = [size for size in self.instead_of_channels if shape[1] % size == 0]
            if not whole and not self.padded:
                return None
            per = PerGroup(whole[0] if whole else self.instead_of_channels[-1])
        if self.padded:
            return per
        run = shape[1] if self.kernel_shared else math.prod(shape[1:])
        if isinstance(per, PerGroup) and run % per.group_size:
            return None
        return None if isinstance(per, PerChannelGroup) and shape[0] % per.channels else per


def _whole(bits: int) -> int:
    return (bits + 7) // 8


def _sharers(shape: Shape, per: object) -> int:
    """Return how many scales or palettes a weight has, groups of inputs apart."""
    if isinstance(per, PerTensor):
        return 1
    if isinstance(per, PerChannelGroup):
        return math.ceil(shape[0] / per.channels)
    return shape[0]


def unit_shapes(network: nn.Module, units: Mapping[str, tuple[str, ...]]) -> dict[str, list[Shape]]:
    """Return the shapes of each unit's weights; what several layers share is there once."""
    found = {}
    for unit, members in units.items():
        own = [p for layer in members for p in layers.weights_of(network.get_submodule(layer)).values()]
        found[unit] = [tuple(p.shape) for p in {id(p): p for p in own}.values()]
    return found


def table(
    network: nn.Module,
    units: Mapping[str, tuple[str, ...]],
    schemes: Sequence[Scheme | None],
    storage: Storage | None = None,
) -> np.ndarray:
    """Return the bytes of every unit in every scheme, [units, schemes]."""
    place, shapes = storage or Storage(), unit_shapes(network, units)
    return np.array(
        [[sum(place.bytes(shape, scheme) for shape in shapes[unit]) for scheme in schemes] for unit in units], np.int64
    ).reshape(len(units), len(schemes))


def uniform_bytes(
    network: nn.Module, units: Mapping[str, tuple[str, ...]], scheme: Scheme, storage: Storage | None = None
) -> int:
    """Return the bytes of all units in one scheme: the budget of a mixed plan that is to be as small."""
    return int(table(network, units, [scheme], storage).sum())

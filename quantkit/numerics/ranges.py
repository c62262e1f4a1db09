"""Ranges of values from calibration data: a streaming observer and the five ways to choose its range.

What is seen goes into extremes and, where the way needs one, a histogram of bins that are a power of two wide and
start at zero. When a value lies outside, pairs of bins merge exactly, so the histogram does not depend on the order or
the batches of the data. Zeros are counted apart: every grid holds them without error.
"""

import math
from typing import get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from quantkit.errors import CalibrationError
from quantkit.numerics.grids import affine_range, symmetric_range
from quantkit.scheme import Ranges

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]
KINDS: tuple[Ranges, ...] = get_args(Ranges)
AVERAGING = 0.01  # weight of a new item's extremes; torch's and ONNX Runtime's default
PERCENTILE = 99.999  # share of the values that stays inside, in per cent; ONNX Runtime's default
SIDE = 4096  # bins on each side of zero: 8 or more for each step of 8 bits
NEAR_ZERO = 1e-30  # narrower bins are no normal float32
ENTROPY_BINS = 2048  # on one side; as TensorRT and ONNX Runtime's predecessors take
COARSE_BINS, COARSE, FINE = 1024, 24, 7  # of the search for the least squared error


class Histogram:
    """Counts of values in bins [i·width, (i + 1)·width), width a power of two that grows with the values.

    Attributes:
        counts: [2·SIDE]; the first half is below zero.
        zeros: number of exact zeros, which are in no bin.
        width: of one bin; 0.0 until a value other than zero was seen.
    """

    def __init__(self) -> None:
        self.counts: Counts = np.zeros(2 * SIDE, np.int64)
        self.zeros, self.width = 0, 0.0

    def add(self, values: ArrayLike) -> None:
        """Count some values, any shape, finite."""
        flat = np.ravel(np.asarray(values))
        largest = max(abs(float(flat.min())), abs(float(flat.max()))) if flat.size else 0.0
        zeros = flat.size - int(np.count_nonzero(flat))
        self.zeros += zeros
        if largest == 0.0:
            return
        needed = math.ldexp(1.0, math.frexp(largest)[1]) / SIDE  # all below 2^exponent
        if needed > self.width:
            self._grow(needed)
        exact = np.dtype("f4" if flat.dtype.itemsize <= 4 and self.width > NEAR_ZERO else "f8")
        bins = np.floor(flat.astype(exact, copy=False) / exact.type(self.width)).astype(np.int64)  # by 2^i: exact
        self.counts += np.bincount(bins + SIDE, minlength=2 * SIDE)
        self.counts[SIDE] -= zeros

    def _grow(self, width: float) -> None:
        """Merge bins so that each is `width` wide."""
        if self.width:
            index = np.arange(-SIDE, SIDE) // round(width / self.width) + SIDE  # rounds down, below zero too
            self.counts = np.bincount(index, weights=self.counts, minlength=2 * SIDE).astype(np.int64)
        self.width = width

    def occupied(self) -> tuple[Floats, Counts]:
        """Return the edges [n + 1] and counts [n] from the first to the last bin that holds a value."""
        held = np.flatnonzero(self.counts)
        first, last = (int(held[0]), int(held[-1])) if held.size else (SIDE, SIDE)
        edges = np.arange(first - SIDE, last - SIDE + 2, dtype=np.float64)
        return edges * self.width, self.counts[first : last + 1]

    def magnitudes(self) -> Counts:
        """Return the counts of |values| [n], bin i from i·width, up to the last that holds a value."""
        folded = self.counts[SIDE:] + self.counts[SIDE - 1 :: -1]
        return np.trim_zeros(folded, "b")


class Observer:
    """Sees values piece by piece and says which range to quantize them in.

    Args:
        kind: `minmax`: smallest to largest; `moving_average`: the same of each piece, averaged with weight `constant`
            for the newest (so a piece should be one item); `percentile`: leaves the outermost values out;
            `entropy`: least Kullback-Leibler divergence between the values and their codes; `mse`: least squared
            error of the quantized values.
        bits: width of a code, 2..16 (entropy: 2..8).
        symmetric: codes lie in ±(2^(bits-1) - 1) and the range around zero; else there are 2^bits codes and a zero
            point, and the range is widened to contain 0.
        constant: weight of the newest piece in a moving average.
        percentile: of the values that stay inside; where the range is not symmetric, each end loses half the rest.

    Raises:
        ValueError: unknown kind, or `bits`, `constant` or `percentile` out of range.

    Sources: moving average: Jacob et al. 2018, arXiv:1712.05877, section 3.1. Entropy: Migacz 2017, "8-bit inference
    with TensorRT", GTC. Least squares: the objective of Banner et al. 2019, arXiv:1810.05723, by search.

    >>> observer = Observer("minmax", 8)
    >>> for piece in ([1.0, 3.0], [-0.5, 2.0]):
    ...     observer.observe(piece)
    >>> observer.range()
    (-0.5, 3.0)
    """

    def __init__(
        self,
        kind: Ranges,
        bits: int,
        symmetric: bool = False,
        *,
        constant: float = AVERAGING,
        percentile: float = PERCENTILE,
    ) -> None:
        if kind not in KINDS:
            raise ValueError(f"ranges must be one of {', '.join(KINDS)}: got {kind!r}")
        most = 8 if kind == "entropy" else 16  # finer codes than bins would always agree with the values
        if not 2 <= bits <= most:
            raise ValueError(f"bits must be 2..{most} for {kind} ranges: got {bits}")
        if not 0 < constant <= 1:
            raise ValueError(f"constant must be above 0 and at most 1: got {constant}")
        if not 50 < percentile <= 100:
            raise ValueError(f"percentile must be above 50 and at most 100: got {percentile}")
        self.kind, self.bits, self.symmetric = kind, bits, symmetric
        self._constant, self._cut = constant, 1 - percentile / 100
        self._extremes: tuple[float, float] | None = None
        self._histogram = Histogram() if kind in ("percentile", "entropy", "mse") else None

    def observe(self, values: ArrayLike) -> None:
        """See some values, any shape.

        Raises:
            CalibrationError: nan or infinite values.
            ValueError: no values.
        """
        array = np.asarray(values)
        if not array.size:
            raise ValueError("values must be at least one: got an empty array")
        low, high = float(array.min()), float(array.max())
        if not (math.isfinite(low) and math.isfinite(high)):
            bad = int(np.count_nonzero(~np.isfinite(array)))
            raise CalibrationError(f"calibration gives nan or inf in {bad} of {array.size} values: check the items")
        self._extremes = self._merged(low, high)
        if self._histogram is not None:
            self._histogram.add(array)

    def _merged(self, low: float, high: float) -> tuple[float, float]:
        if self._extremes is None:
            return low, high
        old_low, old_high = self._extremes
        if self.kind != "moving_average":
            return min(low, old_low), max(high, old_high)
        return old_low + self._constant * (low - old_low), old_high + self._constant * (high - old_high)

    def range(self) -> tuple[float, float]:
        """Return the range of what was seen; it contains 0, and is (0, 0) where all was zero.

        Raises:
            CalibrationError: nothing was seen.
        """
        if self._extremes is None:
            raise CalibrationError("no calibration item reached this tensor: got 0 values, expected at least 1")
        low, high = min(self._extremes[0], 0.0), max(self._extremes[1], 0.0)
        if self._histogram is not None and low < high:
            low, high = self._chosen(self._histogram, low, high)
        if self.symmetric:
            high = max(-low, high)
            low = -high
        return low, high

    def _chosen(self, histogram: Histogram, low: float, high: float) -> tuple[float, float]:
        if self.kind == "mse":
            return least_squares(histogram, low, high, bits=self.bits, symmetric=self.symmetric)
        if self.kind == "percentile" and not self.symmetric:
            below, above = histogram.counts[:SIDE], histogram.counts[: SIDE - 1 : -1]
            allowed = self._cut / 2 * (histogram.counts.sum() + histogram.zeros)
            ends = [(SIDE - _passed(side, allowed)) * histogram.width for side in (below, above)]
            return max(low, -ends[0]), min(high, ends[1])
        magnitudes = histogram.magnitudes()
        if self.kind == "percentile":
            allowed = self._cut * (histogram.counts.sum() + histogram.zeros)
            end = (len(magnitudes) - _passed(magnitudes[::-1], allowed)) * histogram.width
        else:
            one_sided = not self.symmetric and (low == 0.0 or high == 0.0)
            levels = 2**self.bits if one_sided else 2 ** (self.bits - 1)
            end = least_divergence(magnitudes, levels) * histogram.width
        return max(low, -end), min(high, end)


def _passed(outermost_first: Counts, allowed: float) -> int:
    """Return how many bins may be cut so that no more than `allowed` values lie outside."""
    return int(np.searchsorted(np.cumsum(outermost_first), allowed, side="right"))


def least_divergence(magnitudes: Counts, levels: int) -> int:
    """Return how many bins of |values| to keep, so that `levels` codes lose least information on what is kept.

    For each number of bins: the kept counts, those outside added to the last, against the same counts averaged over
    each code's non-empty bins (Migacz 2017). Never fewer bins than levels.

    Args:
        magnitudes: counts of |values| [n], without zeros.
        levels: number of codes on one side of zero.
    """
    merge = -(-len(magnitudes) // ENTROPY_BINS)
    counts = np.add.reduceat(magnitudes, np.arange(0, len(magnitudes), merge)).astype(np.float64)
    best, least = len(counts), np.inf
    for kept in range(len(counts), levels - 1, -1):
        divergence = _divergence(counts[:kept], float(counts[kept:].sum()), levels)
        if divergence < least:
            best, least = kept, divergence
    return best * merge


def _divergence(kept: Floats, outside: float, levels: int) -> float:
    """Return sum p·log(p / q) over the kept bins; infinite where only what was outside is in the last one."""
    code = np.arange(len(kept)) * levels // len(kept)
    mass, bins = np.bincount(code, kept, levels), np.bincount(code, kept > 0, levels)
    q = np.where(kept > 0, (mass / np.maximum(bins, 1))[code], 0.0)
    p = kept.copy()
    p[-1] += outside
    held = p > 0
    if (q[held] == 0).any():
        return math.inf
    return float(np.sum(p[held] * np.log(p[held] / q[held])) / p.sum() - math.log(p.sum() / q.sum()))


def least_squares(histogram: Histogram, low: float, high: float, *, bits: int, symmetric: bool) -> tuple[float, float]:
    """Return the range inside [low, high] whose grid has the least squared error on a histogram.

    Searches the shares of both ends, coarsely on merged bins, then around the best on all of them. Values are taken
    as spread evenly inside a bin, so that the error of a candidate is exact whatever the ratio of step and bin. The
    full range is among the candidates, so the result never loses to the extremes.
    """
    edges, counts = histogram.occupied()
    merge = -(-len(counts) // COARSE_BINS)
    coarse = np.append(edges[:-1:merge], edges[-1]), np.add.reduceat(counts, np.arange(0, len(counts), merge))
    ends = (max(-low, high),) * 2 if symmetric else (-low, high)
    free = np.array([not symmetric and low < 0, symmetric or high > 0])
    best, width = np.ones(2), 1.0
    for step in range(4):
        (at, held), points = (coarse, COARSE) if step == 0 else ((edges, counts), FINE)
        offsets = np.linspace(-1 + 1 / points, 0, points) if step == 0 else np.linspace(-width, width, points)
        shares = _around(best, offsets, free)
        grids = _grids(shares * ends, bits, symmetric)
        best = shares[np.argmin(squared_error(at, held, *grids))]
        width = 1 / COARSE if step == 0 else width * 2 / (FINE - 1)
    full, chosen = (_grids(shares[None] * ends, bits, symmetric) for shares in (np.ones(2), best))
    if squared_error(edges, counts, *full)[0] <= squared_error(edges, counts, *chosen)[0]:
        return low, high
    return float(chosen[1][0]), float(chosen[2][0])


def _around(best: Floats, offsets: Floats, free: NDArray[np.bool_]) -> Floats:
    """Return candidates [k, 2]: each free share moved by each offset, all combinations."""
    moves = [offsets if one else np.zeros(1) for one in free]
    moved = best + np.stack(np.meshgrid(*moves, indexing="ij"), -1).reshape(-1, 2)
    return np.clip(moved, 0.5 / COARSE, 1.0)


def _grids(ends: Floats, bits: int, symmetric: bool) -> tuple[Floats, Floats, Floats]:
    """Return scale, lowest and highest value [k] of the grids over [-ends[:, 0], ends[:, 1]], zero on each."""
    if symmetric:
        qmax = symmetric_range(bits)[1]
        scale = ends[:, 1] / qmax
        return scale, -qmax * scale, qmax * scale
    qmax = affine_range(bits)[1]
    scale = ends.sum(1) / qmax
    zero_point = np.rint(ends[:, 0] / scale)
    return scale, -zero_point * scale, (qmax - zero_point) * scale


def squared_error(edges: Floats, counts: Counts, scale: Floats, low: Floats, high: Floats) -> Floats:
    """Return the summed squared rounding and clipping error [k] of each grid, values spread evenly inside a bin.

    The integral of (t - round(t))² from 0 to n + r is n/12 + r³/3 (n whole, |r| <= 1/2); outside the grid that of
    (t - end)² is a cube over 3.

    >>> edges, grid = np.array([0.0, 1.0, 3.0]), (np.array([1.0]), np.array([0.0]), np.array([1.0]))
    >>> float(squared_error(edges, np.array([12, 0]), *grid)[0])  # 12 values in one step: each 1/12
    1.0
    >>> float(squared_error(edges, np.array([0, 3]), *grid)[0])  # three values between 1 and 3: each 4/3 on average
    4.0
    """
    inside = np.clip(edges[None], low[:, None], high[:, None])
    steps = inside / scale[:, None]
    whole = np.rint(steps)
    integral = scale[:, None] ** 3 * (whole / 12 + (steps - whole) ** 3 / 3) + (edges[None] - inside) ** 3 / 3
    return np.sum(np.diff(integral, axis=1) * (counts / np.diff(edges)), axis=1)

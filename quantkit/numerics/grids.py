"""Number grids: where quantized values may lie, and the grids that lose least on given data.

Uniform affine: codes = clip(round(x / scale) + zero_point, qmin, qmax), x ≈ (codes - zero_point) · scale
(Jacob et al. 2018, arXiv:1712.05877). Code books: NF4 (Dettmers et al. 2023, arXiv:2305.14314) and Lloyd-Max (Lloyd
1982, Max 1960). They are oracles for tests and parts of calibrators; artifacts are the toolchains' own.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import norm

Floats = NDArray[np.float64]
COARSE, FINE = 64, 33  # steps of the scale search: over the whole range, then around the best
NF4_OFFSET = 0.9677083  # outermost probability of the published code book (bitsandbytes, create_normal_map)


def symmetric_range(bits: int) -> tuple[int, int]:
    """Return qmin, qmax of symmetric codes: ±(2^(bits-1) - 1), so that negation stays on the grid.

    >>> symmetric_range(8)
    (-127, 127)
    """
    if not 2 <= bits <= 16:
        raise ValueError(f"bits must be 2..16: got {bits}")
    return 1 - 2 ** (bits - 1), 2 ** (bits - 1) - 1


def affine_range(bits: int) -> tuple[int, int]:
    """Return qmin, qmax of affine codes: 0 and 2^bits - 1.

    >>> affine_range(4)
    (0, 15)
    """
    if not 1 <= bits <= 16:
        raise ValueError(f"bits must be 1..16: got {bits}")
    return 0, 2**bits - 1


def choose_symmetric(x: ArrayLike, *, bits: int, axis: int | None = None) -> Floats:
    """Return the scale that maps the largest magnitude onto the largest code.

    Args:
        x: values, any real dtype and shape.
        bits: code width, 2..16.
        axis: the axis that keeps its own scale (0 = per output channel); None shares one scale.

    Returns:
        scale, shape of `x` with every axis but `axis` set to 1. Never zero: an all-zero slice gets scale 1.

    Raises:
        ValueError: `bits` or `axis` out of range, `x` empty, nan or infinite.

    >>> choose_symmetric([[-2.54, 1.0]], bits=8).tolist()
    [[0.02]]
    """
    x = _finite(x)
    scale = np.max(np.abs(x), axis=_shared(x, axis), keepdims=True) / symmetric_range(bits)[1]
    return np.where(scale > 0, scale, 1.0)


def choose_symmetric_mse(x: ArrayLike, *, bits: int, axis: int | None = None) -> Floats:
    """Return the symmetric scale with the least mean squared error: it clips the tail to get a finer step.

    Searches the share of the largest magnitude that stays unclipped, first 1/64, 2/64 .. 1, then finely around the
    best of them. Share 1 is among the candidates, so the result never loses to `choose_symmetric`.

    Args and errors as `choose_symmetric`; so is the shape of the result.

    Source: the objective of Banner et al. 2019 (arXiv:1810.05723), by search instead of their closed form.

    >>> x = np.array([0.9, -1.1, 1.0, 3.0, -0.9, 1.1])
    >>> bool(choose_symmetric_mse(x, bits=2) < choose_symmetric(x, bits=2))
    True
    """
    x = _finite(x)
    full = choose_symmetric(x, bits=bits, axis=axis)
    best, least = np.ones_like(full), _mse(x, full, bits, axis)
    for steps in (np.arange(1, COARSE) / COARSE, np.linspace(-1, 1, FINE) / COARSE):
        around = np.zeros_like(best) if len(steps) == COARSE - 1 else best.copy()
        for step in steps:
            share = np.clip(around + step, 1 / (2 * COARSE), 1.0)
            error = _mse(x, full * share, bits, axis)
            better = error < least
            best, least = np.where(better, share, best), np.where(better, error, least)
    return full * best


def choose_affine(x: ArrayLike, *, bits: int, axis: int | None = None) -> tuple[Floats, NDArray[np.int64]]:
    """Return scale and zero_point that cover smallest to largest value and represent 0.0 exactly.

    Args as `choose_symmetric`, with bits 1..16. The range is widened to contain 0 (padding and ReLU need it).

    Returns:
        scale and zero_point, shape of `x` with every axis but `axis` set to 1; an all-zero slice gets 1 and 0.

    Raises:
        ValueError: as `choose_symmetric`.

    Source: Jacob et al. 2018, arXiv:1712.05877, section 3.

    >>> scale, zero_point = choose_affine([-1.0, 0.5, 2.0], bits=2)  # 3 steps over 3 units
    >>> float(scale.item()), int(zero_point.item())
    (1.0, 1)
    """
    x = _finite(x)
    qmin, qmax = affine_range(bits)
    shared = _shared(x, axis)
    low = np.minimum(np.min(x, axis=shared, keepdims=True), 0.0)
    high = np.maximum(np.max(x, axis=shared, keepdims=True), 0.0)
    scale = np.where(high > low, (high - low) / (qmax - qmin), 1.0)
    zero_point = np.clip(np.rint(qmin - low / scale), qmin, qmax)
    return scale, zero_point.astype(np.int64)


def quantize_symmetric(x: ArrayLike, scale: ArrayLike, *, bits: int) -> NDArray[np.int64]:
    """Return codes in ±(2^(bits-1) - 1), shape of `x`; ties go to even, as in onnxruntime and torch.

    >>> quantize_symmetric([0.5, 1.5, -9.0], 1.0, bits=3).tolist()
    [0, 2, -3]
    """
    return _codes(x, scale, 0, symmetric_range(bits))


def quantize_affine(x: ArrayLike, scale: ArrayLike, zero_point: ArrayLike, *, bits: int) -> NDArray[np.int64]:
    """Return codes in 0..2^bits - 1, shape of `x`; the zero point is added after rounding.

    >>> quantize_affine([-1.0, 0.0, 2.0, 7.0], 1.0, 1, bits=2).tolist()
    [0, 1, 3, 3]
    """
    return _codes(x, scale, zero_point, affine_range(bits))


def dequantize(codes: ArrayLike, scale: ArrayLike, zero_point: ArrayLike = 0) -> Floats:
    """Return (codes - zero_point) · scale as float64.

    >>> dequantize([0, 1, 3], 0.5, 1).tolist()
    [-0.5, 0.0, 1.0]
    """
    return (np.asarray(codes, np.float64) - np.asarray(zero_point)) * np.asarray(scale, np.float64)


def nf4_codebook() -> Floats:
    """Return the 16 levels of NF4, ascending from -1 to 1: equally likely quantiles of N(0, 1), with an exact zero.

    Eight quantiles above 0 and seven below, each half evenly spaced in probability from the outermost down to 1/2,
    divided by the largest.

    Source: Dettmers et al. 2023, arXiv:2305.14314, section 3; agrees with the published table to 1.1e-7.

    >>> nf4_codebook().round(4).tolist()[6:9]
    [-0.091, 0.0, 0.0796]
    """
    above = norm.ppf(np.linspace(NF4_OFFSET, 0.5, 9)[:-1])
    below = -norm.ppf(np.linspace(NF4_OFFSET, 0.5, 8)[:-1])
    return np.sort(np.concatenate([above, [0.0], below])) / above.max()


def nearest(x: ArrayLike, codebook: ArrayLike) -> NDArray[np.int64]:
    """Return for each value the index of the nearest level of an ascending code book; a tie goes to the lower level.

    >>> nearest([-5.0, 0.4, 0.5, 0.6], [0.0, 1.0]).tolist()
    [0, 0, 0, 1]
    """
    levels = np.asarray(codebook, np.float64)
    return np.searchsorted((levels[1:] + levels[:-1]) / 2, np.asarray(x, np.float64), side="left")


def lloyd_max(x: ArrayLike, levels: int, *, iterations: int = 2000) -> Floats:
    """Return the code book that k-means palettization of `x` converges to: each level is the mean of its own values.

    Starts at the quantiles of `x` and alternates nearest level and mean until the levels stand still. Sorted prefix
    sums make one step O(levels · log n). A level that loses all its values stays where it is.

    Args:
        x: values, any shape; one code book for all.
        levels: number of levels, 1..number of values.
        iterations: upper bound of steps.

    Returns:
        Levels, ascending, shape [levels].

    Raises:
        ValueError: `levels` out of range, `x` empty, nan or infinite.

    Source: Lloyd 1982, "Least squares quantization in PCM"; Max 1960.

    >>> lloyd_max([0.0, 0.2, 4.0, 4.4], 2).round(6).tolist()
    [0.1, 4.2]
    """
    values = np.sort(_finite(x), axis=None)
    if not 1 <= levels <= values.size:
        raise ValueError(f"levels must be 1..{values.size} for {values.size} values: got {levels}")
    sums = np.concatenate([[0.0], np.cumsum(values)])
    book = np.quantile(values, (np.arange(levels) + 0.5) / levels)
    for _ in range(iterations):
        edges = np.searchsorted(values, (book[1:] + book[:-1]) / 2, side="right")
        edges = np.concatenate([[0], edges, [values.size]])
        count = np.diff(edges)
        moved = np.where(count > 0, np.diff(sums[edges]) / np.maximum(count, 1), book)
        if np.array_equal(moved, book):
            break
        book = moved
    return np.asarray(book, np.float64)


def _codes(x: ArrayLike, scale: ArrayLike, zero_point: ArrayLike, span: tuple[int, int]) -> NDArray[np.int64]:
    """Return clip(round(x / scale) + zero_point, qmin, qmax) for positive scales."""
    scale = np.asarray(scale, np.float64)
    if not (scale > 0).all():
        raise ValueError(f"scale must be positive: got {scale.min()}")
    return np.clip(np.rint(_finite(x) / scale) + np.asarray(zero_point), *span).astype(np.int64)


def _mse(x: Floats, scale: Floats, bits: int, axis: int | None) -> Floats:
    """Return the mean squared round-trip error per scale."""
    qmin, qmax = symmetric_range(bits)
    back = np.clip(np.rint(x / scale), qmin, qmax) * scale
    return np.mean((back - x) ** 2, axis=_shared(x, axis), keepdims=True)


def _shared(x: Floats, axis: int | None) -> tuple[int, ...]:
    """Return the axes that share a scale: all but the kept one."""
    if axis is not None and not -x.ndim <= axis < x.ndim:
        raise ValueError(f"axis must be inside {x.ndim} axes: got {axis}")
    kept = None if axis is None else axis % x.ndim
    return tuple(i for i in range(x.ndim) if i != kept)


def _finite(x: ArrayLike) -> Floats:
    """Return `x` as float64, refused when empty, nan or infinite."""
    values = np.asarray(x, np.float64)
    if values.size == 0 or not np.isfinite(values).all():
        bad = values.size - np.count_nonzero(np.isfinite(values))
        raise ValueError(f"values must be finite and at least one: got {values.size} with {bad} nan or infinite")
    return values

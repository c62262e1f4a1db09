"""Compressed weights: every `constexpr_*` of iOS16 and iOS18, by hand and against coremltools' own decompression."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("coremltools")

from coremltools.converters.mil.mil import Builder as mb
from coremltools.converters.mil.mil import Function, types

from quantkit import mil
from quantkit.mil import package as packages
from tests.mil_cases import OPSETS, save

X = {"x": np.zeros((1, 1), np.float32)}
BIT = types.np_uint1_dtype
U2 = types.np_uint2_dtype
U4 = types.np_uint4_dtype
I4 = types.np_int4_dtype
RNG = np.random.default_rng(0)


def drawn(low, high, shape, dtype):
    return RNG.integers(low, high, shape).astype(dtype)


def affine(zero_point, scale, axis, data=None):
    data = drawn(-128, 128, (4, 6), np.int8) if data is None else data
    return lambda: mb.constexpr_affine_dequantize(quantized_data=data, zero_point=zero_point, scale=scale, axis=axis)


MASK = np.array([[1, 1, 0, 0], [1, 1, 1, 0], [0, 0, 1, 1], [1, 1, 0, 0]]).astype(BIT)
KEPT = np.array([10, 11, 3, 4, 5, 6, 7, 8, 9], np.int8)


def pruned_palette():
    """Prune, then palettize: the kept indices go through a table, then to their places."""
    mask, values = mb.constexpr_lut_to_sparse(
        indices_mask=MASK,
        indices_nonzero_data=np.array([0, 1, 1, 0, 1, 1, 0, 0, 1]).astype(BIT),
        lut=np.float32([2, 3]).reshape(1, 1, 2, 1),
    )
    return mb.constexpr_sparse_to_dense(nonzero_data=values, mask=mask)


def pruned_quantized():
    """The example of coremltools' documentation: one scale and offset per column."""
    mask, values = mb.constexpr_sparse_blockwise_shift_scale(
        data_mask=MASK,
        nonzero_data=KEPT,
        scale=np.float32([[0.1, 0.2, 0.3, 0.4]]),
        offset=np.array([[1, 2, 3, 4]], np.int8),
    )
    return mb.constexpr_sparse_to_dense(nonzero_data=values, mask=mask)


def pruned_vectors():
    mask, values = mb.constexpr_lut_to_sparse(
        indices_mask=MASK,
        indices_nonzero_data=np.array([0, 1, 1, 0, 1, 1, 0, 0, 1]).astype(BIT),
        lut=RNG.standard_normal((1, 1, 2, 3)).astype(np.float32),
        vector_axis=0,
    )
    return mb.constexpr_sparse_to_dense(nonzero_data=values, mask=mask)


def quantized_palette():
    """A table whose entries are int8 with a scale of their own: 4-bit indices into int8 codes."""
    table = np.arange(-8, 8, dtype=np.int8).reshape(1, 1, 16, 1) * 3
    indices = np.arange(16).reshape(4, 4).astype(U4)
    dense = mb.constexpr_lut_to_dense(indices=indices, lut=table)
    return mb.constexpr_blockwise_shift_scale(data=dense, scale=np.float32([[0.5], [0.25]]))


def scaled_table():
    """A table that is itself dequantized: the scale comes before the look-up."""
    table = np.arange(-8, 8, dtype=np.int8).reshape(1, 1, 16, 1)
    lut = mb.constexpr_blockwise_shift_scale(data=table, scale=np.float32(0.5).reshape(1, 1, 1, 1))
    return mb.constexpr_lut_to_dense(indices=np.arange(16).reshape(4, 4).astype(U4), lut=lut)


ROWS = np.arange(16, dtype=np.float32).reshape(4, 4) - 8
# name: (opset, build, the value by hand or None)
BUILDS = {
    "affine per tensor": ("iOS16", affine(np.int8(3), np.float32(0.5), 0), None),
    "affine by hand": (
        "iOS16",
        affine(np.uint8([1, 2]), np.float32([0.5, 10]), 0, np.uint8([[0, 255], [7, 2]])),
        [[-0.5, 127], [50, 0]],
    ),
    "affine per channel of axis 1": (
        "iOS16",
        affine(drawn(-9, 9, 6, np.int8), RNG.uniform(0.1, 1, 6).astype(np.float32), 1),
        None,
    ),
    "affine in float16": ("iOS16", affine(np.int8(3), np.float16(0.1), 0), None),
    "cast": (
        "iOS16",
        lambda: mb.constexpr_cast(source_val=np.float16([[0.1, 2]]), output_dtype="fp32"),
        np.float32(np.float16([[0.1, 2]])),
    ),
    # 2-bit indices 0 3 2 1 | 3: first byte 0b01101100, second 0b11
    "packed table of 4": (
        "iOS16",
        lambda: mb.constexpr_lut_to_dense(
            indices=np.uint8([0b01101100, 0b11]), lut=np.float32([10, 20, 30, 40]), shape=np.uint32([5])
        ),
        [10, 40, 30, 20, 40],
    ),
    "packed table of 64, across bytes": (
        "iOS16",
        lambda: mb.constexpr_lut_to_dense(
            indices=drawn(0, 256, 9, np.uint8), lut=RNG.standard_normal(64).astype(np.float32), shape=np.uint32([3, 4])
        ),
        None,
    ),
    "packed table of 256": (
        "iOS16",
        lambda: mb.constexpr_lut_to_dense(
            indices=drawn(0, 256, 12, np.uint8),
            lut=RNG.standard_normal(256).astype(np.float16),
            shape=np.uint32([3, 4]),
        ),
        None,
    ),
    # mask 0b00010110: elements 1, 2 and 4
    "packed mask": (
        "iOS16",
        lambda: mb.constexpr_sparse_to_dense(
            nonzero_data=np.float32([5, 6, 7]), mask=np.uint8([0b00010110]), shape=np.uint32([2, 3])
        ),
        [[0, 5, 6], [0, 7, 0]],
    ),
    "blockwise int4": (
        "iOS18",
        lambda: mb.constexpr_blockwise_shift_scale(
            data=drawn(-8, 8, (4, 8), np.int8).astype(I4), scale=RNG.uniform(0.1, 1, (4, 2)).astype(np.float32)
        ),
        None,
    ),
    "blockwise uint4 with offset, float16": (
        "iOS18",
        lambda: mb.constexpr_blockwise_shift_scale(
            data=drawn(0, 16, (4, 8), np.uint8).astype(U4),
            scale=RNG.uniform(0.1, 1, (2, 2)).astype(np.float16),
            offset=drawn(0, 16, (2, 2), np.uint8).astype(U4),
        ),
        None,
    ),
    "blockwise by hand": (
        "iOS18",
        lambda: mb.constexpr_blockwise_shift_scale(
            data=np.int8([[1, 2, 3, 4]]), scale=np.float32([[1, 10]]), offset=np.int8([[1, 0]])
        ),
        [[0, 1, 30, 40]],
    ),
    # the example of coremltools' documentation, two tables of four
    "a table per group": (
        "iOS18",
        lambda: mb.constexpr_lut_to_dense(
            indices=np.array([2, 3, 3, 0, 1, 0, 3, 0, 2, 1, 0, 3]).reshape(6, 2).astype(U2),
            lut=np.float32([1, 5, 9, 13, 2, 10, 18, 26]).reshape(2, 1, 4, 1),
        ),
        [[9, 13], [13, 1], [5, 1], [26, 2], [18, 10], [2, 26]],
    ),
    **{
        f"vectors along axis {axis}": (
            "iOS18",
            lambda axis=axis: mb.constexpr_lut_to_dense(
                indices=np.array([0, 0, 1, 0, 1, 1, 0, 0]).reshape(2, 2, 2).astype(BIT),
                lut=np.float32([1, 2, 3, 11, 12, 13]).reshape(1, 1, 1, 2, 3),
                vector_axis=axis,
            ),
            value,
        )
        for axis, value in {
            1: [
                [[1, 1], [2, 2], [3, 3], [11, 1], [12, 2], [13, 3]],
                [[11, 11], [12, 12], [13, 13], [1, 1], [2, 2], [3, 3]],
            ],
            2: [[[1, 2, 3, 1, 2, 3], [11, 12, 13, 1, 2, 3]], [[11, 12, 13, 11, 12, 13], [1, 2, 3, 1, 2, 3]]],
        }.items()
    },
    "mask of bits": (
        "iOS18",
        lambda: mb.constexpr_sparse_to_dense(nonzero_data=np.float32(np.arange(1, 10)), mask=MASK),
        [[1, 2, 0, 0], [3, 4, 5, 0], [0, 0, 6, 7], [8, 9, 0, 0]],
    ),
    "pruned, then palettized": ("iOS18", pruned_palette, [[2, 3, 0, 0], [3, 2, 3, 0], [0, 0, 3, 2], [2, 3, 0, 0]]),
    "pruned, then quantized": (
        "iOS18",
        pruned_quantized,
        [[0.9, 1.8, 0, 0], [0.2, 0.4, 0.6, 0], [0, 0, 0.9, 1.2], [0.7, 1.4, 0, 0]],
    ),
    "pruned, then palettized with vectors": ("iOS18", pruned_vectors, None),
    "palettized, then scaled per two rows": (
        "iOS18",
        quantized_palette,
        np.float32(ROWS * 3 * np.float32([[0.5], [0.5], [0.25], [0.25]])),
    ),
    "a table that is itself quantized": ("iOS18", scaled_table, ROWS / 2),
}


@pytest.mark.parametrize("name", BUILDS)
def test_compressed_weights_decompress_to_the_right_numbers(name, tmp_path, monkeypatch):
    """By hand where the value is small, else against coremltools' decompression, both through a saved file."""
    opset, build, by_hand = BUILDS[name]
    theirs = []

    def program(x):
        weight = build()
        theirs.append(weight.op.materialized_val_inference() if by_hand is None else None)
        return mb.add(x=mb.cast(x=weight, dtype="fp32"), y=mb.reduce_sum(x=x))

    package = save(program, X, opset, tmp_path)
    (got,) = mil.load(package).run(X).values()

    expected = np.asarray(theirs[-1] if by_hand is None else by_hand, np.float32)
    # a float16 scale: ours multiplies in float32 and rounds once, theirs computes in float16 throughout
    np.testing.assert_allclose(got, expected, rtol=2**-10 if "float16" in name else 1e-6, atol=1e-6)
    spec, _ = packages.read(package)
    assert any(op.type.startswith("constexpr_") for op in packages.operations(spec)), "the converter folded it away"


def test_every_constexpr_of_the_registry_is_built_here():
    """The kinds come from coremltools' registry."""
    kinds = {name for name, _, _ in mil.coverage() if name.startswith("constexpr_")}
    built = set()
    for opset, build, _ in BUILDS.values():
        with Function({}, opset_version=OPSETS[opset]) as function:
            build()
        built |= {op.op_type for op in function.operations}
    assert kinds <= built
    assert all(done for name, _, done in mil.coverage() if name in kinds)

"""Cases of the MIL operations that move, sort, quantize, sample or loop."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from coremltools.converters.mil.mil import Builder as mb

from tests.mil_cases import Case

RNG = np.random.default_rng(2)


def normal(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def t(array):
    return torch.from_numpy(np.ascontiguousarray(array))


def exact(name, build, expected, opset="iOS15", inferred=True):
    """A case in which nothing is computed: equality is asked for."""
    return Case(name, build, expected, opset, tolerance=0, inferred=inferred)


CASES = [
    exact("reshape with 0 and -1", lambda v: mb.reshape(x=v.x, shape=[0, -1, 2]), lambda a: a.x.reshape(2, -1, 2)),
    exact(
        "reshape, 0 counts from the right",
        lambda v: mb.reshape(x=v.row, shape=[1, 0, -1, 0]),
        lambda a: a.row.reshape(1, 1, 1, 6),
        "iOS17",
    ),
    exact(
        "reshape to a shape computed at run time",
        lambda v: mb.reshape(x=v.x, shape=v.shape24),
        lambda a: a.x.reshape(4, 6),
    ),
    exact("shape", lambda v: mb.shape(x=v.image), lambda a: [2, 4, 5, 7]),
    exact(
        "reshape_like",
        lambda v: mb.reshape_like(
            x=v.x,
            ref_tensors=(v.states, v.steps, v.states),
            begins=(1, 2, 0),
            ends=(0, 3, 1),
            end_masks=(True, False, False),
        ),
        lambda a: a.x.reshape(4, 3, 2),
        "iOS16",
    ),
    exact("transpose", lambda v: mb.transpose(x=v.image, perm=[0, 2, -1, 1]), lambda a: a.image.transpose(0, 2, 3, 1)),
    exact("expand_dims", lambda v: mb.expand_dims(x=v.x, axes=[0, -1]), lambda a: a.x[None, ..., None]),
    exact("squeeze", lambda v: mb.squeeze(x=mb.expand_dims(x=v.x, axes=[1, 3]), axes=[1, -2]), lambda a: a.x),
    exact("flatten2d", lambda v: mb.flatten2d(x=v.image, axis=-1), lambda a: a.image.reshape(40, 7)),
    exact("concat", lambda v: mb.concat(values=(v.x, v.y), axis=-2), lambda a: np.concatenate([a.x, a.y], 1)),
    exact(
        "concat interleaved",
        lambda v: mb.concat(values=(v.x, v.y), axis=1, interleave=True),
        lambda a: np.stack([a.x, a.y], 2).reshape(2, 6, 4),
        inferred=False,
    ),
    exact("stack", lambda v: mb.stack(values=(v.x, v.y), axis=-1), lambda a: np.stack([a.x, a.y], -1)),
    exact("split evenly", lambda v: mb.split(x=v.x, num_splits=2, axis=-1), lambda a: np.split(a.x, 2, -1)),
    exact("split by sizes", lambda v: mb.split(x=v.x, split_sizes=[1, 2], axis=1), lambda a: np.split(a.x, [1], 1)),
    exact("tile", lambda v: mb.tile(x=v.x, reps=[1, 2, 3]), lambda a: np.tile(a.x, (1, 2, 3))),
    exact("reverse", lambda v: mb.reverse(x=v.x, axes=[0, -1]), lambda a: a.x[::-1, :, ::-1]),
    exact(
        "reverse_sequence",
        lambda v: mb.reverse_sequence(x=v.x, lengths=[3, 1, 2], seq_axis=2, batch_axis=1),
        lambda a: np.stack(
            [np.concatenate([a.x[:, i, :n][:, ::-1], a.x[:, i, n:]], 1) for i, n in enumerate((3, 1, 2))], 1
        ),
        inferred=False,
    ),
    *(
        exact(
            f"pad {mode}",
            lambda v, m=mode: mb.pad(x=v.x, pad=[1, 2, 3, 0], mode=m, constant_val=0.5),
            lambda a, k=keys: np.pad(a.x, [(0, 0), (1, 2), (3, 0)], **k),
        )
        for mode, keys in {
            "constant": {"constant_values": 0.5},
            "reflect": {"mode": "reflect"},
            "replicate": {"mode": "edge"},
        }.items()
    ),
    exact("fill", lambda v: mb.fill(shape=v.shape24, value=2.5), lambda a: np.full((4, 6), 2.5)),
    exact("fill_like", lambda v: mb.fill_like(ref_tensor=v.x, value=3), lambda a: np.full((2, 3, 4), 3), "iOS16"),
    exact(
        "range_1d", lambda v: mb.range_1d(start=1, end=mb.squeeze(x=mb.mul(x=v.one, y=9)), step=3), lambda a: [1, 4, 7]
    ),
    exact("band_part", lambda v: mb.band_part(x=v.x, lower=1, upper=0), lambda a: np.tril(a.x) - np.tril(a.x, -2)),
    exact("band_part, all of the upper part", lambda v: mb.band_part(x=v.x, lower=0, upper=-1), lambda a: np.triu(a.x)),
    exact(
        "pixel_shuffle",
        lambda v: mb.pixel_shuffle(x=v.square_image, upscale_factor=2),
        lambda a: F.pixel_shuffle(t(a.square_image), 2).numpy(),
    ),
    exact(
        "pixel_unshuffle",
        lambda v: mb.pixel_unshuffle(x=v.square_image, downscale_factor=np.uint32(2)),
        lambda a: F.pixel_unshuffle(t(a.square_image), 2).numpy(),
        "iOS16",
    ),
    # by hand: output (y, x) of channel c comes from channel (y % 2 * 2 + x % 2) * 2 + c at (y // 2, x // 2)
    exact(
        "depth_to_space",
        lambda v: mb.depth_to_space(x=v.square_image, block_size=2),
        lambda a: np.array(
            [
                [
                    [
                        [a.square_image[0, (y % 2 * 2 + x % 2) * 2 + c, y // 2, x // 2] for x in range(8)]
                        for y in range(8)
                    ]
                    for c in range(2)
                ]
            ]
        ),
    ),
    exact(
        "space_to_depth",
        lambda v: mb.space_to_depth(x=v.square_image, block_size=2),
        lambda a: np.concatenate([a.square_image[:, :, y::2, x::2] for y in (0, 1) for x in (0, 1)], 1),
    ),
    exact(
        "space_to_batch",
        lambda v: mb.space_to_batch(x=v.square_image, block_shape=[2, 2], paddings=[[0, 0], [2, 0]]),
        lambda a: np.concatenate(
            [np.pad(a.square_image, [(0, 0), (0, 0), (0, 0), (2, 0)])[:, :, y::2, x::2] for y in (0, 1) for x in (0, 1)]
        ),
    ),
    exact(
        "batch_to_space undoes it",
        lambda v: mb.batch_to_space(
            x=mb.space_to_batch(x=v.square_image, block_shape=[2, 2], paddings=[[0, 0], [2, 0]]),
            block_shape=[2, 2],
            crops=[[0, 0], [2, 0]],
        ),
        lambda a: a.square_image,
    ),
    exact(
        "sliding_windows",
        lambda v: mb.sliding_windows(x=v.line, axis=-1, size=3, stride=2),
        lambda a: np.lib.stride_tricks.sliding_window_view(a.line, 3, -1)[:, :, ::2],
    ),
    exact(
        "crop", lambda v: mb.crop(x=v.image, crop_height=[1, 2], crop_width=[0, 3]), lambda a: a.image[:, :, 1:-2, :-3]
    ),
]
SLICES = {
    "plain": ({"begin": [0, 1, 1], "end": [2, 3, 3]}, np.s_[0:2, 1:3, 1:3]),
    "negative": ({"begin": [-1, 0, -3], "end": [2, -1, -1]}, np.s_[-1:2, 0:-1, -3:-1]),
    "masks and strides": (
        {
            "begin": [1, 9, 1],
            "end": [0, 0, 0],
            "stride": [1, 2, 2],
            "begin_mask": [False, True, False],
            "end_mask": [True, True, True],
        },
        np.s_[1:, ::2, 1::2],
    ),
    "backwards": (
        {
            "begin": [0, 0, 3],
            "end": [2, 0, 0],
            "stride": [1, -1, -2],
            "begin_mask": [False, True, False],
            "end_mask": [False, True, False],
        },
        np.s_[0:2, ::-1, 3:0:-2],
    ),
}
CASES += [
    *(
        exact(f"slice_by_index {name}", lambda v, k=keys: mb.slice_by_index(x=v.x, **k), lambda a, s=place: a.x[s])
        for name, (keys, place) in SLICES.items()
    ),
    exact(
        "slice_by_index squeezed ignores end",
        lambda v: mb.slice_by_index(
            x=v.x, begin=[0, -1, 0], end=[0, 0, 0], end_mask=[True, False, True], squeeze_mask=[False, True, False]
        ),
        lambda a: a.x[:, -1],
    ),
    exact(
        "slice_by_size",
        lambda v: mb.slice_by_size(x=v.x, begin=[0, 1, -3], size=[1, -1, 2]),
        lambda a: a.x[:1, 1:, 1:3],
    ),
]


def updated(array, place, value):
    result = array.copy()
    result[place] = value
    return result


CASES += [
    exact(
        "slice_update",
        lambda v: mb.slice_update(x=v.x, update=np.ones((2, 2, 2), np.float32), begin=[0, 1, 1], end=[2, 3, 3]),
        lambda a: updated(a.x, np.s_[0:2, 1:3, 1:3], 1),
        "iOS18",
    ),
    exact(
        "slice_update backwards",
        lambda v: mb.slice_update(
            x=v.x,
            update=mb.slice_by_index(x=v.y, begin=[0, 0, 0], end=[2, 3, 2]),
            begin=[0, 0, 3],
            end=[2, 3, 1],
            stride=[1, 1, -1],
        ),
        lambda a: updated(a.x, np.s_[0:2, 0:3, 3:1:-1], a.y[:, :, :2]),
        "iOS18",
        inferred=False,
    ),
    exact(
        "gather, negative index",
        lambda v: mb.gather(x=v.x, indices=np.array([[2, -1], [0, 1]], np.int32), axis=1),
        lambda a: a.x[:, [[2, 2], [0, 1]]],
    ),
    exact(
        "gather in batches",
        lambda v: mb.gather(x=v.x, indices=np.array([[2, 0], [1, 1]], np.int32), axis=1, batch_dims=1),
        lambda a: np.stack([a.x[0, [2, 0]], a.x[1, [1, 1]]]),
        "iOS16",
    ),
    exact("gather at run time", lambda v: mb.gather(x=v.x, indices=v.places, axis=-1), lambda a: a.x[..., [2, 0, 1]]),
    exact(
        "gather_along_axis",
        lambda v: mb.gather_along_axis(x=v.x, indices=mb.argsort(x=v.x, axis=2, ascending=True), axis=2),
        lambda a: np.sort(a.x, 2),
    ),
    exact(
        "gather_nd",
        lambda v: mb.gather_nd(x=v.x, indices=np.array([[0, 2], [1, -1]], np.int32)),
        lambda a: a.x[[0, 1], [2, -1]],
    ),
    exact(
        "gather_nd in batches",
        lambda v: mb.gather_nd(x=v.x, indices=np.array([[[2, 1]], [[0, 3]]], np.int32), batch_dims=1),
        lambda a: a.x[[[0], [1]], [[2], [0]], [[1], [3]]],
        "iOS16",
    ),
]
UFUNCS = {"add": np.add, "sub": np.subtract, "mul": np.multiply, "div": np.divide, "max": np.maximum, "min": np.minimum}


def scattered(array, index, value, ufunc):
    result = array.copy()
    if ufunc is None:
        result[index] = value
    else:
        ufunc.at(result, index, value)
    return result


# `scatter` with a place twice: repeated indices accumulate; `update` has each place once
DATA = normal(2, 3, 4)
for mode, ufunc in {**UFUNCS, "update": None}.items():
    CASES += [
        Case(
            f"scatter {mode}",
            lambda v, m=mode, r=ufunc is None: mb.scatter(
                data=v.x, indices=[1, 2 if r else 1, 0], updates=DATA, axis=1, mode=m
            ),
            lambda a, f=ufunc: scattered(a.x, np.s_[:, [1, 2 if f is None else 1, 0]], DATA, f),
        ),
        Case(
            f"scatter_along_axis {mode}",
            lambda v, m=mode: mb.scatter_along_axis(
                data=v.x,
                indices=np.tile(np.array([[3], [0], [2]], np.int32), (2, 1, 1)),
                updates=DATA[:, :, :1].copy(),
                axis=2,
                mode=m,
            ),
            lambda a, f=ufunc: scattered(a.x, np.s_[:, [0, 1, 2], [3, 0, 2]], DATA[:, :, 0], f),
            inferred=mode == "update",
        ),
        Case(
            f"scatter_nd {mode}",
            lambda v, m=mode: mb.scatter_nd(
                data=v.x, indices=np.array([[1, 2], [0, 1]], np.int32), updates=DATA[0, :2].copy(), mode=m
            ),
            lambda a, f=ufunc: scattered(a.x, ([1, 0], [2, 1]), DATA[0, :2], f),
        ),
    ]
CASES += [
    exact("argsort descends", lambda v: mb.argsort(x=v.x, axis=1), lambda a: np.argsort(-a.x, 1)),
    exact(
        "topk",
        lambda v: mb.topk(x=v.x, k=2, axis=-1),
        lambda a: [-np.sort(-a.x, -1)[..., :2], np.argsort(-a.x, -1)[..., :2]],
    ),
    exact(
        "topk ascending, values only",
        lambda v: mb.topk(x=v.x, k=2, axis=1, ascending=True, return_indices=False),
        lambda a: np.sort(a.x, 1)[:, :2],
        "iOS16",
    ),
    Case("cumsum", lambda v: mb.cumsum(x=v.x, axis=1), lambda a: np.cumsum(a.x, 1)),
    Case(
        "cumsum exclusive, reverse",
        lambda v: mb.cumsum(x=v.x, axis=2, exclusive=True, reverse=True),
        lambda a: np.flip(np.cumsum(np.flip(a.x, 2), 2), 2) - a.x,
        inferred=False,
    ),
    exact("non_zero", lambda v: mb.non_zero(x=mb.relu(x=v.x)), lambda a: np.argwhere(a.x > 0), inferred=False),
    exact(
        "one_hot",
        lambda v: mb.one_hot(indices=v.places, one_hot_vector_size=4, axis=0, on_value=2.0, off_value=-1.0),
        lambda a: np.where(np.arange(4)[:, None] == [2, 0, 1], 2, -1),
    ),
]


def quantized(x, scale, zero_point, low, high):
    return np.clip(np.round(x / scale) + zero_point, low, high)


SCALES, ZEROS = np.array([0.01, 0.02, 0.5], np.float32), np.array([3, 0, -5], np.int8)
CASES += [
    exact(
        "quantize per channel",
        lambda v: mb.quantize(input=v.x, scale=SCALES, zero_point=ZEROS, axis=1, output_dtype="int8"),
        lambda a: quantized(a.x, SCALES[:, None], ZEROS[:, None].astype(int), -128, 127),
        "iOS17",
    ),
    exact(
        "quantize per tensor clips",
        lambda v: mb.quantize(input=v.x, scale=np.float32(0.004), zero_point=np.uint8(128), output_dtype="uint8"),
        lambda a: quantized(a.x, np.float32(0.004), 128, 0, 255),
        "iOS17",
    ),
    Case(
        "dequantize",
        lambda v: mb.dequantize(
            input=mb.quantize(input=v.x, scale=SCALES, zero_point=ZEROS, axis=1, output_dtype="int8"),
            scale=SCALES,
            zero_point=ZEROS,
            axis=1,
        ),
        lambda a: (
            (quantized(a.x, SCALES[:, None], ZEROS[:, None].astype(int), -128, 127) - ZEROS[:, None]) * SCALES[:, None]
        ),
        "iOS17",
    ),
]


def interpolated(image, size, align):
    return F.interpolate(t(image), size=size, mode="bilinear", align_corners=align).numpy()


CASES += [
    Case(
        "resize_bilinear UNALIGN_CORNERS",
        lambda v: mb.resize_bilinear(
            x=v.image, target_size_height=9, target_size_width=4, sampling_mode="UNALIGN_CORNERS"
        ),
        lambda a: interpolated(a.image, (9, 4), False),
        tolerance=1e-5,
    ),
    Case(
        "resize_bilinear STRICT_ALIGN_CORNERS",
        lambda v: mb.resize_bilinear(
            x=v.image, target_size_height=9, target_size_width=4, sampling_mode="STRICT_ALIGN_CORNERS"
        ),
        lambda a: interpolated(a.image, (9, 4), True),
        tolerance=1e-5,
    ),
    # by hand, the table in coremltools' documentation: two pixels 0 and 1 to five points
    *(
        Case(
            f"resize_bilinear {mode} by hand",
            lambda v, m=mode: mb.resize_bilinear(
                x=mb.add(
                    x=mb.mul(x=mb.slice_by_size(x=v.image, begin=[0, 0, 0, 0], size=[1, 1, 1, 2]), y=0.0),
                    y=np.float32([0, 1]).reshape(1, 1, 1, 2),
                ),
                target_size_height=1,
                target_size_width=5,
                sampling_mode=m,
            ),
            lambda a, p=points: np.float32(p).reshape(1, 1, 1, 5),
            tolerance=1e-6,
        )
        for mode, points in {
            "DEFAULT": [0, 0.4, 0.8, 1, 1],
            "OFFSET_CORNERS": [0.1, 0.3, 0.5, 0.7, 0.9],
            "ALIGN_CORNERS": [0, 0.25, 0.5, 0.75, 1],
        }.items()
    ),
    exact(
        "resize_nearest_neighbor",
        lambda v: mb.resize_nearest_neighbor(x=v.image, target_size_height=8, target_size_width=3),
        lambda a: F.interpolate(t(a.image), size=(8, 3), mode="nearest-exact").numpy(),
    ),
    exact(
        "upsample_nearest_neighbor",
        lambda v: mb.upsample_nearest_neighbor(x=v.image, scale_factor_height=2, scale_factor_width=3),
        lambda a: a.image.repeat(2, 2).repeat(3, 3),
    ),
    Case(
        "upsample_bilinear",
        lambda v: mb.upsample_bilinear(x=v.image, scale_factor_height=2, scale_factor_width=3, align_corners=False),
        lambda a: interpolated(a.image, (10, 21), False),
        tolerance=1e-5,
    ),
    Case(
        "upsample_bilinear, corners aligned",
        lambda v: mb.upsample_bilinear(x=v.image, scale_factor_height=2, scale_factor_width=3, align_corners=True),
        lambda a: interpolated(a.image, (10, 21), True),
        tolerance=1e-5,
    ),
    Case(
        "resize",
        lambda v: mb.resize(
            x=v.image,
            shape=[1, 10, 0],
            resized_dims=np.uint32(2),
            interpolation_mode="LINEAR",
            sampling_mode="UNALIGN_CORNERS",
        ),
        lambda a: interpolated(a.image, (10, 7), False),
        "iOS17",
        tolerance=1e-5,
    ),
    exact(
        "resize, nearest",
        lambda v: mb.resize(
            x=v.image,
            shape=[8, 3],
            resized_dims=np.uint32(2),
            interpolation_mode="NEAREST_NEIGHBOR",
            sampling_mode="DEFAULT",
        ),
        lambda a: F.interpolate(t(a.image), size=(8, 3), mode="nearest-exact").numpy(),
        "iOS17",
    ),
]
POINTS = RNG.uniform(-1.4, 1.4, (2, 3, 6, 2)).astype(np.float32)
MATRIX = np.float32([[0.9, 0.2, 0.1, -0.3, 1.1, 0.0]])
CASES += [
    *(
        Case(
            f"resample {mode}, {padding}, aligned {align}",
            lambda v, m=mode, p=padding, c=align: mb.resample(
                x=v.image,
                coordinates=POINTS,
                sampling_mode=m,
                padding_mode=p,
                padding_value=0.0,
                coordinates_mode="normalized_minus_one_to_one",
                align_corners=c,
            ),
            lambda a, m=mode, p=theirs, c=align: F.grid_sample(t(a.image), t(POINTS), m, p, c).numpy(),
            tolerance=2e-5,
        )
        for mode in ("bilinear", "nearest")
        # torch reflects about pixel centres when corners are aligned, about pixel edges when not
        for padding, theirs, align in (
            ("constant", "zeros", True),
            ("border", "border", False),
            ("reflection", "reflection", True),
            ("symmetric", "reflection", False),
        )
    ),
    Case(
        "affine",
        lambda v: mb.affine(
            x=v.image,
            transform_matrix=MATRIX,
            output_height=4,
            output_width=6,
            sampling_mode="bilinear",
            padding_mode="constant",
            padding_value=0.0,
            coordinates_mode="normalized_minus_one_to_one",
            align_corners=True,
        ),
        lambda a: F.grid_sample(
            t(a.image),
            F.affine_grid(t(MATRIX.reshape(1, 2, 3)).expand(2, 2, 3), [2, 4, 4, 6], True),
            "bilinear",
            "zeros",
            True,
        ).numpy(),
        tolerance=2e-5,
    ),
]
W_IH, W_HH, W_B = normal(16, 3), normal(16, 4), normal(16)
W_IH2, W_HH2, W_B2 = normal(16, 3), normal(16, 4), normal(16)
PEEP = normal(12)
G_IH, G_HH, G_B = normal(12, 3), normal(12, 4), normal(12)
R_IH, R_HH, R_B = normal(4, 3), normal(4, 4), normal(4)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def lstm(x, h, c, weights, peephole=None, clip=None, outer=np.tanh):
    """The equations of MIL's documentation, gates [input, forget, output, cell], step by step in NumPy."""
    w, u, b = weights
    p_i, p_f, p_o = np.split(np.zeros(12) if peephole is None else peephole, 3)
    states = []
    for step in x:
        i, f, o, z = np.split(step @ w.T + h @ u.T + b, 4, axis=-1)
        c = sigmoid(f + p_f * c) * c + sigmoid(i + p_i * c) * np.tanh(z)
        c = c if clip is None else np.clip(c, -clip, clip)
        h = sigmoid(o + p_o * c) * outer(c)
        states.append(h)
    return np.stack(states), h, c


def both(x, h, c):
    ahead = lstm(x, h[:, :4], c[:, :4], (W_IH, W_HH, W_B))
    behind = lstm(x[::-1], h[:, 4:], c[:, 4:], (W_IH2, W_HH2, W_B2))
    return [
        np.concatenate([ahead[0], behind[0][::-1]], -1),
        *(np.concatenate([ahead[k], behind[k]], -1) for k in (1, 2)),
    ]


def gru(x, h):
    """h' = (1 - z) o + z h with o = tanh(W x + b + R (r h)), gates [reset, output, update]."""
    states = []
    for step in x:
        (w_r, w_o, w_z), (r_r, r_o, r_z) = np.split(step @ G_IH.T + G_B, 3, axis=-1), np.split(G_HH, 3)
        r, z = sigmoid(w_r + h @ r_r.T), sigmoid(w_z + h @ r_z.T)
        h = (1 - z) * np.tanh(w_o + (r * h) @ r_o.T) + z * h
        states.append(h)
    return [np.stack(states), h]


def rnn(x, h):
    states = []
    for step in x:
        h = np.maximum(step @ R_IH.T + R_B + h @ R_HH.T, 0)
        states.append(h)
    return [np.stack(states), h]


ONE = {"weight_ih": W_IH, "weight_hh": W_HH, "bias": W_B}
TWO = {"weight_ih_back": W_IH2, "weight_hh_back": W_HH2, "bias_back": W_B2}
LOOSE = 1e-5
CASES += [
    Case(
        "lstm",
        lambda v: mb.lstm(x=v.steps, initial_h=v.states, initial_c=v.states, output_sequence=True, **ONE),
        lambda a: lstm(a.steps, a.states, a.states, (W_IH, W_HH, W_B)),
        tolerance=LOOSE,
    ),
    Case(
        "lstm, last state only",
        lambda v: mb.lstm(x=v.steps, initial_h=v.states, initial_c=v.states, **ONE)[0],
        lambda a: lstm(a.steps, a.states, a.states, (W_IH, W_HH, W_B))[1][None],
        tolerance=LOOSE,
    ),
    Case(
        "lstm reverse keeps the order of processing",
        lambda v: mb.lstm(
            x=v.steps, initial_h=v.states, initial_c=v.states, direction="reverse", output_sequence=True, **ONE
        ),
        lambda a: lstm(a.steps[::-1], a.states, a.states, (W_IH, W_HH, W_B)),
        tolerance=LOOSE,
    ),
    Case(
        "lstm bidirectional",
        lambda v: mb.lstm(
            x=v.steps,
            initial_h=mb.concat(values=(v.states, v.states), axis=1),
            initial_c=mb.concat(values=(v.states, v.states), axis=1),
            direction="bidirectional",
            output_sequence=True,
            **ONE,
            **TWO,
        ),
        lambda a: both(a.steps, np.tile(a.states, 2), np.tile(a.states, 2)),
        tolerance=LOOSE,
    ),
    Case(
        "lstm with peepholes, clip and relu",
        lambda v: mb.lstm(
            x=v.steps,
            initial_h=v.states,
            initial_c=v.states,
            peephole=PEEP,
            clip=np.float32(0.3),
            activation="relu",
            output_sequence=True,
            **ONE,
        ),
        lambda a: lstm(a.steps, a.states, a.states, (W_IH, W_HH, W_B), PEEP, 0.3, lambda c: np.maximum(c, 0)),
        tolerance=LOOSE,
    ),
    Case(
        "gru",
        lambda v: mb.gru(x=v.steps, initial_h=v.states, weight_ih=G_IH, weight_hh=G_HH, bias=G_B, output_sequence=True),
        lambda a: gru(a.steps, a.states),
        tolerance=LOOSE,
    ),
    Case(
        "rnn",
        lambda v: mb.rnn(
            x=v.steps,
            initial_h=v.states,
            weight_ih=R_IH,
            weight_hh=R_HH,
            bias=R_B,
            activation="relu",
            output_sequence=True,
        ),
        lambda a: rnn(a.steps, a.states),
        tolerance=LOOSE,
    ),
]


def listed(v):
    ls = mb.make_list(init_length=2, elem_shape=(4,), dtype="fp32")
    row = mb.slice_by_index(x=v.states, begin=[1, 0], end=[2, 4], squeeze_mask=[True, False])
    ls = mb.list_write(ls=ls, index=3, value=row)
    ls = mb.list_scatter(ls=ls, indices=[1, 0], value=v.states)
    return [mb.list_read(ls=ls, index=2), mb.list_gather(ls=ls, indices=[3, 0, 1]), mb.list_length(ls=ls)]


def doubled(v):
    """Double until the counter reaches 4, starting at 1: three times."""
    return mb.while_loop(
        _cond=lambda i, x: mb.less(x=mb.squeeze(x=i), y=4),
        _body=lambda i, x: (mb.add(x=i, y=1), mb.mul(x=x, y=2.0)),
        loop_vars=(v.one, v.x),
    )


CASES += [
    exact(
        "make_list, list_write, list_scatter, list_read, list_gather, list_length",
        listed,
        lambda a: [np.zeros(4), np.stack([a.states[1], a.states[1], a.states[0]]), [4]],
        inferred=False,
    ),
    exact("while_loop", doubled, lambda a: [[4], 8 * a.x], inferred=False),
    Case(
        "cond, true",
        lambda v: mb.cond(
            pred=mb.squeeze(x=mb.greater(x=v.one, y=0)),
            _true_fn=lambda: mb.add(x=v.x, y=v.y),
            _false_fn=lambda: mb.sub(x=v.x, y=v.y),
        ),
        lambda a: a.x + a.y,
        inferred=False,
    ),
    Case(
        "cond, false",
        lambda v: mb.cond(
            pred=mb.squeeze(x=mb.less(x=v.one, y=0)),
            _true_fn=lambda: mb.add(x=v.x, y=v.y),
            _false_fn=lambda: mb.sub(x=v.x, y=v.y),
        ),
        lambda a: a.x - a.y,
        inferred=False,
    ),
]

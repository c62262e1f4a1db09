"""The reference executor for Core ML programs: runs what a .mlpackage says, anywhere.

Core ML predicts only on Apple hardware. This package reads a *saved* package (the file that ships, not the model in
memory), and carries out its MIL program operation by operation with torch on the CPU. So a quantized artifact's quality
is measured where no Mac is, and a Mac's answer has something to be compared with.

    program = load(Path("model.mlpackage"))
    outputs = program.run({"x": x})                  # NumPy in, NumPy out
    state = program.new_state(); program.run({"x": x}, state)   # a KV cache lives in `state`
    program.run({"x": x}, watch=observer)            # every intermediate tensor: activation ranges off a Mac

How it gets there, one file per stage:

    package.py   manifest, protobuf, weight.bin; every blob's place and length checked -> CorruptFile
    table.py     MIL name -> kernel; a kernel is a torch function whose parameters have MIL's names
    ops_*.py     the kernels, grouped by kind
    plan.py      a PyMIL block -> steps; constants and `constexpr_*` (compressed weights) worked out once; rounding
    program.py   inputs, outputs, states, `run`

Precision. MIL says for every tensor whether it is float16 or float32. A kernel computes in float32 (products are summed
in float32 as well) and its result is rounded to float16 where MIL says so. Hardware may round more often (the Neural
Engine accumulates in float16 in places) or less often (fused operations): the last bits differ, and no executor but the
device itself can give them. `precision="float32"` skips all rounding of intermediates, which tells what rounding costs
from what quantization costs.

What is not here is an error at load, with the names of all operations that are missing; `coverage()` lists them all.

Where MIL differs from torch (each is a test):

    lstm             gates are [input, forget, output, cell], torch has [input, forget, cell, output]; one bias
    gru              gates are [reset, output, update]; the reset gate acts on the state before its weights
    direction        `reverse` leaves the outputs in the order of processing, `bidirectional` puts them back
    conv             `pad` is [before, after] per dimension, first dimension first; `same` puts the odd one after,
                     `same_lower` before
    avg_pool         padding counts in the average unless `exclude_padding_from_average`
    inverse, log, rsqrt    add an epsilon to x first; its default is not 0 (1e-4, 1e-45, 1e-12)
    gelu             three modes; SIGMOID_APPROXIMATION is x * sigmoid(1.702 x)
    layer_norm       gamma and beta take the shape of the normalized axes, which need not be the last ones
    real_div         of integers cuts towards zero; floor_div and mod round towards minus infinity
    cast             float to integer cuts towards zero; to bool is "not 0"
    reshape          0 keeps the input's size at that place (counted from the last axis), -1 is worked out
    slice_by_index   masks replace begin or end; a squeezed axis ignores end and stride
    topk, argsort    descending unless asked otherwise
    scatter          the default mode adds; repeated indices accumulate
    resize           five modes of placing the points; nearest neighbours are torch's `nearest-exact`, but
                     `upsample_nearest_neighbor` is torch's `nearest`
    depth_to_space   the place in the block is the slower part of the channel; `pixel_shuffle` is torch's

Left out on purpose: random numbers (Apple's generator is not public), `classify` (it gives a dictionary),
`non_maximum_suppression` and `crop_resize` (padding and borders are not documented), `conv_quantized` (experimental)
and GRUs with `reset_after`. `scripts/mil_apple_tests.py` runs coremltools' own operation tests, whose answers were
compared with Core ML on Apple hardware, on this executor.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from quantkit import extras

if TYPE_CHECKING:
    from quantkit.mil.program import Precision, Program


def load(package: Path, precision: Precision = "as_stored") -> Program:
    """Read a saved .mlpackage and return its program, ready to run.

    Args:
        precision: `as_stored` rounds to float16 where the program says so; `float32` rounds no intermediate.

    Raises:
        CorruptFile: missing, truncated or inconsistent, or no ML program.
        Unsupported: it uses operations that the executor lacks; the message names all of them and where.
        MissingExtra: coremltools is not installed.
    """
    extras.require("coremltools")
    from quantkit.mil import program

    return program.load(package, precision)


def coverage() -> list[tuple[str, str, bool]]:
    """Return (operation, oldest opset of that version, done) for every operation that coremltools registers."""
    extras.require("coremltools")
    from quantkit.mil.table import known

    have = known()
    return [(name, opset, name in have) for name, opset in versions()]


def versions() -> list[tuple[str, str]]:
    """Return every version of every operation of coremltools' registry, as (operation, opset it came with)."""
    import coremltools.converters.mil.mil.ops.defs  # noqa: F401  registers them
    from coremltools.converters.mil.mil.ops.registry import SSAOpRegistry

    rows: list[tuple[str, str]] = []
    for name, by_opset in sorted(SSAOpRegistry.core_ops.items()):
        seen: list[type] = []
        for opset in sorted(by_opset):
            if by_opset[opset] not in seen:
                seen.append(by_opset[opset])
                rows.append((name, opset.name))
    return rows

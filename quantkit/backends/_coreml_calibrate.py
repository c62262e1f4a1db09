"""Ranges of activations from calibration items, taken by the reference executor on the saved float package.

coremltools takes them by predicting, on a Mac only; and version 9 keeps the range of the last sample alone (it
overwrites minimum and maximum before it compares). So its graph pass is given ours, on every machine: one plan gives
one artifact.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

import numpy as np

from quantkit import extras, mil
from quantkit.backends._coreml_lower import program_of, quiet
from quantkit.backends._coreml_session import fitted
from quantkit.contracts import steps
from quantkit.errors import CalibrationError, Unsupported
from quantkit.numerics.ranges import AVERAGING, PERCENTILE, Observer
from quantkit.scheme import Ranges, Scheme

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch

    from quantkit.contracts import Split
    from quantkit.mil.program import Program

Found = dict[str, dict[str, float]]  # MIL variable -> {"rmin": ..., "rmax": ...}, the form of coremltools' pass
BITS = 8
SAYINGS: dict[Ranges, str] = {
    "minmax": "minimum and maximum",
    "moving_average": f"minimum and maximum, averaged with weight {AVERAGING} for the next item,",
    "percentile": f"{PERCENTILE}th percentiles",
    "entropy": "least loss of information",
    "mse": "least squared error",
}
STEPWISE_ITEMS = 8  # of a network that is called once a position: 8 pieces of 128 tokens are 1,024 calls


def way(schemes: Mapping[str, Scheme | None]) -> Ranges:
    """Return how all layers with static activations take their ranges.

    Raises:
        Unsupported: in different ways; a range belongs to a tensor between layers, so one way serves the program.
    """
    ways = {scheme.ranges for scheme in schemes.values() if scheme and scheme.activations == "static"}
    if len(ways) > 1:
        raise Unsupported(f"one program takes its ranges in one way: the plan has {', '.join(sorted(ways))}")
    return ways.pop()


def ranges(package: Path, split: Split | None, kind: Ranges = "minmax") -> Found:
    """Return the range of every float tensor of the program over all calibration items, around zero.

    Raises:
        CalibrationError: no items, or a value that is not finite.
    """
    if split is None or not len(split) or not split.inputs:
        raise CalibrationError("static int8 activations need calibration items: got none; give the data set some")
    program = mil.load(package)
    observers: dict[str, Observer] = {}
    bad: dict[str, None] = {}

    def see(name: str, tensor: torch.Tensor) -> None:
        if not tensor.is_floating_point() or not tensor.numel():
            return
        ends = np.array([float(x) for x in tensor.aminmax()])
        if not np.isfinite(ends).all():
            bad[name] = None
            return
        observer = observers.setdefault(name, Observer(kind, BITS, symmetric=True))
        observer.observe(ends if kind in ("minmax", "moving_average") else tensor.float().numpy())

    run(program, split, see)
    if bad:
        raise CalibrationError(
            f"calibration gives nan or inf in {len(bad)} tensors, the first is {next(iter(bad))!r}: check the items "
            "for values that float16 cannot hold"
        )
    chosen = {name: observer.range() for name, observer in observers.items()}
    return {name: {"rmin": low, "rmax": high} for name, (low, high) in chosen.items()}


def run(program: Program, split: Split, see: Any) -> None:
    """Run all items one by one; a network with states position by position, each item from an empty state."""
    stepwise = bool(program.states)
    for index in range(min(len(split), STEPWISE_ITEMS) if stepwise else len(split)):
        item = split.item(index)
        state = program.new_state() if stepwise else None
        for call in steps(item) if stepwise else [item]:
            inputs = fitted(call, program.inputs)
            for name, value in inputs.items():
                if value.dtype.kind == "f" and not np.isfinite(value).all():
                    raise CalibrationError(f"calibration item {split.ids[index]} has nan or inf in input {name!r}")
            program.run(inputs, state, see)


def quantize_activations(model: Any, config: Any, found: Found) -> Any:
    """Return the model with int8 activations by `linear_quantize_activations`, from the given ranges.

    The function has no parameter for them: what it calls to calibrate is private, and replaced while it runs.
    """
    from coremltools.optimize import _utils as rules
    from coremltools.optimize.coreml import _post_training_quantization as passes

    concats = [
        [*(x.name for x in op.inputs["values"]), op.outputs[0].name]
        for op in program_of(model).functions["main"].operations
        if op.op_type == "concat" and all(x.name in found for x in op.inputs["values"])
    ]
    version = extras.version("coremltools")
    try:
        rules._adjust_concat_surrounding_activation_stats(concats, found)  # one range on all sides of a concat
        with mock.patch.object(passes, "_get_activation_calibration_stats", return_value=found), quiet():
            return passes.linear_quantize_activations(model, config, [])
    except AttributeError as error:
        raise Unsupported(f"coremltools {version} calibrates in another way than 9.0 ({error}): use 9.0") from error
    except KeyError as error:
        raise Unsupported(f"coremltools asks for the range of {error}, which no calibration item reached") from error

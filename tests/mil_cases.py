"""How the tests of the reference executor make programs, and one case per MIL operation.

A case builds an operation with coremltools' Builder and says in NumPy or torch what must come out. All cases of one
opset go into one program, which is converted, saved and read back.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import coremltools as ct
import numpy as np
from coremltools.converters.mil.mil import Builder as mb
from coremltools.converters.mil.mil import types

OPSETS = {"iOS15": ct.target.iOS15, "iOS16": ct.target.iOS16, "iOS17": ct.target.iOS17, "iOS18": ct.target.iOS18}
MIL = {"float32": types.fp32, "float16": types.fp16, "int32": types.int32}


def save(function, inputs: dict[str, np.ndarray], opset: str, folder: Path, pipeline=None) -> Path:
    """Convert a function of MIL variables without any optimization and return the saved package."""
    specs = [mb.TensorSpec(shape=value.shape, dtype=MIL[value.dtype.name]) for value in inputs.values()]
    namespace: dict[str, Any] = {"function": function}
    exec(f"def program({', '.join(inputs)}):\n    return function({', '.join(inputs)})", namespace)  # named inputs
    program = mb.program(input_specs=specs, opset_version=OPSETS[opset])(namespace["program"])
    with mock.patch("gc.collect"):  # the converter's, seconds long in a process that has much loaded
        model = ct.convert(
            program,
            source="milinternal",
            convert_to="mlprogram",
            minimum_deployment_target=OPSETS[opset],
            pass_pipeline=pipeline or ct.PassPipeline.EMPTY,
            skip_model_load=True,
        )
    package = folder / "model.mlpackage"
    model.save(str(package))
    return package


@dataclass(frozen=True)
class Case:
    """An operation and what it must give.

    Args:
        build: MIL variables of the inputs -> one variable, or several.
        expected: arrays of the inputs -> one array, or several.
        tolerance: relative to the largest expected value; 0 asks for equality.
    """

    name: str
    build: Callable[[SimpleNamespace], Any]
    expected: Callable[[SimpleNamespace], Any]
    opset: str = "iOS15"
    tolerance: float = 3e-6
    inferred: bool = True


def several(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else [value]


def as_output(var: Any) -> Any:
    """Return a variable in a form that a model may give out: no booleans or small integers, at least one axis."""
    if var.dtype not in (types.fp32, types.fp16, types.int32):
        var = mb.cast(x=var, dtype="int32")
    return mb.expand_dims(x=var, axes=[0]) if var.rank == 0 else mb.identity(x=var)


def draw() -> dict[str, np.ndarray]:
    """Return the inputs that the cases use."""
    rng = np.random.default_rng(0)

    def normal(*shape):
        return rng.standard_normal(shape).astype(np.float32)

    return {
        "x": normal(2, 3, 4),
        "y": normal(2, 3, 4),
        "unit": rng.uniform(-0.95, 0.95, (2, 3, 4)).astype(np.float32),
        "positive": rng.uniform(0.1, 3, (2, 3, 4)).astype(np.float32),
        "image": normal(2, 4, 5, 7),
        "line": normal(2, 4, 9),
        "volume": normal(1, 2, 4, 5, 6),
        "square_image": normal(1, 8, 4, 4),
        "steps": normal(5, 2, 3),
        "states": normal(2, 4),
        "row": normal(1, 6),
        "whole": rng.integers(-9, 10, (2, 3, 4)).astype(np.int32),
        "divisor": np.array([3, -3, 2, -2], dtype=np.int32),
        "places": np.array([2, 0, 1], dtype=np.int32),
        "shape24": np.array([4, 6], dtype=np.int32),
        "one": np.array([1], dtype=np.int32),
    }

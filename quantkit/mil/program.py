"""A loaded Core ML program: what goes in, what comes out, and `run`. The story is in `quantkit.mil`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from quantkit.errors import Unsupported
from quantkit.mil import package as packages
from quantkit.mil.plan import CONTAINERS, Block, Compiler, Env, dtype_name, execute, fixed_shape
from quantkit.mil.table import Cell, known

Precision = Literal["as_stored", "float32"]
NUMPY = {"fp16": "float16", "fp32": "float32"}  # MIL's name of a type is otherwise NumPy's


@dataclass(frozen=True, slots=True)
class Tensor:
    """An input, output or state: its name, its shape (-1 where flexible) and its NumPy type."""

    name: str
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True, slots=True)
class State:
    """All states of a program, as one run leaves them to the next; made by `Program.new_state`."""

    cells: Mapping[str, Cell]


class Program:
    """The function that Core ML would run, ready to run here; made by `quantkit.mil.load`."""

    def __init__(self, function: Any, precision: Precision) -> None:
        compiler = Compiler(rounding=precision == "as_stored")
        placeholders = {name: holder.outputs[0] for name, holder in function.placeholder_inputs.items()}
        self._block: Block = compiler.block(function, placeholders.values())
        self._start: Env = compiler.start
        self._places = dict(zip(placeholders, self._block.inputs))
        states = [name for name, var in placeholders.items() if is_state(var)]
        self.inputs = tuple(described(var) for name, var in placeholders.items() if name not in states)
        self.outputs = tuple(described(var, precision) for var in function.outputs)
        self.states = tuple(described_state(placeholders[name]) for name in states)

    def new_state(self) -> State:
        """Return a state of zeros, as Core ML's `make_state` does."""
        return State({t.name: Cell(torch.zeros(t.shape, dtype=CONTAINERS[mil_name(t.dtype)])) for t in self.states})

    def run(
        self,
        inputs: Mapping[str, np.ndarray],
        state: State | None = None,
        watch: Callable[[str, torch.Tensor], None] | None = None,
    ) -> dict[str, np.ndarray]:
        """Run once and return the outputs by name.

        Args:
            inputs: name -> array of the declared shape and type.
            state: read and updated in place; needed when the program has states.
            watch: called with the MIL name and value of every tensor that is computed, in order (never with constants).
                It must not change the tensor. Floats come as float32.

        Raises:
            ValueError: a missing or unknown input, a wrong shape or type, a missing state.
        """
        with torch.inference_mode():
            env = list(self._start)
            for name, value in self._checked(inputs, state).items():
                env[self._places[name]] = value
            execute(self._block, env, watch)
            return {t.name: array_of(env[slot], t) for t, slot in zip(self.outputs, self._block.outputs)}

    def _checked(self, inputs: Mapping[str, np.ndarray], state: State | None) -> dict[str, Any]:
        names = [t.name for t in self.inputs]
        if sorted(inputs) != sorted(names):
            raise ValueError(f"inputs must be named {names}: got {sorted(inputs)}")
        given = state.cells if state is not None else {}
        if sorted(given) != sorted(t.name for t in self.states):
            raise ValueError(
                f"state must hold {[t.name for t in self.states]}: got {sorted(given)}; make one with new_state()"
            )
        return {**{t.name: tensor_from(inputs[t.name], t) for t in self.inputs}, **given}


def load(package: Path, precision: Precision = "as_stored") -> Program:
    """Read a saved .mlpackage and prepare it; see `quantkit.mil.load`."""
    if precision not in ("as_stored", "float32"):
        raise ValueError(f"precision must be 'as_stored' or 'float32': got {precision!r}")
    spec, weights = packages.read(package)
    lacking = missing(packages.main(spec, package))
    if lacking:
        places = "; ".join(f"{kind} ({', '.join(names)})" for kind, names in sorted(lacking.items()))
        raise Unsupported(f"{package} uses operations that the reference executor lacks: {places}")
    with torch.inference_mode():
        program = packages.to_pymil(package, spec, weights)
        return Program(program.functions[spec.description.defaultFunctionName or "main"], precision)


def missing(block: Any) -> dict[str, list[str]]:
    """Return the operations of a block that cannot be executed: MIL name -> names of their outputs."""
    lacking: dict[str, list[str]] = {}
    have = known() | {"write_state"}  # coremltools' reader turns it into coreml_update_state
    for op in packages.nested(block):
        if op.type not in have:
            lacking.setdefault(op.type, []).append(", ".join(output.name for output in op.outputs))
    return lacking


def is_state(var: Any) -> bool:
    from coremltools.converters.mil.mil import types

    return bool(types.is_state(var.sym_type))


def described(var: Any, precision: Precision = "as_stored") -> Tensor:
    """Return the public description of a variable; in float32 precision, float16 outputs are float32."""
    dtype = dtype_name(var)
    if dtype == "fp16" and precision == "float32":
        dtype = "fp32"
    return Tensor(var.name, tuple(-1 if n is None else n for n in fixed_shape(var)), NUMPY.get(dtype, dtype))


def described_state(var: Any) -> Tensor:
    from coremltools.converters.mil.mil import types

    inner = var.sym_type.wrapped_type()
    dtype = str(types.builtin_to_string(inner.get_primitive()))
    return Tensor(var.name, tuple(int(n) for n in inner.get_shape()), NUMPY.get(dtype, dtype))


def mil_name(dtype: str) -> str:
    return {"float16": "fp16", "float32": "fp32"}.get(dtype, dtype)


def tensor_from(array: np.ndarray, expected: Tensor) -> torch.Tensor:
    """Return an input as a tensor in its container type.

    Raises:
        ValueError: its shape or type is not the declared one.
    """
    array = np.asarray(array)
    if array.dtype.name != expected.dtype:
        raise ValueError(f"input {expected.name!r} must be {expected.dtype}: got {array.dtype.name}")
    fits = array.ndim == len(expected.shape) and all(e in (-1, n) for n, e in zip(array.shape, expected.shape))
    if not fits:
        raise ValueError(f"input {expected.name!r} must have the shape {expected.shape}: got {array.shape}")
    if array.dtype in (np.float16, np.uint16):
        array = array.astype(np.float32 if array.dtype == np.float16 else np.int32)
    return torch.from_numpy(np.array(array, order="C"))  # a copy: a kernel may return a view of it


def array_of(value: torch.Tensor, described: Tensor) -> np.ndarray:
    return value.numpy().astype(described.dtype)

"""From a PyMIL block to a list of steps: constants worked out once, arguments bound, dead tensors freed.

The values of a running program lie in a list (`Env`), one place per MIL variable, shared with the blocks inside `cond`
and `while_loop`. Floats are held as float32 tensors at all times. A variable that MIL declares float16 holds only
numbers that float16 has: each result is rounded to float16 and widened again, which is exact. So the next kernel
computes in float32 from float16 numbers without converting, and operations that only move values need no rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch

from quantkit.errors import Unsupported
from quantkit.mil.table import BY_THE_PLAN, Op, table

Env = list[Any]
Watch = Callable[[str, torch.Tensor], None]
# float16 is held as float32 (see above); torch has no arithmetic on unsigned integers wider than 8 bits
CONTAINERS = {
    **{"fp16": torch.float32, "fp32": torch.float32, "bool": torch.bool},
    **{"int1": torch.int8, "int2": torch.int8, "int3": torch.int8, "int4": torch.int8, "int6": torch.int8},
    **{"uint1": torch.uint8, "uint2": torch.uint8, "uint3": torch.uint8, "uint4": torch.uint8, "uint6": torch.uint8},
    **{"int8": torch.int8, "uint8": torch.uint8, "int16": torch.int16, "uint16": torch.int32},
    **{"int32": torch.int32, "uint32": torch.int64, "int64": torch.int64},
}


@dataclass(frozen=True, slots=True)
class Result:
    """Where one output of a step goes, and what MIL declares of it: `shape` has None where it is flexible."""

    slot: int
    name: str
    shape: tuple[int | None, ...] | None
    finish: Callable[[Any], Any]


@dataclass(frozen=True, slots=True)
class Step:
    """One operation, ready to run on an `Env`."""

    kind: str
    run: Callable[[Env, Watch | None], Any]
    results: tuple[Result, ...]
    free: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Block:
    """A compiled block: its steps in order, where it takes its inputs and leaves its outputs."""

    steps: tuple[Step, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


def execute(block: Block, env: Env, watch: Watch | None) -> None:
    """Run a block's steps."""
    for step in block.steps:
        values = step.run(env, watch)
        for result, value in zip(step.results, values if len(step.results) > 1 else (values,)):
            env[result.slot] = value = result.finish(value)
            if result.shape is not None:
                check_shape(step, result, value)
                if watch is not None:
                    watch(result.name, value)
        for slot in step.free:
            env[slot] = None


def check_shape(step: Step, result: Result, value: torch.Tensor) -> None:
    """Compare with the shape that MIL declares, so that a misread operation cannot go on unseen."""
    got, expected = tuple(value.shape), result.shape
    assert expected is not None
    if got != expected and not (len(got) == len(expected) and all(e in (None, g) for g, e in zip(got, expected))):
        raise Unsupported(f"{step.kind} {result.name!r} gives the shape {got}, MIL declares {expected}")


def dtype_name(var: Any) -> str:
    """Return MIL's name of a variable's element type, e.g. `fp16`."""
    from coremltools.converters.mil.mil import types

    return str(types.builtin_to_string(var.dtype))


def fixed_shape(var: Any) -> tuple[int | None, ...]:
    """Return the declared shape of a variable, None for a flexible dimension."""
    from coremltools.converters.mil.mil.types.symbolic import is_symbolic

    return tuple(None if is_symbolic(size) else int(size) for size in var.shape)


def tensor_of(value: Any) -> torch.Tensor:
    """Return a constant as a tensor in its container type."""
    array = np.asarray(value)
    if array.dtype == np.float16:
        array = array.astype(np.float32)
    elif array.dtype in (np.uint16, np.uint32):
        array = array.astype(np.int32 if array.dtype == np.uint16 else np.int64)
    return torch.from_numpy(np.array(array, dtype=array.dtype.newbyteorder("="), order="C"))  # a copy: the file may go


def as_ints(value: torch.Tensor) -> tuple[int, ...]:
    numbers = value.tolist()
    return tuple(int(n) for n in numbers) if isinstance(numbers, list) else (int(numbers),)


CONVERT: Mapping[str, Callable[[Any], Any]] = {
    "Ints": as_ints,
    "int": lambda value: int(value.item()),
    "float": lambda value: float(value.item()),
    "bool": lambda value: bool(value.item()),
}


def identity(value: Any) -> Any:
    return value


def used(op: Any) -> set[Any]:
    """Return every variable that an operation reads, those read inside its blocks included."""
    found: set[Any] = set()
    for value in op.inputs.values():
        found.update(value if isinstance(value, (list, tuple)) else (value,))
    for block in op.blocks:
        found.update(block.outputs)
        for inner in block.operations:
            found |= used(inner)
    return found


def last_uses(block: Any) -> dict[Any, list[Any]]:
    """Return, for each operation, the block's own variables that nobody reads after it."""
    last: dict[Any, Any] = {}
    for op in block.operations:
        last.update(dict.fromkeys(op.outputs, op))
        last.update({var: op for var in used(op) if var in last})
    dead: dict[Any, list[Any]] = {op: [] for op in block.operations}
    for var, op in last.items():
        if var not in block.outputs:
            dead[op].append(var)
    return dead


class Compiler:
    """Turns the blocks of one function into steps.

    Args:
        rounding: False keeps what MIL declares float16 in float32.
    """

    def __init__(self, rounding: bool) -> None:
        self.rounding = rounding
        self.ops = table()
        self.slots: dict[Any, int] = {}
        self.constants: dict[Any, Any] = {}
        self.start: Env = []  # what an Env holds before the first step: constants that are passed on as they are

    def slot(self, var: Any) -> int:
        """Return a variable's place, with its value put there if it is a constant."""
        if var not in self.slots:
            self.slots[var] = len(self.start)
            self.start.append(self.constants.get(var))
        return self.slots[var]

    def block(self, block: Any, inputs: Iterable[Any]) -> Block:
        """Compile a block with its nested blocks; only what it computes itself is freed in it."""
        places = tuple(self.slot(var) for var in inputs)
        dead = last_uses(block)
        steps = []
        for op in block.operations:
            step = self.step(op)
            if step is not None:
                steps.append(replace(step, free=tuple(self.slots[var] for var in dead[op] if var in self.slots)))
        return Block(tuple(steps), places, tuple(self.slot(var) for var in block.outputs))

    def step(self, op: Any) -> Step | None:
        """Return the step of one operation, or None when it is a constant."""
        if op.op_type == "const":
            value = op.outputs[0].val
            self.constants[op.outputs[0]] = value if isinstance(value, str) else tensor_of(value)
            return None
        if op.op_type in BY_THE_PLAN:
            return Step(op.op_type, self.control(op), self.results(op, exact=True))
        known = self.ops[op.op_type]
        bound, running = self.arguments(op, known)
        reason = known.refuses(**bound) if known.refuses is not None else None
        if reason is not None:
            raise Unsupported(f"{op.op_type} {op.name!r}: {reason}")
        if not running and known.pure:
            values = known.kernel(**bound)
            for result, var, value in self.paired(op, known.exact, values):
                self.constants[var] = result.finish(value)
            return None
        return Step(op.op_type, bind(known.kernel, bound, running), self.results(op, known.exact))

    def paired(self, op: Any, exact: bool, values: Any) -> list[tuple[Result, Any, Any]]:
        results = self.results(op, exact, placed=False)
        return list(zip(results, op.outputs, values if len(results) > 1 else (values,)))

    def arguments(self, op: Any, known: Op) -> tuple[dict[str, Any], dict[str, Callable[[Env], Any]]]:
        """Return the arguments that are constant, converted, and how to get the others out of an Env."""
        bound: dict[str, Any] = {}
        running: dict[str, Callable[[Env], Any]] = {}
        for name, var in op.inputs.items():
            if var is None:
                continue
            kind = known.kinds.get(name)
            if kind is None:
                raise Unsupported(f"{op.op_type} {op.name!r} has an input {name!r} that the executor does not know")
            convert = CONVERT.get(kind, identity)
            if isinstance(var, (list, tuple)):
                if all(item in self.constants for item in var):
                    bound[name] = tuple(self.constants[item] for item in var)
                else:
                    running[name] = partial(several, tuple(self.slot(item) for item in var))
            elif var in self.constants:
                value = self.constants[var]
                bound[name] = value if isinstance(value, str) else convert(value)
            else:
                running[name] = partial(one, self.slot(var), convert)
        return bound, running

    def results(self, op: Any, exact: bool, placed: bool = True) -> tuple[Result, ...]:
        """Return where an operation's outputs go; `placed=False` for constants, which need no place."""
        return tuple(self.result(var, exact, placed) for var in op.outputs)

    def result(self, var: Any, exact: bool, placed: bool) -> Result:
        from coremltools.converters.mil.mil import types

        slot = self.slot(var) if placed else -1
        if types.is_list(var.sym_type):
            return Result(slot, var.name, None, identity)
        name = dtype_name(var)
        finish = half if name == "fp16" and self.rounding and not exact else partial(held, CONTAINERS[name])
        return Result(slot, var.name, fixed_shape(var), finish)

    def control(self, op: Any) -> Callable[[Env, Watch | None], Any]:
        """Return how a `cond` or `while_loop` runs."""
        if op.op_type == "cond":
            return partial(run_cond, self.slot(op.pred), [self.block(block, ()) for block in op.blocks])
        test, body = (self.block(block, block.inputs) for block in op.blocks)
        return partial(run_while, tuple(self.slot(var) for var in op.loop_vars), test, body)


def several(slots: tuple[int, ...], env: Env) -> tuple[Any, ...]:
    return tuple(env[slot] for slot in slots)


def one(slot: int, convert: Callable[[Any], Any], env: Env) -> Any:
    return convert(env[slot])


def half(value: torch.Tensor) -> torch.Tensor:
    """Round to the nearest float16 (ties to even; above 65,504 to infinity) and hold it as float32."""
    return value.to(torch.float16).to(torch.float32)


def held(container: torch.dtype, value: torch.Tensor) -> torch.Tensor:
    return value.to(container)


def bind(kernel: Callable[..., Any], bound: dict[str, Any], running: dict[str, Any]) -> Callable[..., Any]:
    """Return the kernel as a function of the Env alone."""
    ready, gets = partial(kernel, **bound), tuple(running.items())
    if len(gets) == 1:
        ((name, get),) = gets
        return lambda env, watch: ready(**{name: get(env)})
    return lambda env, watch: ready(**{name: get(env) for name, get in gets})


def run_cond(pred: int, blocks: Sequence[Block], env: Env, watch: Watch | None) -> Any:
    chosen = blocks[0] if bool(env[pred]) else blocks[1]
    execute(chosen, env, watch)
    return unpacked([env[slot] for slot in chosen.outputs])


def run_while(variables: tuple[int, ...], test: Block, body: Block, env: Env, watch: Watch | None) -> Any:
    values = [env[slot] for slot in variables]
    while True:
        for block in (test, body):  # each block has names of its own for the loop's variables
            for slot, value in zip(block.inputs, values):
                env[slot] = value
        execute(test, env, watch)
        if not bool(env[test.outputs[0]]):
            return unpacked(values)
        execute(body, env, watch)
        values = [env[slot] for slot in body.outputs]


def unpacked(values: list[Any]) -> Any:
    return values[0] if len(values) == 1 else tuple(values)

"""PyTorch network -> Core ML program: `torch.jit.trace`, then coremltools' converter, shapes fixed by the example.

coremltools folds and renames as it goes, so the layers behind the program's weights are found here, right after the
conversion, where each operation still knows the module it came from. Trap: a buffer that is written inside a view at a
place given by a tensor (`cache[0, position] = x`) converts without an error and is never written; one that is written
by slices (`cache[:, position : position + 1] = x`) is. The former is refused.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import inspect
import logging
import re
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from unittest import mock

import numpy as np

from quantkit import extras
from quantkit.backends import _coreml_norms
from quantkit.errors import Unsupported

if TYPE_CHECKING:
    from torch import nn

    from quantkit.contracts import Arrays

# operation: its inputs that may be weights
WEIGHTS = {
    **dict.fromkeys(("conv", "conv_transpose", "linear"), ("weight",)),
    **dict.fromkeys(("lstm", "gru", "rnn"), ("weight_ih", "weight_hh", "weight_ih_back", "weight_hh_back")),
    "matmul": ("x", "y"),
    "gather": ("x",),
}
OUTPUT = "output"
LEAST = 10  # coremltools keeps smaller constants in the program's text and compresses none of them


@dataclass(frozen=True)
class Weight:
    """One constant of the program that a layer multiplies with.

    Args:
        names: of the constant: its operation's and its variable's (after a reload coremltools uses the latter).
        layer: the module's name in the network.
        users: names of the outputs of the operations that use it.
    """

    names: tuple[str, str]
    layer: str
    shape: tuple[int, ...]
    users: tuple[str, ...]
    values: np.ndarray


@dataclass(frozen=True)
class Lowered:
    """The float model (a coremltools MLModel), its weights, and the layer behind each operation that has some.

    `tables` are the network's other matrices (layer or parameter -> weights): tables of positions that are folded into
    a constant and added.
    """

    model: Any
    weights: tuple[Weight, ...]
    layers: dict[str, str]
    tables: dict[str, int]


def toolchain() -> Any:
    """Return coremltools; what its import logs (no Mac, untested versions) is no news."""
    with quiet():
        return extras.require("coremltools")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence progress bars, logs below errors (one of coremltools' is the root logger's), and known warnings."""
    import torch

    tqdm = importlib.import_module("tqdm").tqdm  # coremltools' progress bars; it brings no types
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    no_bar = functools.partialmethod(tqdm.__init__, disable=True)
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"), mock.patch.object(tqdm, "__init__", no_bar):
            warnings.filterwarnings("ignore", category=torch.jit.TracerWarning)
            warnings.filterwarnings("ignore", module=r"coremltools\.")
            warnings.filterwarnings("ignore", message=".*torch.jit.*", category=DeprecationWarning)
            yield
    finally:
        logging.disable(before)


def lower(network: nn.Module, example: Arrays, *, half: bool, target: str) -> Lowered:
    """Return the network as a Core ML program with float weights.

    Args:
        half: float16 weights and computation, otherwise float32.
        target: name of the deployment target, e.g. `iOS17`.

    Raises:
        Unsupported: the tracer or the converter refuses an operation, named in the message.
    """
    ct = toolchain()
    inputs = [ct.TensorType(name=n, shape=x.shape, dtype=dtype_of(n, x)) for n, x in named(network, example)]
    keeps = getattr(network, "states", ())
    states = [ct.StateType(ct.TensorType(shape=network.get_buffer(n).shape, dtype=np.float16), n) for n in keeps]
    if not half:
        _coreml_norms.write_out(network)
    with quiet():
        traced = trace(network, example)
        with refusing("coremltools cannot convert"):
            model = ct.convert(
                traced,
                inputs=inputs,
                outputs=[ct.TensorType(name=OUTPUT, dtype=np.float32)],
                states=states or None,
                convert_to="mlprogram",
                minimum_deployment_target=getattr(ct.target, target),
                compute_precision=ct.precision.FLOAT16 if half else ct.precision.FLOAT32,
                skip_model_load=True,
            )
    main = program_of(model).functions["main"]
    check_shapes(main.outputs)
    check_states(main.operations, keeps)
    weights = tuple(weights_of(main.operations, network))
    layers = {user: weight.layer for weight in weights for user in weight.users}
    return Lowered(model, weights, layers, tables_of(network, set(layers.values())))


def check_states(operations: Any, keeps: Sequence[str]) -> None:
    """Raise Unsupported where a state is never written in the program."""
    written = {op.inputs["state"].name for op in operations if op.op_type == "coreml_update_state"}
    if lost := [name for name in keeps if name not in written]:
        raise Unsupported(
            f"coremltools converted no write to the state {', '.join(lost)}: write it by a slice, not by an index"
        )


def check_shapes(outputs: Any) -> None:
    """Raise Unsupported where an output's size depends on the data."""
    for var in outputs:
        if not all(isinstance(size, int | np.integer) for size in var.shape):
            raise Unsupported(f"output {var.name!r} has the shape {tuple(map(str, var.shape))}: give it a fixed one")


def program_of(model: Any) -> Any:
    """Return the program in memory, the only form in which operations know their modules (private in coremltools 9)."""
    program = getattr(model, "_mil_program", None)
    if program is None:
        raise Unsupported(f"coremltools {extras.version('coremltools')} keeps no program after conversion: use 9.0")
    return program


def named(network: nn.Module, example: Arrays) -> list[tuple[str, np.ndarray]]:
    """Return the inputs with the names that the network's forward gives them."""
    names = list(inspect.signature(network.forward).parameters)
    if len(names) < len(example):
        raise Unsupported(f"forward takes {len(names)} named inputs: got an example of {len(example)}; name each one")
    return list(zip(names, example, strict=False))


def dtype_of(name: str, array: np.ndarray) -> type:
    """Return the type of an input in Core ML, which has no 64-bit integers.

    Raises:
        Unsupported: a type that no Core ML input has.
    """
    known = {"float32": np.float32, "float16": np.float16, "int32": np.int32, "int64": np.int32}
    if array.dtype.name not in known:
        raise Unsupported(f"input {name!r} is {array.dtype}: Core ML takes {', '.join(known)}; convert it in the model")
    return known[array.dtype.name]


def trace(network: nn.Module, example: Arrays) -> Any:
    """Return the traced network; tracing runs it once, which writes its states.

    Raises:
        Unsupported: it does not run, or not as a graph.
    """
    import torch

    with torch.no_grad(), refusing("torch.jit.trace cannot trace"):
        return torch.jit.trace(network, tuple(torch.from_numpy(x) for x in example), check_trace=False)


@contextlib.contextmanager
def refusing(what: str) -> Iterator[None]:
    """Turn a refusal, which may be any exception (the model's own code runs in it), into one line."""
    try:
        yield
    except (OSError, MemoryError, Unsupported):  # a full disk or memory says nothing about the model
        raise
    except Exception as error:
        raise Unsupported(f"{what} this network: {cause(error)}") from error


def cause(error: BaseException) -> str:
    """Return the operation that has no form in Core ML, or the first line that says something."""
    text = str(error)
    if found := re.search(r"op '(\w+)' not implemented|Op \"?(\w+)\"? .* not implemented", text):
        return f"operation {found[1] or found[2]} has no Core ML form"
    lines = [line.strip() for line in text.splitlines() if line.strip(" -=\n")]
    return f"{type(error).__name__}: {lines[0][:300] if lines else 'no message'}"


def weights_of(operations: Any, network: nn.Module) -> Iterator[Weight]:
    """Yield the constants that layers multiply with; tables that come from no parameter (angles, masks) are none."""
    modules = dict(network.named_modules(remove_duplicate=True))
    place = {name: number for number, name in enumerate(modules)}
    claimed: set[str] = set()
    for op in operations:
        values = op.outputs[0].val if op.op_type == "const" else None
        if not isinstance(values, np.ndarray) or values.ndim < 2 or values.size < LEAST:
            continue
        users = [user for user in op.outputs[0].child_ops if uses(user, op.outputs[0])]
        found = [layer for user in users if (layer := named_after(op, modules) or owner(user, values, modules))]
        if users and not found and values.ndim > 2:
            found = [layer for layer in folded(values, modules, claimed) if layer]
        always = [user for user in users if user.op_type not in ("gather", "matmul")]  # those take tables as well
        if users and (found or always):
            layer = min(found, key=lambda name: place.get(name, 0)) if found else always[0].outputs[0].name
            claimed.add(layer)
            names = tuple(dict.fromkeys(user.outputs[0].name for user in users))
            yield Weight((op.name, op.outputs[0].name), layer, values.shape, names, values)


def tables_of(network: nn.Module, layers: set[str]) -> dict[str, int]:
    """Return the matrices that belong to no layer, with their sizes; a tied one belongs to its first."""
    found = {}
    for name, parameter in network.named_parameters():
        layer = name.rpartition(".")[0] or name
        if parameter.ndim > 1 and layer not in layers:
            found[layer] = parameter.numel()
    return found


def uses(op: Any, var: Any) -> bool:
    """Return whether an operation takes a variable as its weight."""
    return any(op.inputs.get(name) is var for name in WEIGHTS.get(op.op_type, ()))


def named_after(op: Any, modules: dict[str, Any]) -> str:
    """Return the module whose parameter a constant is named after: `layers_0_up_weight_to_fp16`, or ""."""
    name = re.sub(r"^op_(?=\d)", "", op.name).removesuffix("_to_fp16")
    found = [
        module_name or parameter
        for module_name, module in modules.items()
        for parameter, _ in module.named_parameters(recurse=False)
        if re.sub(r"\W", "_", f"{module_name}.{parameter}".strip(".")) == name
    ]
    return found[0] if len(found) == 1 else ""


def owner(op: Any, values: np.ndarray, modules: dict[str, Any]) -> str:
    """Return the one module that an operation can have come from, by its scope and its parameters' size, or "".

    The scope of something in a ModuleList lacks the list's name; where batch norm was folded into a convolution it is
    the norm's, which has no such parameter.
    """
    scopes = {source.name: scope for source, scope in op.scopes.items()}
    scope = [str(part) for part in scopes.get("TORCHSCRIPT_MODULE_NAME", ())][:-1]  # the last names a value
    found = []
    for name, module in modules.items():
        parts = iter(name.split(".") if name else [])
        within = all(part in parts for part in scope) and next(parts, None) is None  # in this order, the last one last
        fits = [n for n, p in module.named_parameters(recurse=False) if p.ndim > 1 and p.numel() == values.size]
        if within and fits:
            found.append(name or fits[0])
    return found[0] if len(found) == 1 else ""


def folded(values: np.ndarray, modules: dict[str, Any], claimed: set[str]) -> Iterator[str]:
    """Yield the convolution whose weights these are up to a factor per output channel, as folding batch norm leaves."""
    rows = unit_rows(values)
    for name, module in modules.items():
        weight = getattr(module, "weight", None)
        if name not in claimed and weight is not None and tuple(weight.shape) == values.shape:
            cosines = np.abs((unit_rows(weight.detach().numpy()) * rows).sum(1))
            if (cosines[rows.any(1)] > 0.99).all():  # float16 rounds each weight by at most 2^-11 of its size
                yield name
                return


def unit_rows(values: np.ndarray) -> np.ndarray:
    """Return weights [out, ...] as rows of length one, [out, n]; a row of zeros stays one."""
    rows = values.reshape(len(values), -1).astype(np.float64)
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.divide(rows, length, out=rows, where=length > 0)

"""A .tflite artifact opened by an interpreter: LiteRT's own, or TensorFlow's, which has the same interface."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from quantkit import extras
from quantkit.contracts import Arrays, TensorInfo
from quantkit.errors import CorruptFile

if TYPE_CHECKING:
    from quantkit.contracts import Session

FILE = "model.tflite"
DELEGATE = "DELEGATE"
Tensors = list[tuple[str, dict[str, Any]]]  # name in the signature, what the interpreter says of the tensor


def interpreter(data: bytes, threads: int) -> Any:
    """Return LiteRT's interpreter of an artifact, its memory planned, XNNPACK taking what it can."""
    made = extras.require("ai_edge_litert.interpreter").Interpreter(model_content=data, num_threads=threads)
    made.allocate_tensors()
    return made


def signature(opened: Any) -> tuple[str, Tensors, Tensors]:
    """Return the artifact's first signature: its name, and inputs and outputs in the order of the network's arguments.

    The flatbuffer lists them by name, so that a tenth argument would stand before the second.
    """
    name = next(iter(opened.get_signature_list()))
    runner = opened.get_signature_runner(name)
    inputs, outputs = runner.get_input_details(), runner.get_output_details()
    return name, sorted(inputs.items(), key=_place), sorted(outputs.items(), key=_place)


def _place(named: tuple[str, Any]) -> tuple[str, int]:
    stem = named[0].rstrip("0123456789")
    return stem, int(named[0][len(stem) :] or 0)


def described(tensors: Tensors) -> tuple[TensorInfo, ...]:
    """Return inputs or outputs as an application sees them."""
    return tuple(TensorInfo(name, tuple(map(int, t["shape"])), np.dtype(t["dtype"]).name) for name, t in tensors)


def by_name(inputs: Tensors, item: Arrays) -> dict[str, np.ndarray]:
    """Return one item's arrays by the names of the signature, integers in the artifact's width."""
    return {name: _narrow(name, tensor, x) for (name, tensor), x in zip(inputs, item, strict=True)}


def _narrow(name: str, tensor: dict[str, Any], values: np.ndarray) -> np.ndarray:
    """Return 64-bit integers in the 32 bits that the converter left the artifact; other arrays unchanged.

    Raises:
        ValueError: a value that 32 bits cannot hold.
    """
    if values.dtype != np.int64 or tensor["dtype"] is not np.int32:
        return values
    low, high = np.iinfo(np.int32).min, np.iinfo(np.int32).max
    if values.size and not low <= values.min() <= values.max() <= high:
        worst = values.min() if values.min() < low else values.max()
        raise ValueError(f"input {name!r}: got {worst}, expected {low} to {high}: the artifact takes 32-bit integers")
    return values.astype(np.int32)


class LitertSession:
    """Satisfies `contracts.Session`; a call copies its inputs in and its output out, as an application does.

    Args:
        make: returns an interpreter from the file's bytes and a number of threads, its memory planned.
    """

    def __init__(self, path: Path, threads: int, make: Callable[[bytes, int], Any] = interpreter) -> None:
        start = time.perf_counter()
        data = checked(path)
        read = time.perf_counter()
        try:
            self._interpreter = make(data, threads)
            _, self._inputs, outputs = signature(self._interpreter)
        except (ValueError, RuntimeError, StopIteration) as error:
            raise CorruptFile(f"LiteRT cannot read {path}, build the case again: {first_line(error)}") from error
        self._output = outputs[0][1]["index"]
        self.load_s = read - start
        self.compile_s = time.perf_counter() - read  # weights packed for XNNPACK included

    def feed(self, inputs: Arrays) -> Any:
        """Return the inputs in the artifact's types.

        Raises:
            ValueError: another number of inputs, shape or dtype than the artifact has, or an integer out of range.
        """
        if len(inputs) != len(self._inputs):
            names = ", ".join(name for name, _ in self._inputs)
            raise ValueError(f"the artifact takes {len(self._inputs)} inputs ({names}): got {len(inputs)}")
        fed = []
        for (name, tensor), array in zip(self._inputs, inputs, strict=True):
            narrow = _narrow(name, tensor, array)
            got = f"{array.dtype} {list(array.shape)}"
            expected = np.dtype(tensor["dtype"]).name, list(map(int, tensor["shape"]))
            if (narrow.dtype.name, list(narrow.shape)) != expected:
                raise ValueError(f"input {name!r}: got {got}, expected {expected[0]} {expected[1]}")
            fed.append((tensor["index"], narrow))
        return fed

    def run(self, fed: Any) -> Any:
        """Run once; the answer is a copy."""
        for index, array in fed:
            self._interpreter.set_tensor(index, array)
        self._interpreter.invoke()
        return self._interpreter.get_tensor(self._output)

    def fetch(self, output: Any) -> np.ndarray:
        """Return the output as float32."""
        return output.astype("float32", copy=False)

    def close(self) -> None:
        """Free the interpreter and its threads."""
        self._interpreter = None


def checked(path: Path) -> bytes:
    """Return an artifact's bytes.

    Raises:
        CorruptFile: it is missing, is no .tflite file, or ends before its last buffer does.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise CorruptFile(f"{path} is missing: build the case again") from error
    if data[4:8] != b"TFL3":
        raise CorruptFile(f"{path} is no .tflite file (its identifier is {data[4:8]!r}): build the case again")
    return data


def first_line(error: BaseException) -> str:
    """Return the first line of an interpreter's complaint; it runs several together."""
    return (str(error) or type(error).__name__).splitlines()[0][:300]


def who_runs(opened: Any) -> str:
    """Return how many operations XNNPACK took, and which stayed on LiteRT's own kernels.

    A delegate replaces a part of the graph by one node but leaves the replaced nodes in the list; the part is what
    its outputs are computed from, back to its inputs.
    """
    operations = opened._get_ops_details()  # no public way: the execution plan is not in the Python interface
    plain = [op for op in operations if op["op_name"] != DELEGATE]
    maker = {tensor: op for op in plain for tensor in op["outputs"]}
    taken: set[int] = set()
    for delegate in (op for op in operations if op["op_name"] == DELEGATE):
        _walk(maker, set(delegate["inputs"]), list(delegate["outputs"]), taken)
    left = Counter(op["op_name"] for op in plain if op["index"] not in taken)
    text = f"XNNPACK runs {len(taken)} of {len(plain)} operations"
    return text + (f"; LiteRT's own CPU kernels run {_counted(left)}" if left else "")


def _walk(maker: dict[int, Any], stop: set[int], todo: Sequence[int], taken: set[int]) -> None:
    """Add to `taken` the index of each operation that the tensors `todo` come from, as far as the tensors `stop`."""
    pending = list(todo)
    while pending:
        op = maker.get(tensor := pending.pop())
        if tensor not in stop and op is not None and op["index"] not in taken:
            taken.add(op["index"])
            pending.extend(op["inputs"])


def _counted(names: Counter[str]) -> str:
    return ", ".join(name if count == 1 else f"{count} {name}" for name, count in sorted(names.items()))


def open_session(folder: Path, threads: int, make: Callable[[bytes, int], Any] = interpreter) -> Session:
    """Load the artifact of a case."""
    return LitertSession(folder / FILE, threads, make)

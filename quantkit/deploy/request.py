"""What one export is asked to do, checked before anything runs; imports nothing heavy."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from quantkit.backends._litert_source import is_saved_model
from quantkit.catalog import BACKENDS, METHODS, MODELS
from quantkit.errors import InvalidSetting, UnknownName
from quantkit.pipeline.settings import Settings

SYNONYMS = {"onnx": "onnxruntime", "tflite": "litert", "core ml": "coreml", "core-ml": "coreml", "mlpackage": "coreml"}
INPUT = re.compile(r"(?:(?P<name>[A-Za-z_]\w*)=)?(?P<shape>\d+(?:x\d+)*|scalar)(?::(?P<dtype>\w+))?")
DTYPES = ("float32", "float16", "float64", "int64", "int32", "int8", "uint8", "bool")


@dataclass(frozen=True)
class Shape:
    """One input of an own model as `--input` names it: `[name=]1x3x224x224[:float32]`."""

    name: str
    shape: tuple[int, ...]
    dtype: str

    @classmethod
    def parse(cls, text: str) -> Shape:
        """Return the input that a word of the command line describes.

        Raises:
            InvalidSetting: not of that form, or an unknown type.

        >>> Shape.parse("1x128:int64")
        Shape(name='', shape=(1, 128), dtype='int64')
        """
        found = INPUT.fullmatch(text)
        if found is None:
            raise InvalidSetting(f"--input is [name=]shape[:type], e.g. 1x3x224x224 or ids=1x128:int64: got {text!r}")
        dtype = found["dtype"] or "float32"
        if dtype not in DTYPES:
            raise InvalidSetting(f"--input {text!r} has an unknown type {dtype!r}. Known: {', '.join(DTYPES)}")
        shape = () if found["shape"] == "scalar" else tuple(map(int, found["shape"].split("x")))
        if 0 in shape:
            raise InvalidSetting(f"--input {text!r} has an axis of length 0: every axis needs at least 1")
        return cls(found["name"] or "", shape, dtype)


@dataclass(frozen=True)
class Subject:
    """The network to export and the data that goes with it.

    Args:
        model: a zoo name, `package.module:factory`, or the path of a SavedModel, `.keras` or `.h5` file.
        example: `package.module:function` that returns the inputs, or an .npz file of them; empty for none.
        shapes: inputs to make up, where there is no example.
        calibration: an .npz file, one array [items, ...] for each input; None for the zoo's own data set.
        labels: names of the classes of an own model, which say that its outputs are class scores.
    """

    model: str
    example: str = ""
    shapes: tuple[Shape, ...] = ()
    calibration: Path | None = None
    labels: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.own:
            _known(self.model)
        if not self.own and (self.example or self.shapes or self.labels):
            raise InvalidSetting(f"{self.model} is a model of the zoo, which has inputs and labels of its own")
        if self.own and not (self.example or self.shapes):
            raise InvalidSetting(
                f"{self.model} needs example inputs: --input 1x3x224x224 (repeat it for several inputs), "
                "or --example with an .npz file or package.module:function"
            )
        if self.example and self.shapes:
            raise InvalidSetting("--example and --input both say what the inputs are: give one of them")

    @property
    def saved(self) -> bool:
        """True where the model is a file or folder of TensorFlow's: a SavedModel, `.keras` or `.h5`."""
        return is_saved_model(Path(self.model))

    @property
    def own(self) -> bool:
        """True where the network is a user's, not of the zoo."""
        return ":" in self.model or self.saved

    @property
    def title(self) -> str:
        """The name that the manifest and the generated code take."""
        if self.saved:
            return Path(self.model).stem
        return self.model.rpartition(":")[0].rpartition(".")[2] or self.model if self.own else self.model


@dataclass(frozen=True)
class Request:
    """One artifact: a subject, a method, a backend."""

    subject: Subject
    method: str
    backend: str
    settings: Settings

    def __post_init__(self) -> None:
        METHODS.get(self.method)
        BACKENDS.get(self.backend)

    @property
    def target(self) -> str:
        """The target whose executor proves the artifact: the processor, where the backend runs on it."""
        targets = BACKENDS.get(self.backend).targets
        return "cpu" if "cpu" in targets else targets[0]


def backend_of(word: str) -> str:
    """Return the backend's name; `onnx`, `tflite` and `core ml` are understood.

    >>> backend_of("onnx")
    'onnxruntime'
    """
    return SYNONYMS.get(word.strip().lower(), word.strip())


def _known(model: str) -> None:
    try:
        MODELS.get(model)
    except UnknownName as error:
        own = "A network of your own is package.module:factory, or the path of a SavedModel, .keras or .h5 file"
        raise UnknownName(f"{error}. {own}") from None

"""Keras models and TensorFlow SavedModels -> float32 .tflite flatbuffer, by TensorFlow's own converter.

What comes out goes the same way through ai-edge-quantizer as what litert-torch converts. `network` gives it the form of
a PyTorch network, whose answers are TensorFlow's own, so that an export compares the artifact with the original.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quantkit import extras
from quantkit.errors import CorruptFile, Unsupported

if TYPE_CHECKING:
    from torch import nn

KERAS = (".keras", ".h5")


def is_saved_model(path: Path) -> bool:
    """Return whether a path is a SavedModel's folder or a Keras file."""
    return (path / "saved_model.pb").is_file() or (path.suffix in KERAS and path.is_file())


def network(path: Path) -> nn.Module:
    """Return a SavedModel or Keras file as a module that answers by TensorFlow and carries its `flatbuffer`.

    Raises:
        MissingExtra, CorruptFile, Unsupported: as `lower_saved_model` does.
    """
    from torch import from_numpy, jit, nn

    tensorflow = extras.require("tensorflow")
    with tempfile.TemporaryDirectory(prefix="quantkit-saved-model-") as work:
        flatbuffer = lower_saved_model(path, Path(work))
        exported = Path(work) / "saved_model"
        loaded = tensorflow.saved_model.load(str(exported if exported.is_dir() else path))
    signature = loaded.signatures["serving_default"]
    names = list(signature.structured_input_signature[1])

    class SavedModel(nn.Module):
        """The original, in TensorFlow's float32."""

        def __init__(self) -> None:
            super().__init__()
            self.flatbuffer, self._keep = flatbuffer, loaded

        def forward(self, *inputs: Any) -> Any:
            if jit.is_tracing():
                raise Unsupported("a model of TensorFlow cannot be traced: export it with --format litert")
            fed = {name: tensorflow.constant(x.numpy()) for name, x in zip(names, inputs, strict=True)}
            (output,) = signature(**fed).values()
            return from_numpy(output.numpy().copy())

    return SavedModel().eval()


def lower_saved_model(folder: Path, work: Path) -> bytes:
    """Return a SavedModel, or a Keras file, as a float32 flatbuffer.

    Args:
        folder: the SavedModel's folder, or a `.keras` or `.h5` file.
        work: an empty folder, for the SavedModel that a Keras file is first exported to.

    Raises:
        MissingExtra: TensorFlow is not installed; the message has the pip command.
        CorruptFile: there is no such model, or TensorFlow cannot read it.
        Unsupported: an operation that has no LiteRT form.
    """
    tensorflow = extras.require("tensorflow")
    if folder.suffix in KERAS:
        folder = _export(folder, work)
    if not (folder / "saved_model.pb").is_file():
        raise CorruptFile(f"{folder} is no SavedModel: expected a folder with saved_model.pb, or a .keras file")
    try:
        converter = tensorflow.lite.TFLiteConverter.from_saved_model(str(folder))
    except (OSError, ValueError, RuntimeError) as error:
        raise CorruptFile(f"TensorFlow cannot read {folder}: {_first_line(error)}") from error
    convert = extras.require("tensorflow.lite.python.convert")
    try:
        return bytes(converter.convert())
    except (convert.ConverterError, ValueError, RuntimeError) as error:
        raise Unsupported(f"TensorFlow's converter refuses {folder}: {_first_line(error)}") from error


def _export(file: Path, work: Path) -> Path:
    """Write a Keras file as a SavedModel below `work` and return its folder."""
    keras = extras.require("tensorflow").keras
    try:
        model = keras.models.load_model(file, compile=False)
    except (OSError, ValueError) as error:
        raise CorruptFile(f"Keras cannot read {file}: {_first_line(error)}") from error
    model.export(work / "saved_model", verbose=False)
    return work / "saved_model"


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]

"""Keras models and TensorFlow SavedModels -> float32 .tflite flatbuffer, by TensorFlow's own converter.

What comes out goes the same way through ai-edge-quantizer as what litert-torch converts.
"""

from __future__ import annotations

from pathlib import Path

from quantkit import extras
from quantkit.errors import CorruptFile, Unsupported

KERAS = (".keras", ".h5")


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

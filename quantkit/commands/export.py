"""Write a model as an artifact of a format, run it, compare it with PyTorch, and describe it in a manifest."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

EXAMPLES = """
  quantkit export fmnist_cnn --method int8_static --format onnxruntime --out cnn
  quantkit export fmnist_cnn --method int8_static,palettize4 --format onnx,coreml --out all --template
  quantkit export my_net:make --input 1x8 --method int8_dynamic --format onnxruntime --out mine
  quantkit export my_net:make --example rows.npz --calibration rows.npz --method int8_static --format onnx --out mine
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    add = parser.add_argument
    add(
        "model",
        help="of the zoo, or package.module:factory returning a torch.nn.Module, or a SavedModel or .keras file",
    )
    add("--method", required=True, metavar="A,B", help="quantization methods ('quantkit list methods')")
    add("--format", required=True, metavar="A,B", help="backends; onnx, tflite and 'core ml' are understood too")
    add(
        "--out",
        required=True,
        type=Path,
        metavar="DIR",
        help="folder to write; several artifacts lie below it",
    )
    add("--template", action="store_true", help="write a small application that runs the artifact, too")
    add(
        "--input",
        action="append",
        default=[],
        metavar="SHAPE",
        help="own model: [name=]1x3x224x224[:float32]; repeat",
    )
    add("--example", default="", metavar="X", help="own model: its inputs, an .npz file or package.module:function")
    add("--calibration", type=Path, metavar="FILE", help=".npz file, one array [items, ...] for each input")
    add("--labels", type=Path, metavar="FILE", help="own model: names of the classes, one a line")
    add("--threads", type=int, metavar="N", help="threads of one session (default: 1)")
    add("--time-limit", type=float, metavar="S", help="seconds that one step may take (default: 600)")
    add("--memory-limit", type=float, metavar="GIB", help="memory that one step may take")
    add("--force", action="store_true", help="replace an export that is there already")


def run(options: argparse.Namespace) -> int:
    """Do it; return the exit status."""
    from quantkit.deploy import command

    try:
        return command.run(
            options, lambda line: print(line, file=sys.stderr, flush=True), lambda text: print(text, flush=True)
        )
    except KeyboardInterrupt:
        print("\nquantkit: interrupted; nothing half-written is left", file=sys.stderr)
        return 130

"""PyTorch network -> float32 .tflite flatbuffer with fixed shapes, by litert-torch (torch.export, StableHLO, LiteRT).

The converter takes 64-bit integers down to 32 bits, inputs too, and unrolls an LSTM: one set of operations a step.
"""

from __future__ import annotations

import contextlib
import io
import logging
import re
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING

from quantkit import extras
from quantkit.contracts import Arrays
from quantkit.errors import Unsupported

if TYPE_CHECKING:
    from torch import nn

LARGEST = 2**31 - 2**24  # a flatbuffer's offsets are signed 32-bit; some room for the graph itself


def lower(network: nn.Module, example: Arrays) -> bytes:
    """Return the network as a float32 flatbuffer with the fixed shapes of `example`.

    Raises:
        Unsupported: litert-torch has no form of an operation (named in the message), or the file would be too large.
    """
    import torch

    size = sum(p.numel() * p.element_size() for p in network.parameters())
    if size > LARGEST:
        raise Unsupported(f"the float32 network has {size / 2**30:.1f} GiB; one .tflite file holds less than 2 GiB")
    inputs = tuple(torch.from_numpy(x) for x in example)
    with quiet():
        litert_torch = extras.require("litert_torch")
        with _no_progress():
            try:
                return bytes(litert_torch.convert(network, inputs).model_content())
            except (RuntimeError, TypeError, ValueError) as error:
                # its passes raise these three for what they cannot lower, torch.export's own errors among them
                raise Unsupported(f"litert-torch refuses this network: {_cause(error)}") from error


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence the toolchain's notes that are no news to a user, and leave the root logger as it was.

    The converter warns through the root logger that integers become 32-bit (the artifact's inputs say so); without a
    handler there, `logging.warning` would install one.
    """
    root, handler = logging.getLogger(), logging.NullHandler()
    levels = {name: logging.getLogger(name).level for name in ("torchao", "torch.utils._pytree")}
    root.addHandler(handler)
    for name in levels:
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):  # the quantizer's progress bars
            warnings.filterwarnings("ignore", category=FutureWarning, message=".*LeafSpec.*")
            warnings.filterwarnings("ignore", category=UserWarning, message=".*were assigned during export.*")
            warnings.filterwarnings("ignore", category=UserWarning, message=".*experimental_preserve_all_tensors.*")
            yield
    finally:
        root.removeHandler(handler)
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


@contextlib.contextmanager
def _no_progress() -> Iterator[None]:
    """Keep litert-torch from printing each of its steps; its own switch is an environment variable."""
    console = extras.require("litert_torch.progress").console
    before, console.quiet = console.quiet, True
    try:
        yield
    finally:
        console.quiet = before


def _cause(error: BaseException) -> str:
    """Return one line: the operation without a lowering, or the first line of the error."""
    text = str(error)
    if found := re.search(r"Lowering not found: ([\w.:]+)", text):
        return f"operation {found[1]} has no LiteRT form"
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else 'no message'}"

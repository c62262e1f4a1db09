"""bitsandbytes: LLM.int8 and 4-bit NormalFloat or FP4, for the Linear layers of a network.

The artifact is `graph.pt2` (torch.export, a hole where each quantized layer was; the float weights) and
`weights.safetensors` (the quantized layers as the library itself stores them). No Python class is needed to open it.
https://huggingface.co/docs/bitsandbytes, arXiv:2208.07339 (LLM.int8), arXiv:2305.14314 (NF4).
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quantkit import extras
from quantkit.backends._bitsandbytes_schemes import model_refusal, scheme_refusal

if TYPE_CHECKING:
    import numpy as np

    from quantkit.contracts import Arrays, BuildReport, ModelInfo, Prepared, Session, Target, TensorInfo
    from quantkit.records import Case
    from quantkit.scheme import Scheme


class BitsAndBytes:
    """Satisfies `contracts.Backend`."""

    name = "bitsandbytes"
    title = "bitsandbytes"
    extra = "bitsandbytes"
    targets = ("cpu", "simulated")
    profiles = ("regular", "full")
    stateful = False
    # Importing the library starts no thread, so a fork is safe. On a machine with CUDA the import asks the device for
    # its version: forked cases can then use the processor only.
    build_modules = ("quantkit.backends._bitsandbytes_build",)
    run_modules = ("quantkit.backends._bitsandbytes_graph",)

    def unsupported(self, case: Case, model: ModelInfo, scheme: Scheme) -> str | None:
        """Return why bitsandbytes cannot give this scheme on this kind of model, or None."""
        return scheme_refusal(scheme) or model_refusal(scheme, model)

    def versions(self) -> Mapping[str, str]:
        """Return the versions of graph format, quantizer and file format."""
        return {name: extras.version(name) for name in ("torch", "bitsandbytes", "safetensors")}

    def executor(self, target: str) -> str:
        """Return who runs the artifact."""
        return "bitsandbytes and torch.export on the CPU"

    def untimed(self, target: str) -> str | None:
        """What runs here is what is meant: its speed counts."""
        return None

    def build(self, prepared: Prepared, folder: Path, threads: int) -> BuildReport:
        """Write `graph.pt2` and, where layers are quantized, `weights.safetensors`.

        Raises:
            Unsupported: torch.export cannot trace the network, nearly nothing would be quantized, or a weight is nan.
        """
        import torch

        from quantkit.backends import _bitsandbytes_build

        torch.set_num_threads(threads)
        return _bitsandbytes_build.build(prepared, folder)

    def save_native(self, network: Any, scheme: Scheme, folder: Path) -> str:
        """Write a network of transformers as its `from_pretrained` opens it; return what it is.

        Raises:
            Unsupported: no network of transformers, or a scheme that its configuration cannot say.
        """
        from quantkit.backends import _bitsandbytes_transformers

        _bitsandbytes_transformers.save_pretrained_quantized(network, scheme, folder)
        return f"opens with transformers' {type(network).__name__}.from_pretrained, quantized by BitsAndBytesConfig"

    def open(self, folder: Path, target: Target, threads: int) -> Session:
        """Load the artifact with that many threads.

        Raises:
            CorruptFile: a file is missing or unreadable, or the two do not belong together.
        """
        import torch

        from quantkit.backends import _bitsandbytes_graph as graphs

        torch.set_num_threads(threads)
        start = time.perf_counter()
        program, tensors = graphs.load(folder)
        inputs, _ = graphs.faces(program)
        module = graphs.fill(program, tensors)
        loaded = time.perf_counter()
        graphs.repack(module)
        return BitsAndBytesSession(module, inputs, (loaded - start, time.perf_counter() - loaded))


class BitsAndBytesSession:
    """A loaded program and its layers (satisfies `contracts.Session`).

    Args:
        seconds: of loading, and of repacking codes for this processor (which the first call would do otherwise).
    """

    def __init__(self, module: Any, inputs: tuple[TensorInfo, ...], seconds: tuple[float, float]):
        self._module, self._inputs = module, inputs
        self.load_s, self.compile_s = seconds

    def feed(self, inputs: Arrays) -> list[Any]:
        """Return the inputs as tensors of their own.

        Raises:
            ValueError: another number of inputs, shape or dtype than the artifact has.
        """
        import torch

        if len(inputs) != len(self._inputs):
            names = ", ".join(known.name for known in self._inputs)
            raise ValueError(f"the artifact takes {len(self._inputs)} inputs ({names}): got {len(inputs)}")
        for known, array in zip(self._inputs, inputs, strict=True):
            got, expected = f"{array.dtype} {list(array.shape)}", f"{known.dtype} {list(known.shape)}"
            if got != expected:
                raise ValueError(f"input {known.name!r}: got {got}, expected {expected}")
        return [torch.from_numpy(array).clone() for array in inputs]

    def run(self, fed: list[Any]) -> Any:
        """Run the network once."""
        import torch

        with torch.inference_mode():
            return self._module(*fed)

    def fetch(self, output: Any) -> np.ndarray:
        """Return the output as float32."""
        return output.float().numpy()

    def close(self) -> None:
        """Free the network and its layers."""
        self._module = None


plugin = BitsAndBytes()

"""MLX, Apple's array library: torch.export's graph run by an interpreter of its own, weights by MLX's quantizer.

The artifact is `graph.json` and `weights.safetensors`; MLX alone opens it. On Apple silicon it runs on the CPU or the
GPU; elsewhere on MLX's CPU backend, whose numbers are valid and whose speed says nothing.
https://ml-explore.github.io/mlx/build/html/python/_autosummary/mlx.core.quantize.html
"""

from __future__ import annotations

import platform
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quantkit import extras
from quantkit.contracts import Arrays, BuildReport, ModelInfo, Prepared, Session, Target
from quantkit.environment import apple_silicon
from quantkit.errors import CorruptFile, Unsupported
from quantkit.records import Case
from quantkit.scheme import PerChannel, PerGroup, Scheme

if TYPE_CHECKING:
    import numpy as np

BITS, GROUPS = (2, 3, 4, 5, 6, 8), (32, 64, 128)  # of the mode "affine"
BLOCKS = {"mxfp4": 32, "mxfp8": 32, "nvfp4": 16}  # the other modes have one group size each


class Mlx:
    """Satisfies `contracts.Backend`."""

    name = "mlx"
    title = "MLX"
    extra = "mlx"
    targets = ("cpu", "mps")
    profiles = ("fast", "regular", "full")
    stateful = False
    build_modules = ("torch._dynamo", "torch.export", "networkx", "mlx.core")  # torch.export imports networkx late
    # importing starts no thread; the first array that is computed does, and a fork after that would hang
    run_modules = ("numpy", "mlx.core")

    def unsupported(self, case: Case, model: ModelInfo, scheme: Scheme) -> str | None:
        """Return why MLX's quantizer cannot give this scheme on this kind of model, or None."""
        if not scheme.quantized:
            return None
        return scheme_refusal(scheme) or model_refusal(scheme, model)

    def versions(self) -> Mapping[str, str]:
        """Return the versions of exporter and quantizer."""
        return {name: extras.version(name) for name in ("torch", "mlx")}

    def executor(self, target: str) -> str:
        """Return who runs the artifact here."""
        if not apple_silicon():
            return f"MLX on the CPU ({platform.system()})"
        return "MLX on the GPU" if target == "mps" else "MLX on the CPU"

    def untimed(self, target: str) -> str | None:
        """Return why speed off Apple silicon says nothing."""
        if apple_silicon():
            return None
        return "MLX's speed off Apple silicon is no proxy for it (the Linux build carries a reference BLAS)"

    def build(self, prepared: Prepared, folder: Path, threads: int) -> BuildReport:
        """Write `weights.safetensors` and `graph.json`; `compile_s` is the time of export and quantization.

        `threads` is not used: MLX takes no thread count.

        Raises:
            Unsupported: an operation without MLX form, by name, next to nothing would be quantized, or a layer's own
                scheme has no form, with the layer's name.
        """
        extras.require("mlx.core")
        for layer, scheme in prepared.plan.layers.items():
            if scheme is not None and scheme.quantized and (reason := scheme_refusal(scheme)):
                raise Unsupported(f"layer {layer!r}: {reason}")
        from quantkit.backends import _mlx_build

        return _mlx_build.build(prepared, folder)

    def save_native(self, network: Any, scheme: Scheme, folder: Path) -> str:
        """Write a decoder as mlx-lm opens it; return what it is.

        Raises:
            Unsupported: mlx-lm does not know this architecture, or the scheme quantizes none of its layers.
        """
        from quantkit.backends import _mlx_lm

        _mlx_lm.save_for_mlx_lm(network, scheme, folder)
        return "opens with mlx_lm.utils.load_model, quantized by mlx-lm"

    def open(self, folder: Path, target: Target | None, threads: int) -> Session:
        """Load the artifact on Apple's GPU (target `mps` on Apple silicon) or on the CPU.

        Raises:
            CorruptFile: a file is missing, cannot be read, or does not belong to the other.
        """
        core = extras.require("mlx.core")
        gpu = target is not None and target.name == "mps" and apple_silicon()
        core.set_default_device(core.gpu if gpu else core.cpu)
        return MlxSession(folder)


class MlxSession:
    """Satisfies `contracts.Session`. MLX is lazy: whatever is timed is evaluated before the clock is read."""

    compile_s = 0.0  # kernels come ready with MLX

    def __init__(self, folder: Path) -> None:
        self._core = extras.require("mlx.core")
        from quantkit.backends import _mlx_program

        start = time.perf_counter()
        graph, tensors = _mlx_program.read(folder)
        self._core.eval(tensors)  # lazy too: this reads the weights
        self.load_s = time.perf_counter() - start
        self._inputs = graph["inputs"]
        try:
            self._program: Any = _mlx_program.Program(graph, tensors)
        except KeyError as error:
            raise CorruptFile(f"{folder} lacks codes, scales or biases ({error}): build the case again") from error

    def feed(self, inputs: Arrays) -> Any:
        """Return the inputs as MLX arrays.

        Raises:
            ValueError: another number of inputs, shape or dtype than the artifact has.
        """
        if len(inputs) != len(self._inputs):
            names = ", ".join(known["name"] for known in self._inputs)
            raise ValueError(f"the artifact takes {len(self._inputs)} inputs ({names}): got {len(inputs)}")
        for known, array in zip(self._inputs, inputs, strict=True):
            got, expected = (str(array.dtype), list(array.shape)), (known["dtype"], list(known["shape"]))
            if got != expected:
                raise ValueError(
                    f"input {known['name']!r}: got {got[0]} {got[1]}, expected {expected[0]} {expected[1]}"
                )
        fed = [self._core.array(x) for x in inputs]
        self._core.eval(fed)
        return fed

    def run(self, fed: Any) -> Any:
        """Run once; returns when the answer is there."""
        output = self._program(*fed)
        self._core.eval(output)
        return output

    def fetch(self, output: Any) -> np.ndarray:
        """Return the output as float32."""
        import numpy as np

        return np.array(output).astype(np.float32, copy=False)

    def close(self) -> None:
        """Free the weights."""
        self._program = None


def scheme_refusal(scheme: Scheme) -> str | None:
    """Return why MLX has no form of a quantized scheme, or None."""
    per = scheme.granularity
    if scheme.activations != "none":
        return "MLX quantizes weights only: it has no integer activations"
    if scheme.format not in ("int", *BLOCKS):
        return f"MLX's quantizer writes integers, MXFP4, MXFP8 and NVFP4, not {scheme.name}"
    if scheme.sparsity or scheme.double:
        return f"MLX has no {'sparse weights' if scheme.sparsity else 'doubly quantized scales'}"
    if scheme.codes != "nearest":
        return f"{scheme.codes.upper()} is not done with MLX: its quantizer rounds to the nearest code"
    if scheme.format in BLOCKS:
        whole = per == PerGroup(BLOCKS[scheme.format])
        return None if whole else f"{scheme.format} has groups of {BLOCKS[scheme.format]} in MLX: got {per}"
    if scheme.bits not in BITS:
        return f"MLX packs integer codes of 2, 3, 4, 5, 6 or 8 bits: got {scheme.bits}"
    if isinstance(per, PerGroup) and per.axis == 0 and per.group_size in GROUPS:
        return None
    if per == PerChannel(0):
        return None  # done with groups, and said in the build's notes
    return f"MLX keeps a scale for each group of 32, 64 or 128 inputs: got {per}"


def model_refusal(scheme: Scheme, model: ModelInfo) -> str | None:
    """Return why next to nothing of a model would be quantized, or None."""
    if model.family == "cnn":
        return "MLX quantizes matrix products and embeddings; the convolutions, nearly all weights, would stay float"
    if not {"linear", "embedding", "lstm"} & set(model.layers):
        return f"MLX quantizes matrix products and embeddings; {model.name} has {', '.join(model.layers)}"
    return None


plugin = Mlx()

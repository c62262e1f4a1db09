"""PyTorch native: torch.export, torchao's quantizers and AOTInductor (torch.compile's compiler run ahead of time).

The artifact is an AOTInductor package (`model.pt2`, machine code and weights) with `model.json` beside it; torch alone
opens it: no compiler and no torchao. Shapes, thread count and instruction set are fixed when it is built.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quantkit import extras
from quantkit.errors import HardwareCompatibilityError, Unsupported
from quantkit.scheme import PerChannel, PerGroup, PerTensor, Scheme

if TYPE_CHECKING:
    import numpy as np

    from quantkit.contracts import Arrays, BuildReport, ModelInfo, Prepared, Target
    from quantkit.records import Case

PACKAGE, FACTS = "model.pt2", "model.json"
INT4_GROUPS = (32, 64, 128)
RANGES = ("minmax", "moving_average", "mse")  # that torchao's PT2E has observers for
STATIC_LAYERS = {
    "conv2d",
    "linear",
}  # what torchao's PT2E quantizers annotate; its `quantize_` configs take Linear only


def scheme_refusal(scheme: Scheme) -> str | None:
    """Return why torchao and AOTInductor have no CPU kernel for a scheme, or None."""
    per = scheme.granularity
    if not scheme.quantized:
        return None
    if scheme.format != "int" or scheme.double or scheme.sparsity:
        return f"torchao's CPU kernels take integer codes on a uniform grid, not {scheme.name}"
    if scheme.activation_bits != 8 or scheme.codes != "nearest":
        return f"torchao's x86 path has 8-bit activations and rounding to nearest: not {scheme.name}"
    if scheme.ranges not in RANGES:
        return f"torchao's PT2E has observers of {', '.join(RANGES)}: none for {scheme.ranges} ranges"
    if scheme.bits == 8 and scheme.activations == "none":
        return None
    if scheme.bits == 8:
        whole = isinstance(per, PerTensor) or per == PerChannel(0)
        return None if whole else f"torchao's int8 kernels take weight scales per tensor or per channel: got {per}"
    if scheme.bits == 4 and scheme.activations == "none":
        grouped = isinstance(per, PerGroup) and per.group_size in INT4_GROUPS
        return None if grouped else f"torch's int4 CPU kernel takes groups of 32, 64 or 128 weights: got {per}"
    return f"torchao has no packed CPU kernel for {scheme.name}"


def model_refusal(scheme: Scheme, model: ModelInfo) -> str | None:
    """Return why next to nothing of a model would be quantized, or None."""
    if not scheme.quantized:
        return None
    if model.family == "rnn":
        return (
            f"torchao's {scheme.name} leaves LSTM weights in float (only the last Linear would be quantized); unrolled "
            "into Linear steps they are stored in float once per step"
        )
    taken = {"conv2d", "linear"} if scheme.activations == "static" else {"linear"}
    if not taken & set(model.layers):
        return f"torchao's {scheme.name} takes {', '.join(sorted(taken))} only: got {', '.join(model.layers)}"
    if model.family == "cnn" and "conv2d" not in taken:
        return f"torchao's {scheme.name} takes Linear only: the convolutions, nearly all weights, would stay in float"
    return None


def compiler() -> str:
    """Return the C++ compiler that inductor will call."""
    return os.environ.get("CXX") or ("clang++" if platform.system() == "Darwin" else "g++")


class Pytorch:
    """torchao + AOTInductor (satisfies `contracts.Backend`)."""

    name = "pytorch"
    title = "PyTorch (torchao, AOTInductor)"
    extra = ""
    targets = ("cpu", "simulated")
    profiles = ("fast", "regular", "full")
    stateful = False
    build_modules = ("quantkit.backends._pytorch_build",)
    run_modules = ("numpy", "torch")
    integer_grid = "tinygemm"

    def unsupported(self, case: Case, model: ModelInfo, scheme: Scheme) -> str | None:
        """Return why this case cannot be done: the scheme, what the model consists of, or no C++ compiler."""
        if reason := scheme_refusal(scheme) or model_refusal(scheme, model):
            return reason
        if shutil.which(compiler()) is None:
            return f"AOTInductor needs a C++ compiler: no {compiler()} on the PATH (install one or set CXX)"
        return None

    def versions(self) -> Mapping[str, str]:
        """Return the versions of torch (compiler and kernels) and torchao (quantizers)."""
        return {name: extras.version(name) for name in ("torch", "torchao")}

    def executor(self, target: str) -> str:
        """Return who runs the artifact."""
        return "AOTInductor on the CPU"

    def untimed(self, target: str) -> str | None:
        """What runs here is what is meant: its speed counts."""
        return None

    def build(self, prepared: Prepared, folder: Path, threads: int) -> BuildReport:
        """Write `model.pt2` and `model.json`.

        Raises:
            Unsupported: torch.export or AOTInductor refuses the network, next to nothing would be quantized, or a
                layer's own scheme has no kernel, with the layer's name.
            CalibrationError: a static scheme without usable calibration items.
        """
        from quantkit.backends import _pytorch_build

        for layer, scheme in prepared.plan.layers.items():
            if scheme is not None and (reason := scheme_refusal(scheme)):
                raise Unsupported(f"layer {layer!r}: {reason}")

        report = _pytorch_build.build(prepared, folder / PACKAGE, threads)
        facts = {
            "inputs": [{"shape": list(x.shape), "dtype": str(x.dtype)} for x in prepared.example],
            "threads": threads,
            "machine": machine(),
        }
        (folder / FACTS).write_text(json.dumps(facts, indent=1), encoding="utf-8")
        return report

    def open(self, folder: Path, target: Target, threads: int) -> PytorchSession:
        """Load the package.

        Raises:
            ValueError: it was compiled for another number of threads (the count is in its code).
            HardwareCompatibilityError: it was compiled for another instruction set.
        """
        import torch

        facts = json.loads((folder / FACTS).read_text(encoding="utf-8"))
        if facts["threads"] != threads:
            raise ValueError(
                f"{folder / PACKAGE} is compiled for {facts['threads']} threads: got {threads}; build it again"
            )
        if facts["machine"] != machine():
            raise HardwareCompatibilityError(
                f"{folder / PACKAGE} is compiled for {facts['machine']}: this machine is {machine()}; build it here"
            )
        torch.set_num_threads(threads)
        start = time.perf_counter()
        loader = torch._C._aoti.AOTIModelPackageLoader(str(folder / PACKAGE), "model", True, 1, -1)
        return PytorchSession(loader, facts["inputs"], time.perf_counter() - start)


def machine() -> str:
    """Return what compiled code depends on: system, processor family and the vector instructions torch sees."""
    import torch

    return f"{platform.system()}-{platform.machine()}-{torch.backends.cpu.get_cpu_capability()}"


class PytorchSession:
    """A loaded package (satisfies `contracts.Session`)."""

    compile_s = 0.0  # compiled when it was built

    def __init__(self, loader: Any, expected: list[dict[str, Any]], load_s: float):
        self._loader, self._expected, self.load_s = loader, expected, load_s

    def feed(self, inputs: Arrays) -> list[Any]:
        """Return the inputs as tensors of their own.

        Raises:
            ValueError: other shapes or types than the package is compiled for (it does not check them itself).
        """
        import torch

        got = [(list(x.shape), str(x.dtype)) for x in inputs]
        expected = [(x["shape"], x["dtype"]) for x in self._expected]
        if got != expected:
            raise ValueError(f"inputs must be as compiled: got {_words(got)}, expected {_words(expected)}")
        return [torch.from_numpy(x).clone() for x in inputs]

    def run(self, fed: list[Any]) -> list[Any]:
        """Run the package once."""
        return self._loader.run(fed)

    def fetch(self, output: list[Any]) -> np.ndarray:
        """Return the only output as float32."""
        return output[0].float().numpy()

    def close(self) -> None:
        """Unload the package and remove what the loader unpacked."""
        self._loader = None


def _words(arrays: list[tuple[list[int], str]]) -> str:
    return ", ".join(f"{dtype} {shape}" for shape, dtype in arrays) or "nothing"


plugin = Pytorch()

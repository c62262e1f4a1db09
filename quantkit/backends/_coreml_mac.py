"""All that needs a Mac: Core ML compiles, predicts, keeps states, and says where each operation would run.

Nothing here has run where it was written (no Mac was at hand): the tests hold it against a fake of coremltools that has
the calls used here, read from coremltools 9.0's source. Each call fails in one line.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from quantkit import extras
from quantkit.errors import HardwareCompatibilityError

if TYPE_CHECKING:
    from quantkit.contracts import TensorInfo

UNITS = {"cpu": "CPU_ONLY", "mps": "CPU_AND_GPU", "ane": "CPU_AND_NE"}  # target -> coremltools' ComputeUnit
DEVICES = {"MLCPUComputeDevice": "cpu", "MLGPUComputeDevice": "gpu", "MLNeuralEngineComputeDevice": "ane"}


class Predictor:
    """Core ML on one of the Mac's units (satisfies `_coreml_session.Runner`).

    Core ML ends a prediction before it returns, so there is nothing to wait for.

    Raises:
        HardwareCompatibilityError: Core ML refuses to compile or load the package here.
    """

    def __init__(self, package: Path, target: str, inputs: Sequence[TensorInfo]):
        tools = extras.require("coremltools")
        self.inputs, self._package, self._target = tuple(inputs), package, target
        self._folder = Path(tempfile.mkdtemp(prefix="quantkit-coreml-"))
        start = time.perf_counter()
        compiled = compile_package(tools, package, self._folder)
        self.compile_s = time.perf_counter() - start
        start = time.perf_counter()
        self._model = load(tools, compiled, target)  # specializing for the unit is part of loading
        self.load_s = time.perf_counter() - start
        self._stateful = is_stateful(tools, package)
        self.reset()

    def run(self, inputs: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        return self._model.predict(dict(inputs), self._state) if self._stateful else self._model.predict(dict(inputs))

    def reset(self) -> None:
        self._state = self._model.make_state() if self._stateful else None

    def residency(self) -> Mapping[str, int]:
        return residency(self._package, self._target)

    def __del__(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)


def residency(package: Path, target: str) -> dict[str, int]:
    """Return how many operations Core ML would rather run on each device: {"cpu": 3, "ane": 120}.

    Constants have no device and are not counted. Preferred is not measured: it is the plan before the first prediction.

    Raises:
        HardwareCompatibilityError: Core ML refuses the package, or makes no plan (before macOS 14.4).
    """
    tools = extras.require("coremltools")
    from coremltools.models.compute_plan import MLComputePlan

    with tempfile.TemporaryDirectory(prefix="quantkit-coreml-") as folder:
        compiled = compile_package(tools, package, Path(folder))
        try:
            plan = MLComputePlan.load_from_path(compiled, compute_units=getattr(tools.ComputeUnit, UNITS[target]))
        except Exception as error:  # the native part raises whatever Core ML says
            raise refused("makes no compute plan for", package, error) from error
        found: Counter[str] = Counter()
        for operation in plan.model_structure.program.functions["main"].block.operations:
            usage = plan.get_compute_device_usage_for_mlprogram_operation(operation)
            if usage is not None:
                kind = type(usage.preferred_compute_device).__name__
                found[DEVICES.get(kind, kind)] += 1
    return dict(found)


def compile_package(tools: Any, package: Path, folder: Path) -> str:
    """Return the path of the compiled model below `folder`."""
    try:
        return str(tools.models.utils.compile_model(str(package), str(folder / "model.mlmodelc")))
    except Exception as error:  # the native part raises RuntimeError and its own kinds
        raise refused("cannot compile", package, error) from error


def load(tools: Any, compiled: str, target: str) -> Any:
    """Return the compiled model, loaded on the unit of `target` with the CPU beside it."""
    try:
        return tools.models.CompiledMLModel(compiled, compute_units=getattr(tools.ComputeUnit, UNITS[target]))
    except Exception as error:  # as above
        raise refused(f"cannot load on {UNITS[target]}", Path(compiled), error) from error


def is_stateful(tools: Any, package: Path) -> bool:
    return bool(tools.models.utils.load_spec(str(package)).description.state)


def refused(what: str, package: Path, error: Exception) -> HardwareCompatibilityError:
    """Return Core ML's refusal in one line; a newer deployment target than the system is the usual cause."""
    first = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return HardwareCompatibilityError(
        f"Core ML {what} {package.name}: {first}; see the deployment target in the build's notes"
    )

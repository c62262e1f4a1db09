"""Which of ONNX Runtime's execution providers serves a target, with which options; asked for when a session opens.

The processor has the CPU provider. Apple's GPU and Neural Engine are reached through the CoreML provider, which takes
the parts of a graph that it knows as ML Programs and leaves the rest to the processor:
https://onnxruntime.ai/docs/execution-providers/CoreML-ExecutionProvider.html
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from quantkit.environment import apple_silicon
from quantkit.errors import HardwareCompatibilityError
from quantkit.scheme import Scheme

CPU, COREML = "CPUExecutionProvider", "CoreMLExecutionProvider"
UNITS = {"mps": "CPUAndGPU", "ane": "CPUAndNeuralEngine"}  # target: the units that Core ML may choose from
RECORD = "session.record_ep_graph_assignment_info"


def refused(target: str, scheme: Scheme) -> str | None:
    """Return why an artifact in this scheme cannot run on that target here, or None. Imports nothing."""
    if target not in UNITS:
        return None
    if scheme.quantized:
        # The page above lists what the provider takes: no QuantizeLinear, QLinear* or MatMulNBits among it.
        return f"ONNX Runtime's CoreML provider knows no quantized operation: {scheme.name} would run on the processor"
    if not apple_silicon():
        return "needs macOS: ONNX Runtime's CoreML provider is in its macOS package only"
    return None


def executor(target: str) -> str:
    """Return who runs an artifact on that target."""
    return f"onnxruntime {COREML} {UNITS[target]}" if target in UNITS else f"onnxruntime {CPU}"


def configure(options: Any, runtime: Any, target: str) -> list[Any]:
    """Set what depends on the target in a session's options and return its providers, the preferred one first.

    All optimizations are for the processor. Of the three levels only the basic one runs before a graph is divided among
    providers; the later ones fuse for the processor's kernels (NCHWc layouts), so a CoreML session does without them:
    https://onnxruntime.ai/docs/performance/model-optimizations/graph-optimizations.html

    Raises:
        HardwareCompatibilityError: the installed ONNX Runtime has no CoreML provider.
    """
    levels = runtime.GraphOptimizationLevel
    if target not in UNITS:
        options.graph_optimization_level = levels.ORT_ENABLE_ALL
        return [CPU]
    available = runtime.get_available_providers()
    if COREML not in available:
        raise HardwareCompatibilityError(
            f"target {target} needs ONNX Runtime's CoreML provider: got {', '.join(available)}; use its macOS package"
        )
    options.graph_optimization_level = levels.ORT_ENABLE_BASIC
    options.add_session_config_entry(RECORD, "1")
    return [(COREML, {"ModelFormat": "MLProgram", "MLComputeUnits": UNITS[target]}), CPU]


def check_assignment(session: Any, target: str) -> None:
    """Refuse a session whose graph went to the processor as a whole: its figures would not be the target's.

    Raises:
        HardwareCompatibilityError: the CoreML provider took no node.
    """
    if target not in UNITS:
        return
    taken = assigned(session)
    if not taken[COREML]:
        raise HardwareCompatibilityError(
            f"ONNX Runtime's CoreML provider took none of the {taken.total()} nodes: measure on target cpu instead"
        )


def assigned(session: Any) -> Counter[str]:
    """Return how many nodes each provider took; the session must have been opened with `RECORD`."""
    counts: Counter[str] = Counter()
    for part in session.get_provider_graph_assignment_info():
        counts[part.ep_name] += len(part.get_nodes())
    return counts

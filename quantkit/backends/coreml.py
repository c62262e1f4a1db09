"""Core ML: `torch.jit.trace`, coremltools' converter and coremltools' own compression, saved as one .mlpackage.

On a Mac, Core ML predicts on the target's unit. Elsewhere `quantkit.mil` carries out the saved program: size, coverage
and quality are those of what ships, speed is not to be had.
https://apple.github.io/coremltools/docs-guides/source/opt-overview.html
"""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quantkit import extras
from quantkit.backends import _coverage
from quantkit.backends._coreml_mac import UNITS
from quantkit.contracts import BuildReport, ModelInfo, Prepared, StatefulSession, Target
from quantkit.environment import apple_silicon
from quantkit.records import Case
from quantkit.scheme import Scheme

if TYPE_CHECKING:
    from quantkit.backends._coreml_lower import Lowered

PACKAGE = "model.mlpackage"


class Coreml:
    """Satisfies `contracts.Backend`."""

    name = "coreml"
    title = "Core ML"
    extra = "coreml"
    targets = ("cpu", "mps", "ane")
    profiles = ("fast", "regular", "full")
    stateful = True
    build_modules = ("coremltools", "coremltools.optimize.coreml", "quantkit.mil.program")
    run_modules = ("coremltools",) if apple_silicon() else ("coremltools", "quantkit.mil.program")

    def unsupported(self, case: Case, model: ModelInfo, scheme: Scheme) -> str | None:
        """Return why Core ML or coremltools cannot give this scheme on this kind of model, or None."""
        from quantkit.backends._coreml_compress import scheme_refusal

        if reason := scheme_refusal(scheme):
            return reason
        if scheme.activations == "static" and model.family == "rnn":
            return (
                "coremltools' int8 activations are for conv, linear, pooling and add: an LSTM would compute in float16"
            )
        return None

    def versions(self) -> Mapping[str, str]:
        """Return the versions of tracer, converter and quantizer, and of what clusters palettes."""
        return {name: extras.version(name) for name in ("torch", "coremltools", "scikit-learn", "numpy")}

    def executor(self, target: str) -> str:
        """Return who runs the artifact: Core ML on a unit, or the reference executor off a Mac."""
        return f"Core ML {UNITS[target]}" if apple_silicon() else "mil-reference"

    def untimed(self, target: str) -> str | None:
        """Return why the reference executor's speed says nothing."""
        return None if apple_silicon() else "needs macOS"

    def build(self, prepared: Prepared, folder: Path, threads: int) -> BuildReport:
        """Write `model.mlpackage`; `compile_s` is conversion and compression, calibration apart.

        Raises:
            Unsupported: an operation or layer that coremltools refuses, with its name; next to nothing compressed.
            CalibrationError: a static scheme without usable calibration items.
        """
        from quantkit.backends import _coreml_compress as compress
        from quantkit.backends import _coreml_lower

        _coreml_lower.toolchain()
        extras.require("torch").set_num_threads(threads)
        with workspace(folder) as work:
            start = time.perf_counter()
            half, target, notes = _form(prepared)
            lowered = _coreml_lower.lower(prepared.network, prepared.example, half=half, target=target)
            schemes = compress.wanted(lowered.weights, prepared.plan)
            model, calibration_s = _quantize_activations(lowered, schemes, prepared, work)
            model = compress.compress_weights(model, lowered.weights, schemes)
            with _coreml_lower.quiet():
                model.save(str(work / PACKAGE))
            compile_s = time.perf_counter() - start - calibration_s
            report = _report(work / PACKAGE, lowered, schemes, prepared)
            (work / PACKAGE).rename(folder / PACKAGE)
        return BuildReport(
            **report | {"notes": notes + report["notes"]}, compile_s=compile_s, format="fp16" if half else "fp32"
        )

    def open(self, folder: Path, target: Target, threads: int) -> StatefulSession:
        """Load the package on the target's unit, or into the reference executor with that many threads.

        Raises:
            CorruptFile: the package is missing, truncated or inconsistent.
            HardwareCompatibilityError: this Mac's Core ML refuses it.
        """
        from quantkit.backends import _coreml_session

        if not apple_silicon():
            return _coreml_session.CoremlSession(_coreml_session.Reference(folder / PACKAGE, threads))
        from quantkit.backends import _coreml_mac, _coreml_report
        from quantkit.mil import package

        inputs = _coreml_report.Package(package.read(folder / PACKAGE)[0]).tensors("input")
        return _coreml_session.CoremlSession(_coreml_mac.Predictor(folder / PACKAGE, target.name, inputs))


@contextlib.contextmanager
def workspace(folder: Path) -> Iterator[Path]:
    """Give a folder that is gone afterwards; coremltools' own temporary packages go there as well.

    It would delete those when the process exits, which a forked case never does in its sense.
    """
    before = tempfile.tempdir
    with tempfile.TemporaryDirectory(dir=folder, prefix=".building-") as work:
        tempfile.tempdir = work
        try:
            yield Path(work)
        finally:
            tempfile.tempdir = before


def _form(prepared: Prepared) -> tuple[bool, str, tuple[str, ...]]:
    """Return whether floats are float16, the deployment target, and notes on both."""
    from torch import nn

    from quantkit.backends import _coreml_compress as compress

    plan, network = prepared.plan, prepared.network
    half = plan.default.format != "fp32"
    recurrent = any(isinstance(module, nn.RNNBase) for module in network.modules())
    stateful = bool(getattr(network, "states", ()))
    target, note = compress.deployment_target(plan, half=half, lstm=recurrent, states=stateful)
    notes = [note]
    if half:
        notes.append("floats are float16, Core ML's own form and the only one of the Neural Engine")
    if stateful:
        notes.append("states are float16: Core ML has no others")
    if half and any(isinstance(module, nn.RMSNorm) for module in network.modules()):
        notes.append("RMSNorm: coremltools divides by the largest value before it adds epsilon (about 60 dB)")
    return half, target, tuple(notes)


def _quantize_activations(
    lowered: Lowered, schemes: Mapping[str, Scheme | None], prepared: Prepared, work: Path
) -> tuple[Any, float]:
    """Return the model with int8 activations where the plan asks for them, and the seconds that calibration took."""
    from quantkit.backends import _coreml_compress as compress

    if not any(scheme and scheme.activations == "static" for scheme in schemes.values()):
        return lowered.model, 0.0
    from quantkit.backends import _coreml_calibrate as calibrate
    from quantkit.backends import _coreml_lower

    start = time.perf_counter()
    with _coreml_lower.quiet():
        lowered.model.save(str(work / "float.mlpackage"))
    found = calibrate.ranges(work / "float.mlpackage", prepared.calibration, calibrate.way(schemes))
    calibration_s = time.perf_counter() - start
    config = compress.activation_config(lowered.model, lowered.layers, schemes, prepared.plan.default)
    return calibrate.quantize_activations(lowered.model, config, found), calibration_s


def _report(path: Path, lowered: Lowered, schemes: Mapping[str, Scheme | None], prepared: Prepared) -> dict[str, Any]:
    """Return what the saved package holds, as fields of a `BuildReport`."""
    from quantkit.backends import _coreml_calibrate as calibrate
    from quantkit.backends import _coreml_report as reports
    from quantkit.mil import package

    saved = reports.Package(package.read(path)[0])
    layers = reports.layer_reports(saved.stored(lowered.layers), lowered.weights, schemes)
    layers += tuple(reports.table_reports(lowered.tables, prepared.plan.default))
    _coverage.refuse_nearly_float(layers, prepared.plan.default, widest=8)
    notes = []
    if any(schemes.values()):
        notes.append("weight_threshold=0: layers of any size are compressed; tables and biases stay in float")
    if any(scheme and scheme.activations == "static" for scheme in schemes.values()):
        done, all_ = saved.activations(lowered.layers)
        notes.append(f"int8 activations feed {done} of {all_} operations with weights; the others compute in float16")
        taken = calibrate.SAYINGS[calibrate.way(schemes)]
        notes.append(f"ranges: {taken} over the calibration items, by the reference executor, symmetric")
        if getattr(prepared.network, "states", ()):
            notes.append(f"ranges of a network with states: the first {calibrate.STEPWISE_ITEMS} calibration items")
    return {
        "layers": layers,
        "weight_bytes": saved.weight_bytes(),
        "notes": tuple(notes),
        "inputs": saved.tensors("input"),
        "outputs": saved.tensors("output"),
    }


plugin = Coreml()

"""`manifest.json` of an export: what it is, where it came from, how it is called, and how true it is to the original.

The schema is documented in docs/export.md; `check` is for whoever received an export.
"""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from quantkit.catalog import BACKENDS, METHODS
from quantkit.contracts import BuildReport, ModelInfo, Observation, TensorInfo
from quantkit.deploy.request import Request
from quantkit.errors import CorruptFile, QuantizationError
from quantkit.extras import version
from quantkit.files import sha256_of, write_atomic
from quantkit.numerics import fidelity
from quantkit.pipeline.result import measure

SCHEMA_VERSION = 1
FILE, ARTIFACT, GOLDEN, NATIVE = "manifest.json", "artifact", "golden", "native"
SEALED = (ARTIFACT, GOLDEN, NATIVE)  # folders whose files the manifest vouches for; the app is there to be changed
GOLDEN_CALLS = 8
MODEL_FACTS = ("name", "title", "family", "licence", "provenance", "layers", "stepwise")


def check(folder: Path) -> dict[str, Any]:
    """Return the manifest of an export after checking that every file is the one that was written.

    Raises:
        CorruptFile: no readable manifest, or a file of the artifact or the golden data is missing, changed or new.
    """
    try:
        manifest: dict[str, Any] = json.loads((folder / FILE).read_text(encoding="utf-8"))
        schema, files = manifest["schema_version"], manifest["files"]
        expected = {name: entry["sha256"] for name, entry in files.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise CorruptFile(f"{folder} has no readable {FILE}: export the model again") from None
    if schema != SCHEMA_VERSION:
        raise CorruptFile(f"{folder / FILE} has schema {schema}: this quantkit reads {SCHEMA_VERSION}")
    found = _files(folder)
    for name, sha256 in expected.items():
        if name not in found:
            raise CorruptFile(f"{folder / name} is missing: export the model again")
        if found[name]["sha256"] != sha256:
            raise CorruptFile(f"{folder / name} is not the file that was exported: export the model again")
    if strangers := sorted(set(found) - set(expected)):
        raise CorruptFile(f"{folder / strangers[0]} is not part of the export: remove it or export the model again")
    return manifest


def _files(folder: Path) -> dict[str, dict[str, Any]]:
    """Return hash and size of every sealed file by its path below `folder`."""
    paths = sorted(path for part in SEALED for path in (folder / part).rglob("*") if path.is_file())
    return {
        path.relative_to(folder).as_posix(): {"sha256": sha256_of(path), "bytes": path.stat().st_size} for path in paths
    }


def write(folder: Path, manifest: dict[str, Any]) -> dict[str, Any]:
    """Write the manifest, with the hashes of the files that lie in `folder` now; return it as `check` would."""
    text = json.dumps(manifest | {"files": _files(folder)}, indent=1, ensure_ascii=False, allow_nan=False)
    write_atomic(folder / FILE, text.encode())
    whole: dict[str, Any] = json.loads(text)
    return whole


def assemble(request: Request, info: ModelInfo, report: BuildReport, answers: dict[str, np.ndarray]) -> dict[str, Any]:
    """Return the manifest without its files.

    Args:
        answers: `reference` and `outputs` [items, n, ...] of the original and the artifact; `x0`, `x1` … the inputs.
    """
    method, backend = METHODS.get(request.method), BACKENDS.get(request.backend)
    return {
        "schema_version": SCHEMA_VERSION,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "model": {name: getattr(info, name) for name in MODEL_FACTS} | {"sources": [asdict(s) for s in info.sources]},
        "method": request.method,
        "scheme": method.scheme.name if method.scheme.quantized else report.format,
        "float_format": report.format,
        "backend": {"name": backend.name, "title": backend.title},
        "versions": {"quantkit": version("quantkit")} | dict(backend.versions()),
        "executor": backend.executor(request.target),
        "threads": request.settings.threads,
        "inputs": [asdict(t) for t in report.inputs],
        "outputs": [asdict(t) for t in report.outputs],
        "preprocessing": info.preprocessing,
        "labels": list(info.labels),
        "golden": golden_facts(answers, stepwise=info.stepwise),
        "coverage": coverage(report, quantized=method.scheme.quantized),
        "fidelity": {"items": len(answers["reference"])} | _fidelity(info, report, answers),
        "notes": list(report.notes),
    }


def with_ends(report: BuildReport, names: tuple[str, ...], answers: dict[str, np.ndarray]) -> BuildReport:
    """Return the report with inputs and outputs filled in where the backend left them empty: `x0`, `y0` by position.

    Raises:
        QuantizationError: the artifact has another number of inputs than the network.
    """
    columns = [answers[f"x{i}"] for i in range(sum(name.startswith("x") for name in answers))]
    if not report.inputs:
        said = [name or f"x{i}" for i, name in enumerate(names)] or [f"x{i}" for i in range(len(columns))]
        made = tuple(TensorInfo(n, tuple(x.shape[2:]), str(x.dtype)) for n, x in zip(said, columns, strict=True))
        note = "the toolchain tells no names of inputs and outputs: they go by position"
        report = replace(report, inputs=made, notes=(*report.notes, note))
    if len(report.inputs) != len(columns):
        raise QuantizationError(f"the artifact has {len(report.inputs)} inputs, the network {len(columns)}")
    if not report.outputs:
        shape = list(answers["outputs"].shape[1:])
        calls = columns[0].shape[1] if columns else 1
        shape[1:2] = [shape[1] // calls] if len(shape) > 1 else []
        report = replace(report, outputs=(TensorInfo("y0", tuple(shape), "float32"),))
    return report


def _fidelity(info: ModelInfo, report: BuildReport, answers: dict[str, np.ndarray]) -> dict[str, Any]:
    """Return SQNR, cosine, where outputs are scores the agreement, and the largest error."""
    reference, outputs = answers["reference"], answers["outputs"]
    seen = Observation(info, "", report, 0, outputs, reference, None, ())
    figures = {m.metric: {"value": m.values[0] if m.values else None, "unit": str(m.unit)}
               | ({"reason": m.reason} if m.reason else {}) for m in measure("fidelity", seen)}  # fmt: skip
    return figures | {"max_abs_error": {"value": float(np.abs(outputs - reference).max()), "unit": "1"}}


def coverage(report: BuildReport, *, quantized: bool) -> dict[str, Any]:
    """Return how many weights there are, how they are stored, and by name what stayed in float."""
    total = sum(layer.weights for layer in report.layers)
    codes = sum(layer.weights for layer in report.layers if layer.bits <= 8)
    left = [asdict(layer) for layer in report.layers if layer.bits > 8] if quantized else []
    return {
        "weights": total,
        "weight_bytes": report.weight_bytes,
        "bits_per_weight": 8 * report.weight_bytes / total if total else None,
        "quantized_share": codes / total if total else None,
        "left_in_float": left,
    }


def golden_facts(answers: dict[str, np.ndarray], *, stepwise: bool) -> dict[str, Any]:
    """Return where the golden data lies and how far from it another run of the same artifact may be.

    The tolerance is the artifact's own largest error against the original on the golden item (who is as near says as
    much), and a hundredth of the largest output, for other kernels' rounding and order of sums.
    """
    calls = min(GOLDEN_CALLS, answers["x0"].shape[1]) if stepwise else 1
    inputs = sorted(name for name in answers if name.startswith("x"))
    output, reference = answers["outputs"][0], answers["reference"][0]
    return {
        "file": f"{GOLDEN}/golden.npz",
        "calls": calls,
        "inputs": [f"{GOLDEN}/input{i}.bin" for i in range(len(inputs))],
        "outputs": [f"{GOLDEN}/output0.bin"],
        "output_dtype": "float32",
        "max_abs_error": float(np.abs(output - reference).max() + 0.01 * np.abs(output).max()),
    }


def write_golden(folder: Path, manifest: dict[str, Any], answers: dict[str, np.ndarray]) -> None:
    """Write the first item and the artifact's own answer to it, [calls, ...]: as .npz, and raw little-endian."""
    golden, arrays = manifest["golden"], {}
    calls = golden["calls"]
    for i, info in enumerate(manifest["inputs"]):
        arrays[f"input{i}"] = answers[f"x{i}"][0, :calls].astype(info["dtype"])  # e.g. int32 for the network's int64
    output = answers["outputs"][0]
    arrays["output0"] = np.stack([output[:, k : k + 1] for k in range(calls)] if calls > 1 else [output])
    (folder / GOLDEN).mkdir()
    np.savez(folder / golden["file"], allow_pickle=False, **arrays)
    for name, array in arrays.items():
        (folder / GOLDEN / f"{name}.bin").write_bytes(array.astype(array.dtype.newbyteorder("<")).tobytes())


def absurd(answers: dict[str, np.ndarray]) -> bool:
    """Return whether the error is larger than the signal: SQNR below 0 dB."""
    return fidelity.sqnr_db(answers["reference"], answers["outputs"]) < 0

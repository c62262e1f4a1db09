"""What `quantkit export` does with its options: one export for each method and format, and a table for each."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quantkit.errors import InvalidSetting, QuantizationError, Unsupported

if TYPE_CHECKING:
    from quantkit.deploy.export import Exported
    from quantkit.deploy.request import Request

MIB = 2.0**-20
Say = Callable[[str], None]


def run(options: Namespace, say: Say, show: Say) -> int:
    """Export, say the progress and show the tables; return the exit status.

    0: all written. 1: written, but the error of one is larger than its signal. 2: one failed. 3: none could be done.

    Raises:
        QuantizationError: a mistake of the command line, or the only export failed.
    """
    from quantkit.deploy import export

    requests, template = _requests(options), options.template
    if template:
        from quantkit.deploy import fill

        for request in requests:
            fill.check_template(request.backend)
    places = _places(requests, options.out)
    for place in places:
        export.vacant(place, force=options.force)
    done: list[Exported] = []
    faults: list[QuantizationError] = []
    with export.original(requests[0].subject, requests, requests[0].settings) as original:
        for request, place in zip(requests, places, strict=True):
            try:
                done.append(export.export(request, original, place, say, template=template, force=options.force))
                show(table(done[-1]))
            except QuantizationError as error:
                if len(requests) == 1:
                    raise
                faults.append(error)
                word = "skip" if isinstance(error, Unsupported) else "failed"
                say(f"{word:<9} {request.subject.title} {request.method} {request.backend}: {error}")
    return _status(done, faults)


def _status(done: list[Exported], faults: list[QuantizationError]) -> int:
    if any(not isinstance(error, Unsupported) for error in faults):
        return 2
    if any(exported.absurd for exported in done):
        return 1
    return 0 if done else 3


def _requests(options: Namespace) -> list[Request]:
    from quantkit.deploy.request import Request, Shape, Subject, backend_of
    from quantkit.pipeline.settings import Settings

    limits = {"time_limit_s": options.time_limit, "memory_limit_bytes": Settings.bytes_of(options.memory_limit)}
    settings = Settings.of("fast", threads=options.threads, **limits)
    methods = [word.strip() for word in options.method.split(",")]
    backends = [backend_of(word) for word in options.format.split(",")]
    shapes = tuple(Shape.parse(text) for text in options.input)
    subject = Subject(options.model, options.example, shapes, options.calibration, _labels(options.labels))
    made = [Request(subject, method, backend, settings) for backend in backends for method in methods]
    return list(dict.fromkeys(made))


def _labels(path: Path | None) -> tuple[str, ...]:
    if path is None:
        return ()
    try:
        return tuple(line for line in path.read_text(encoding="utf-8").splitlines() if line)
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidSetting(f"--labels {path} cannot be read as UTF-8 text: {error}") from error


def _places(requests: list[Request], out: Path) -> list[Path]:
    out = out.expanduser().absolute()
    if len(requests) == 1:
        return [out]
    return [out / f"{request.method}-{request.backend}" for request in requests]


def table(exported: Exported) -> str:
    """Return what a user wants to see of an export: one line a fact."""
    facts, place = exported.manifest, exported.folder
    covered, fidelity = facts["coverage"], facts["fidelity"]
    size = sum(entry["bytes"] for name, entry in facts["files"].items() if name.startswith("artifact/"))
    rows = [
        ("", f"{facts['model']['name']} {facts['method']} ({facts['scheme']}) for {facts['backend']['title']}"),
        ("size", f"{_size(size)}, {_number(covered['bits_per_weight'], 1)} bits per weight"),
        ("int", f"{_share(covered['quantized_share'])} of {covered['weights']:,} weights"),
        *_left(covered["left_in_float"]),
        *((label, _figure(fidelity, name)) for label, name in FIGURES if name in fidelity),
        ("run by", facts["executor"]),
        *(("note", note) for note in facts["notes"]),
        *([("WARNING", ABSURD)] if exported.absurd else []),
        ("written", str(place)),
        ("next", _next(place)),
    ]
    return "\n".join(f"{label:<9} {text}".strip() for label, text in rows)


FIGURES = (
    ("SQNR", "sqnr_db"),
    ("cosine", "cosine"),
    ("agreement", "top1_agreement"),
    ("max error", "max_abs_error"),
)
ABSURD = "the error is larger than the signal (SQNR below 0 dB): this artifact is not usable as it is"


def _left(layers: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """Return a line for each of the first layers that stayed in float."""
    rows = [("float", f"{x['name'] or x['kind']}: {x['reason'] or 'no reason given'}") for x in layers[:5]]
    return rows + ([("float", f"and {len(layers) - 5} more layers, see the manifest")] if len(layers) > 5 else [])


def _figure(fidelity: dict[str, Any], name: str) -> str:
    value, unit = fidelity[name]["value"], fidelity[name]["unit"]
    items = f"{fidelity['items']} item{'s' * (fidelity['items'] != 1)}"
    if value is None:
        return fidelity[name]["reason"]
    text = f"{value:.1f} dB" if unit == "dB" else f"{value:.2%}" if name == "top1_agreement" else f"{value:.4g}"
    return f"{text} against the original, {items}" if name == "sqnr_db" else text


def _share(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.0%}" if value in (0, 1) else f"{min(value, 0.9999):.2%}"  # nearly all is not all


def _size(count: int) -> str:
    return f"{count * MIB:.2f} MiB" if count * MIB >= 1 else f"{count / 1024:.1f} KiB"


def _number(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _next(place: Path) -> str:
    readme = place / "app" / "README.md"
    return f"read {readme}" if readme.is_file() else "the same command with --template --force writes an application"

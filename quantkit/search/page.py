"""The sensitivity page: which layer loses how much in which scheme, and what was chosen. One HTML file, plain SVG."""

from __future__ import annotations

import html
import json
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from quantkit.files import write_atomic
from quantkit.procedures.sensitivity import Sensitivities
from quantkit.scheme import Scheme

ROW, NAME, CELL, BAR, TOP = 22, 260, 96, 180, 46  # pixels
FONT = "font:12px system-ui,sans-serif"
STYLE = (
    "body{font:14px system-ui,sans-serif;margin:2em;color:#222}"
    f"svg text{{{FONT};fill:#222}}.small{{font-size:10px}}.chosen{{fill:none;stroke:#111;stroke-width:2}}"
)
NOTE = (
    "Each cell: what the network's output loses when only this layer is in this scheme ({loss}, {items} calibration "
    "items, simulated). Darker loses more (logarithmic). Framed: what was chosen. Bars: bytes of the layer as chosen."
)


def write(
    folder: Path,
    title: str,
    found: Sensitivities,
    *,
    choices: Mapping[str, Scheme] | None = None,
    bytes_: np.ndarray | None = None,
    facts: Mapping[str, object] | None = None,
) -> Path:
    """Write `sensitivity.json` and `sensitivity.html` into a folder; return the page.

    Args:
        title: what the page is about, e.g. the model.
        choices: unit -> scheme, where something was chosen.
        bytes_: [units, schemes] as `costs.table` gives them; None draws no bars.
        facts: more to say, name -> value: budget, predicted and measured loss, verdict.
    """
    raw = json.loads(found.to_json()) | {"title": title, "facts": dict(facts or {})}
    raw["choices"] = {unit: scheme.name for unit, scheme in (choices or {}).items()}
    raw["bytes"] = None if bytes_ is None else bytes_.tolist()
    write_atomic(folder / "sensitivity.json", json.dumps(raw, indent=1, default=str).encode())
    write_atomic(folder / "sensitivity.html", page(title, found, choices or {}, bytes_, facts or {}).encode())
    return folder / "sensitivity.html"


def page(
    title: str,
    found: Sensitivities,
    choices: Mapping[str, Scheme],
    bytes_: np.ndarray | None,
    facts: Mapping[str, object],
) -> str:
    """Return the page: no script, nothing loaded from elsewhere."""
    rows = "".join(f"<li>{html.escape(name)}: {html.escape(str(value))}</li>" for name, value in facts.items())
    note = NOTE.format(loss=found.loss.replace("_", " "), items=found.items)
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{html.escape(title)}</title><style>{STYLE}</style>"
        f"<h1>{html.escape(title)}</h1><p>{note}</p><ul>{rows}</ul>{picture(found, choices, bytes_)}</html>\n"
    )


def picture(found: Sensitivities, choices: Mapping[str, Scheme], bytes_: np.ndarray | None = None) -> str:
    """Return the table of losses as SVG: one row a unit, one column a scheme."""
    width = NAME + CELL * len(found.schemes) + (BAR + 80 if bytes_ is not None and choices else 10)
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{TOP + ROW * len(found.units) + 10}">']
    for column, scheme in enumerate(found.schemes):
        parts.append(_text(NAME + CELL * (column + 0.5), TOP - 10, scheme.name, "middle"))
    low, high = _range(found.losses)
    for row, unit in enumerate(found.units):
        y = TOP + ROW * row
        parts.append(_text(NAME - 8, y + 15, unit or "(whole network)", "end"))
        for column, scheme in enumerate(found.schemes):
            parts.append(_cell(NAME + CELL * column, y, float(found.losses[row, column]), low, high))
            if choices.get(unit) == scheme:
                parts.append(_rectangle(NAME + CELL * column + 1, y + 1, CELL - 2, ROW - 2, 'class="chosen"'))
    if bytes_ is not None and choices:
        parts.append(_bars(found, choices, bytes_))
    return "".join(parts) + "</svg>"


def _bars(found: Sensitivities, choices: Mapping[str, Scheme], bytes_: np.ndarray) -> str:
    picked = [found.schemes.index(choices[unit]) for unit in found.units]
    sizes = bytes_[np.arange(len(picked)), picked].astype(float)
    left, parts = NAME + CELL * len(found.schemes) + 14, []
    for row, size in enumerate(sizes):
        length = BAR * size / max(sizes.max(), 1.0)
        parts.append(_rectangle(left, TOP + ROW * row + 4, length, ROW - 8, 'fill="#7a9cc6"'))
        parts.append(_text(left + length + 4, TOP + ROW * row + 15, f"{size:,.0f} B", "start"))
    return "".join(parts)


def _range(losses: np.ndarray) -> tuple[float, float]:
    """Return the logarithms of the smallest and largest loss that are positive."""
    positive = losses[np.isfinite(losses) & (losses > 0)]
    if not positive.size:
        return 0.0, 1.0
    return math.log10(positive.min()), math.log10(positive.max())


def _cell(x: float, y: float, loss: float, low: float, high: float) -> str:
    if math.isnan(loss):
        return _rectangle(x, y, CELL, ROW, 'fill="#eee"') + _text(x + CELL / 2, y + 15, "not simulated", "middle")
    place = 0.0 if loss <= 0 else (math.log10(loss) - low) / ((high - low) or 1.0)
    shade = round(255 - 150 * min(1.0, max(0.0, place)))
    fill = f'fill="rgb(255,{shade},{max(60, shade - 40)})"'
    return _rectangle(x, y, CELL, ROW, fill) + _text(x + CELL / 2, y + 15, f"{loss:.2g}", "middle")


def _rectangle(x: float, y: float, width: float, height: float, look: str) -> str:
    return f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" {look}/>'


def _text(x: float, y: float, words: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{html.escape(words)}</text>'

"""What backends refuse once the artifact is there: one that hardly holds what its name says."""

from __future__ import annotations

from collections.abc import Sequence

from quantkit.contracts import LayerReport
from quantkit.errors import Unsupported
from quantkit.scheme import Scheme

LEAST_SHARE = 0.1  # of the weights in the asked-for bits


def refuse_nearly_float(layers: Sequence[LayerReport], scheme: Scheme, widest: float | None = None) -> None:
    """Raise Unsupported where hardly any weight took the scheme; the message names the largest layer that did not.

    Args:
        widest: bits up to which a layer counts as done; None takes the scheme's own.
    """
    most = scheme.bits if widest is None else widest
    total = sum(layer.weights for layer in layers)
    done = sum(layer.weights for layer in layers if layer.bits <= most)
    if not scheme.quantized or not total or done >= LEAST_SHARE * total:
        return
    left = max((layer for layer in layers if layer.bits > most), key=lambda layer: layer.weights)
    why = left.reason or "the plan says so"
    stays = f"{left.kind} {left.name!r} stays float ({why})"
    raise Unsupported(f"only {done} of {total} weights would be {scheme.name}: {stays}")

"""A layer taken out of its network: as a network of its own, with the inputs that it gets inside."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import nn

from quantkit.contracts import Split


class Alone(nn.Module):
    """One layer as a network of its own: its first output for its first input."""

    def __init__(self, layer: nn.Module):
        super().__init__()
        self.layer = layer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return what the layer makes of x."""
        made = self.layer(x)
        return made[0] if isinstance(made, tuple) else made


class Empty(nn.Module):
    """Next to nothing: what remains is the cost of a call."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return 2x, for x [1, 1]."""
        return x * 2


def inputs_of(network: nn.Module, items: Split, names: Sequence[str], most: int) -> dict[str, list[np.ndarray]]:
    """Return the first input of each layer's first call for each of the first `most` items."""
    found: dict[str, list[np.ndarray]] = {name: [] for name in names}

    def keeping(name: str, count: int) -> Callable[..., None]:
        def hook(_: nn.Module, inputs: tuple) -> None:
            if inputs and len(found[name]) < count:
                found[name].append(np.ascontiguousarray(inputs[0].detach().numpy()).copy())

        return hook

    for index in range(min(most, len(items))):
        handles = [network.get_submodule(n).register_forward_pre_hook(keeping(n, index + 1)) for n in names]
        try:
            with torch.inference_mode():
                network(*map(torch.from_numpy, items.item(index)))
        finally:
            for handle in handles:
                handle.remove()
    return found

"""What the decoders of the Python documentation have in common: their weights, and how they are judged."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from quantkit.contracts import ModelInfo, Profile, Quality, Source
from quantkit.zoo import _load

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import nn


WEIGHTS = Source(
    "asset", "weights/pydoc_gpt.safetensors", "79fd8ddd9a76760aa9df4f1b260a765713329d8788370d2f66535a55f7e38630"
)


class Gpt:
    """A decoder with the weights that training/pydoc_gpt.py made (satisfies `contracts.Model`).

    Args:
        network: returns the untrained network; its parameters have the names of the file of weights.
        stepwise: it takes one position at a time and keeps a cache.
    """

    def __init__(
        self,
        name: str,
        title: str,
        dataset: str,
        *,
        network: Callable[[], nn.Module],
        profiles: tuple[Profile, ...],
        stepwise: bool = False,
    ):
        self._network = network
        self.info = ModelInfo(
            name=name,
            title=title,
            family="transformer",
            domain="llm",
            dataset=dataset,
            quality=Quality("nats_per_token", "score", better="lower", margin=0.01),
            sources=(WEIGHTS,),
            licence="Apache-2.0",
            provenance="trained by training/pydoc_gpt.py on the Python 3.11 documentation and library (PSF-2.0)",
            layers=("embedding", "linear"),
            profiles=profiles,
            stepwise=stepwise,
        )

    def load(self) -> nn.Module:
        """Return the trained network, its weights checked against the recorded hash."""
        return _load.fill(self._network(), _load.safetensors(self.info.sources))

    def outcomes(self, outputs: np.ndarray, targets: np.ndarray) -> np.ndarray:
        """Return the mean negative log likelihood of each item, nats per token: [n], from [n, t, 2048] and [n, t]."""
        from quantkit.numerics import outcomes

        return outcomes.nats_per_token(outputs, targets)

    def loss(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Return the mean negative log likelihood, nats per token, from logits [n, t, 2048] and tokens [n, t]."""
        from torch.nn import functional

        return functional.cross_entropy(outputs.flatten(0, 1), targets.flatten())

"""What the classifiers of Fashion-MNIST have in common; their files hold the networks."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

from quantkit.contracts import ModelInfo, Profile, Quality, Source
from quantkit.zoo import _load

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import nn

LABELS = (*("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),)


class FashionClassifier:
    """A network that was trained by training/fashion_mnist.py (satisfies `contracts.Model`).

    Args:
        network: returns the untrained network: images [n, 1, 28, 28] in 0..1 -> logits [n, 10].
        layers: kinds of layers that hold weights.
        source: the committed weights.
        profiles: the profiles that include it.
    """

    def __init__(
        self,
        name: str,
        title: str,
        family: Literal["cnn", "transformer", "rnn"],
        *,
        network: Callable[[], nn.Module],
        layers: tuple[str, ...],
        source: Source,
        profiles: tuple[Profile, ...] = ("fast", "regular", "full"),
    ):
        self._network = network
        self.info = ModelInfo(
            name=name,
            title=title,
            family=family,
            domain="vision",
            dataset="fashion_mnist",
            quality=Quality("top1_accuracy", "binary", better="higher", margin=0.01),
            sources=(source,),
            licence="Apache-2.0",
            provenance="trained by training/fashion_mnist.py on Fashion-MNIST (MIT)",
            layers=layers,
            profiles=profiles,
            preprocessing="a grey image of 28x28 pixels, light on dark, divided by 255",
            labels=LABELS,
        )

    def load(self) -> nn.Module:
        """Return the trained network, its weights checked against the recorded hash."""
        return _load.fill(self._network(), _load.safetensors(self.info.sources))

    def outcomes(self, outputs: np.ndarray, targets: np.ndarray) -> np.ndarray:
        """Return 1 where the largest logit is the label's, else 0: [n], from logits [n, 10] and labels [n]."""
        from quantkit.numerics import outcomes

        return outcomes.top1(outputs, targets)

    def loss(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Return the mean cross-entropy, from logits [n, 10] and labels [n]."""
        from torch.nn import functional

        return functional.cross_entropy(outputs, targets)

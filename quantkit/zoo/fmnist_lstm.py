"""A two-layer LSTM that reads a Fashion-MNIST image row by row (Hochreiter & Schmidhuber 1997)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from quantkit.contracts import ModelInfo, Quality, Source
from quantkit.zoo import _load

if TYPE_CHECKING:
    import numpy as np
    from torch import nn


def network() -> nn.Module:
    """Return the untrained network: images [n, 1, 28, 28] in 0..1 -> logits [n, 10]."""
    from torch import nn

    class RowLstm(nn.Module):
        """28 steps of 28 pixels; the last state is classified."""

        def __init__(self, hidden: int = 160):
            super().__init__()
            self.lstm = nn.LSTM(28, hidden, num_layers=2, batch_first=True)
            self.head = nn.Linear(hidden, 10)

        def forward(self, x):
            states, _ = self.lstm(x.squeeze(1))  # [n, 28, hidden]
            return self.head(states[:, -1])

    return RowLstm()


class FmnistLstm:
    """Two LSTM layers and one linear layer (satisfies `contracts.Model`)."""

    info = ModelInfo(
        name="fmnist_lstm",
        title="two-layer LSTM over image rows",
        family="rnn",
        domain="vision",
        dataset="fashion_mnist",
        quality=Quality("top1_accuracy", "binary", better="higher", margin=0.01),
        sources=(
            Source(
                "asset",
                "weights/fmnist_lstm.safetensors",
                "b4f1fde696ca41e6fcda07a8be78262dcf8fa14bf7aba10c5755077739bb7eda",
            ),
        ),
        licence="Apache-2.0",
        provenance="trained by training/fashion_mnist.py on Fashion-MNIST (MIT)",
        layers=("lstm", "linear"),
        profiles=("fast", "regular", "full"),
    )

    def load(self) -> nn.Module:
        """Return the trained network, its weights checked against the recorded hash."""
        return _load.fill(network(), _load.safetensors(self.info.sources))

    def outcomes(self, outputs: np.ndarray, targets: np.ndarray) -> np.ndarray:
        """Return 1 where the largest logit is the label's, else 0: [n], from logits [n, 10] and labels [n]."""
        from quantkit.numerics import outcomes

        return outcomes.top1(outputs, targets)


plugin = FmnistLstm()

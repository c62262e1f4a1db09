"""A two-layer LSTM that reads a Fashion-MNIST image row by row (Hochreiter & Schmidhuber 1997)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from quantkit.contracts import Source
from quantkit.zoo._fashion import FashionClassifier

if TYPE_CHECKING:
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


plugin = FashionClassifier(
    "fmnist_lstm",
    "two-layer LSTM over image rows",
    "rnn",
    network=network,
    layers=("lstm", "linear"),
    source=Source(
        "asset",
        "weights/fmnist_lstm.safetensors",
        "b4f1fde696ca41e6fcda07a8be78262dcf8fa14bf7aba10c5755077739bb7eda",
    ),
)

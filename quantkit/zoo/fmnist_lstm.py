"""A two-layer LSTM that reads a Fashion-MNIST image row by row (Hochreiter & Schmidhuber 1997)."""


def network():
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

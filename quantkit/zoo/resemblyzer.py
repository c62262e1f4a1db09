"""Speaker embeddings by Resemblyzer's voice encoder: three LSTM layers (Wan et al. 2018, arXiv:1710.10467).

Judged by identification: of all other clips, the one most similar must be of the same voice.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from quantkit.contracts import ModelInfo, Quality, Source
from quantkit.zoo import _load

if TYPE_CHECKING:
    import numpy as np
    from torch import nn


def network() -> nn.Module:
    """Return the untrained network: power mel spectrograms [n, 160, 40] -> embeddings of length one [n, 256]."""
    import torch
    from torch import nn
    from torch.nn import functional

    class VoiceEncoder(nn.Module):
        """The last state of 160 steps of 10 ms, projected, cut off at zero, length one."""

        def __init__(self):
            super().__init__()
            self.lstm = nn.LSTM(40, 256, num_layers=3, batch_first=True)
            self.linear = nn.Linear(256, 256)

        def forward(self, mels):
            states, _ = self.lstm(mels)  # [n, 160, 256]
            raw = functional.relu(self.linear(states[:, -1]))
            return raw * torch.rsqrt((raw * raw).sum(1, keepdim=True) + 1e-6)  # all zeros stay zeros, not nan

    return VoiceEncoder()


class Resemblyzer:
    """Three LSTM layers and one linear layer (satisfies `contracts.Model`)."""

    info = ModelInfo(
        name="resemblyzer",
        title="Resemblyzer voice encoder",
        family="rnn",
        domain="audio",
        dataset="voices",
        quality=Quality("speaker_accuracy", "binary", better="higher", margin=0.01),
        sources=(
            Source(
                "wheel",
                "Resemblyzer==0.1.4",
                "39373b86598fa3da9fcddee6142382efe09777e8d37dc9c0561f41f0070f134e",
                "resemblyzer/pretrained.pt",
            ),
        ),
        licence="Apache-2.0",
        provenance="Resemble AI and Corentin Jemine, weights as carried by the wheel Resemblyzer",
        layers=("lstm", "linear"),
        preprocessing="1.6 s of speech at 16 kHz as a power mel spectrogram: 40 bands, windows of 25 ms every 10 ms",
        profiles=("regular", "full"),
        logits=False,
    )

    def load(self) -> nn.Module:
        """Return the trained network, its weights checked against the recorded hash."""
        import torch

        state = torch.load(_load.locate(self.info.sources), map_location="cpu", weights_only=True)["model_state"]
        unused = ("similarity_weight", "similarity_bias")  # of the loss it was trained with
        return _load.fill(network(), {name: value for name, value in state.items() if name not in unused})

    def outcomes(self, outputs: np.ndarray, targets: np.ndarray) -> np.ndarray:
        """Return 1 where the nearest other clip is of the same voice, else 0: [n], from embeddings [n, 256]."""
        from quantkit.numerics import outcomes

        return outcomes.nearest_neighbour(outputs, targets)


plugin = Resemblyzer()

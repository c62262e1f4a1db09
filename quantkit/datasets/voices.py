"""Five voices on a noisy telephone line: 1.6 s of speech each, as power mel spectrograms; tell who speaks.

Made by training/speech.py from the prompts of the Asterisk telephone exchange. One clip of each recording at most, so
that no two items share a recording. One voice speaks two languages, and two voices speak Italian.
"""

from __future__ import annotations

import numpy as np

from quantkit.contracts import DatasetInfo, Split
from quantkit.datasets import _assets

FILE = "speech/voices.npz"


class Voices:
    """Inputs: power mel spectrograms [n, 160, 40], float32; targets: voices 0..4 [n]."""

    info = DatasetInfo(
        name="voices",
        title="five voices of Asterisk prompts, with noise at 10 dB",
        licence="CC-BY-SA-3.0 (Italian by C. Flora and Russian: CC-BY-3.0; Italian by P. Dal Zot: CC-BY-SA-3.0-IT)",
        provenance=(
            "changed from recordings by Allison Smith, June Wallack, Carlo Flora, ivrvoice.ru (Maxim Topal) and "
            "Marco Menardi with Paola Dal Zot (http://www.voip.ammdomus.it); Debian's asterisk-core-sounds-*-wav 1.6.1 "
            "and asterisk-prompt-it-menardi-wav; attribution in NOTICE"
        ),
        sha256={"speech/voices.npz": "b0b76a17bff632fdab2891f418af173f1255d662f78169ac0a34ddeac348fe2d"},
    )

    def evaluation(self, limit: int | None = None) -> Split:
        """Return clips of all voices in a random order, 80 of each voice."""
        return self._split("test", limit)

    def calibration(self, limit: int | None = None) -> Split:
        """Return clips of other recordings of the same voices, 20 of each."""
        return self._split("calibration", limit)

    def _split(self, part: str, limit: int | None) -> Split:
        data = _assets.arrays(self.info, FILE)
        rows = _assets.prefix(np.arange(len(data[part])), limit)
        power = (10.0 ** (np.arange(256) * 7 / 255 - 6.5)).astype(np.float32)  # of each code
        power[0] = 0.0
        names = data[f"{part}_names"]
        return _assets.split(
            rows, lambda i: str(names[i]), (power[data[part][rows]],), data[f"{part}_labels"][rows].astype(np.int64)
        )


plugin = Voices()

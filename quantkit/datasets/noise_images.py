"""Synthetic images: coloured noise with the spectrum of photographs; they show nothing and have no labels.

Amplitude falls with spatial frequency as 1/f^a with random phases (Field 1987: a is about 1 in natural scenes); each
image draws its own a in 0.5..1.8, its own mixture of colour channels, contrast and mean colour, so that images differ
as much as photographs do in what a network sees first. For models with random weights, whose quality is fidelity.
"""

from __future__ import annotations

import numpy as np

from quantkit.contracts import DatasetInfo, Split
from quantkit.datasets import _assets

SIZE, EVALUATION, CALIBRATION = 224, 256, 128


def image(seed: int, index: int, size: int = SIZE) -> np.ndarray:
    """Return one image [3, size, size], float32, scaled like normalized photographs (mean near 0, deviation near 1).

    Made of raw random bits, so that it is the same in every version of NumPy.
    """
    half = size // 2 + 1
    bits = np.random.PCG64(np.random.SeedSequence((seed, index))).random_raw(3 * size * half + 14)
    uniform = (bits >> np.uint64(11)) * 2.0**-53  # in 0..1
    draw, phase = uniform[:14], uniform[14:].reshape(3, size, half)
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None])
    frequency[0, 0] = np.inf  # no constant part: the mean colour is drawn below
    spectrum = np.exp(2j * np.pi * phase) / frequency ** (0.5 + 1.3 * draw[0])
    noise = np.fft.irfft2(spectrum, (size, size))
    noise /= noise.std((1, 2), keepdims=True)
    mixture = np.eye(3) * 0.3 + draw[2:11].reshape(3, 3)  # shared brightness, some colour
    mixture /= np.linalg.norm(mixture, axis=1, keepdims=True)
    mean = 2.0 * draw[11:14, None, None] - 1.0
    return ((0.4 + 0.8 * draw[1]) * np.einsum("ij,jhw->ihw", mixture, noise) + mean).astype(np.float32)


class NoiseImages:
    """Inputs: images [n, 3, 224, 224], float32; targets: zeros [n], there is nothing to recognize."""

    info = DatasetInfo(
        name="noise_images",
        title="synthetic noise images",
        licence="none needed (computed)",
        provenance="synthetic: random phases with a 1/f^a spectrum, fixed seeds; no photographs",
        fast_items=32,
    )

    def evaluation(self, limit: int | None = None) -> Split:
        """Return up to 256 images, drawn independently."""
        return self._split("evaluation", 1, _assets.prefix(np.arange(EVALUATION), limit))

    def calibration(self, limit: int | None = None) -> Split:
        """Return up to 128 images of another seed."""
        return self._split("calibration", 2, _assets.prefix(np.arange(CALIBRATION), limit))

    def _split(self, part: str, seed: int, rows: np.ndarray) -> Split:
        images = np.stack([image(seed, int(row)) for row in rows])
        return _assets.split(rows, f"{part}/{{}}".format, (images,), np.zeros(len(rows), np.int64))


plugin = NoiseImages()

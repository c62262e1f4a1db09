"""Fashion-MNIST: 28x28 grey images of ten kinds of clothes (Xiao, Rasul & Vollgraf 2017, arXiv:1708.07747).

Evaluation is the whole test set of 10,000 in a fixed shuffled order. Calibration is 2,000 training images, 200 of each
class, chosen by training/fashion_mnist.py.
"""

from __future__ import annotations

import gzip

import numpy as np

from quantkit.contracts import DatasetInfo, Split
from quantkit.datasets import _assets
from quantkit.files import asset

HASHES = {
    "fashion_mnist/t10k-images-idx3-ubyte.gz": "cc1d090a38ace84dfa1aa66e3ada7c336ef481a96936906477e6dd344da56eaa",
    "fashion_mnist/t10k-labels-idx1-ubyte.gz": "8d3605d196f4be44669e46906da9733c8131fef761fdbfec72c424d5222f1a05",
    "fashion_mnist/calibration.npz": "90ee4eb5fa7e482beb5086f1dcfc12f27db4e2c8ce04f59382b011875faae701",
}
IMAGES, LABELS, CALIBRATION = HASHES


class FashionMnist:
    """Inputs: images [n, 1, 28, 28], float32 in 0..1; targets: labels [n]."""

    info = DatasetInfo(
        name="fashion_mnist",
        title="Fashion-MNIST test set",
        licence="MIT",
        provenance="Zalando SE; files of the Debian package dataset-fashion-mnist, unchanged",
        sha256=HASHES,
    )

    def evaluation(self, limit: int | None = None) -> Split:
        """Return test images in a fixed shuffled order, named by their place in the original file."""
        images, labels = self._idx(IMAGES), self._idx(LABELS)
        rows = _assets.prefix(_assets.shuffled(len(images), seed=2026), limit)
        return self._split("t10k", rows, images[rows], labels[rows])

    def calibration(self, limit: int | None = None) -> Split:
        """Return training images; the file's order is a random one."""
        data = _assets.arrays(self.info, CALIBRATION)
        rows = _assets.prefix(np.arange(len(data["images"])), limit)
        return self._split("train", rows, data["images"][rows], data["labels"][rows])

    def _idx(self, location: str) -> np.ndarray:
        """Read a gzipped IDX file of unsigned bytes: two zeros, type 8, rank, big-endian sizes."""
        raw = gzip.decompress(asset(location, self.info.sha256[location]).read_bytes())
        rank = raw[3]
        return np.frombuffer(raw, np.uint8, offset=4 + 4 * rank).reshape(np.frombuffer(raw, ">u4", rank, 4))

    def _split(self, part: str, rows: np.ndarray, images: np.ndarray, labels: np.ndarray) -> Split:
        inputs = images[:, None].astype(np.float32) / np.float32(255)
        return _assets.split(rows, f"{part}/{{}}".format, (inputs,), labels.astype(np.int64))


plugin = FashionMnist()

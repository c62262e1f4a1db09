"""Decoders for mlx-lm: a folder (config.json, model.safetensors) that `mlx_lm.load` takes, quantized by mlx-lm itself.

mlx-lm has the architecture; here only configuration and weights are carried over, from a decoder of transformers or
from a network with the layers of our small decoder (Llama's, with query, key and value in one matrix). The way is that
of `mlx_lm.convert`: floats become bfloat16, then `quantize_model` takes every layer whose width the group divides.
Importing mlx-lm limits this process to 2,048 open files (it calls `setrlimit`), so it is imported here only.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlx.core as mx

from quantkit import extras
from quantkit.contracts import LayerReport
from quantkit.errors import Unsupported
from quantkit.scheme import PerGroup, Scheme

if TYPE_CHECKING:
    import torch
    from torch import nn

GROUPS = (64, 32)  # tried in this order where a scheme wants one scale per channel
OWN_LAYERS = {
    "norm1": "input_layernorm", "attention.out": "self_attn.o_proj", "norm2": "post_attention_layernorm",
    "gate": "mlp.gate_proj", "up": "mlp.up_proj", "down": "mlp.down_proj",
}  # fmt: skip
THETA = 1e4  # base of the rotary angles of our decoder


def save_for_mlx_lm(network: nn.Module, scheme: Scheme, folder: Path, tokenizer: Any = None) -> tuple[LayerReport, ...]:
    """Write a decoder into `folder` (exists, empty) as mlx-lm keeps it; return what became of each layer.

    Args:
        network: a `transformers.PreTrainedModel` that mlx-lm knows, or one with the layers of `zoo/pydoc_gpt.py`.
        scheme: fp32, a 16-bit float (taken as bfloat16) or a weight-only scheme of MLX.
        tokenizer: of transformers, saved beside the weights; `mlx_lm.load` wants one, `load_model` does not.

    Raises:
        Unsupported: mlx-lm does not know this architecture, or the scheme quantizes none of its layers.
    """
    utils = extras.require("mlx_lm.utils")
    config, state = _described(network)
    dtype = mx.float32 if scheme.bits == 32 else mx.bfloat16
    weights = {name: mx.array(value.float().numpy()).astype(dtype) for name, value in state.items()}
    with tempfile.TemporaryDirectory() as plain, mx.stream(mx.cpu):
        (Path(plain) / "config.json").write_text(json.dumps(config), encoding="utf-8")
        mx.save_safetensors(str(Path(plain) / "model.safetensors"), weights)
        try:
            model, known = utils.load_model(Path(plain))
        except (ValueError, TypeError) as error:  # an unknown architecture; a field that its configuration lacks
            reason = str(error).splitlines()[0]
            raise Unsupported(f"mlx-lm does not take a {config['model_type']} decoder: {reason}") from error
    if scheme.quantized:
        with contextlib.redirect_stdout(io.StringIO()):  # it prints the bits per weight
            model, known = utils.quantize_model(model, known, **_settings(scheme, model))
    report = _report(model, scheme)
    utils.save_model(folder, model)
    utils.save_config(known, folder / "config.json")
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)
    return report


def _described(network: nn.Module) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Return configuration and weights in the names of transformers, which mlx-lm reads."""
    state = {name: value.detach() for name, value in network.state_dict().items()}
    if hasattr(network, "config") and hasattr(network.config, "to_dict"):
        config = network.config.to_dict() | {"architectures": [type(network).__name__]}
        # transformers 5 keeps the base of the angles deeper than mlx-lm looks, which would take its default silently
        rotary = config.get("rope_parameters") or {}
        if "rope_theta" in rotary:
            config["rope_theta"] = rotary["rope_theta"]
        if rotary.get("rope_type", "default") != "default":
            config["rope_scaling"] = rotary
        return config, state
    return _own_config(network, state), _own_weights(state)


def _own_config(network: Any, state: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    """Return the configuration of our decoder, read from its shapes, as a Llama's.

    Raises:
        Unsupported: other layers than ours, or other rotary angles.
    """
    import torch

    layer = "|".join(re.escape(name) for name in (*OWN_LAYERS, "attention.qkv"))
    names = rf"(embed|head|norm|layers\.\d+\.({layer}))\.weight"
    other = [name for name in state if not re.fullmatch(names, name)]
    if other or not {"embed.weight", "norm.weight", "layers.0.attention.qkv.weight"} <= set(state):
        what = f"layer {other[0]!r}" if other else "no embedding, layers and norm"
        raise Unsupported(f"{type(network).__name__} is no decoder that mlx-lm knows: it has {what}")
    vocabulary, width = state["embed.weight"].shape
    longest, half = network.cos.shape
    angle = torch.outer(torch.arange(longest), THETA ** (-torch.arange(half) / half))
    if not torch.allclose(angle.cos(), network.cos, atol=1e-4):
        raise Unsupported(f"the rotary angles of {type(network).__name__} are not of base {THETA:g}")
    return {
        "model_type": "llama",
        "hidden_size": width,
        "num_hidden_layers": 1 + max(int(name.split(".")[1]) for name in state if name.startswith("layers.")),
        "intermediate_size": state["layers.0.gate.weight"].shape[0],
        "num_attention_heads": width // (2 * half),
        "rms_norm_eps": network.norm.eps,
        "vocab_size": vocabulary,
        "max_position_embeddings": longest,
        "rope_theta": THETA,
        "tie_word_embeddings": True,
    }


def _own_weights(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return our decoder's weights under Llama's names; the tied head is left out."""
    found = {"model.embed_tokens.weight": state["embed.weight"], "model.norm.weight": state["norm.weight"]}
    for name, value in state.items():
        if not name.startswith("layers."):
            continue
        _, number, rest = name.removesuffix(".weight").split(".", 2)
        if rest == "attention.qkv":
            for part, rows in zip("qkv", value.chunk(3), strict=True):
                found[f"model.layers.{number}.self_attn.{part}_proj.weight"] = rows.contiguous()
        else:
            found[f"model.layers.{number}.{OWN_LAYERS[rest]}.weight"] = value
    return found


def _settings(scheme: Scheme, model: Any) -> dict[str, Any]:
    """Return mlx-lm's keywords for a scheme that `Mlx.unsupported` let pass."""
    if isinstance(scheme.granularity, PerGroup):
        group = scheme.granularity.group_size
    else:
        widths = [layer.weight.shape[-1] for _, layer in _layers(model)]
        group = next((size for size in GROUPS if all(width % size == 0 for width in widths)), GROUPS[-1])
    mode = "affine" if scheme.format == "int" else scheme.format
    return {"group_size": group, "bits": scheme.bits, "mode": mode}


def _layers(model: Any) -> list[tuple[str, Any]]:
    """Return MLX's layers that hold a matrix, by path."""
    utils = extras.require("mlx.utils")
    leaves = utils.tree_flatten(model.leaf_modules(), is_leaf=lambda m: hasattr(m, "parameters"))
    return [(name, layer) for name, layer in leaves if "weight" in layer and layer.weight.ndim > 1]


def _report(model: Any, scheme: Scheme) -> tuple[LayerReport, ...]:
    """Return what each layer holds.

    Raises:
        Unsupported: the scheme quantizes, and no layer took it.
    """
    found = []
    for name, layer in _layers(model):
        packed = hasattr(layer, "bits")
        bits = layer.bits if packed else layer.weight.itemsize * 8
        weights = math.prod(layer.weight.shape) * 32 // bits if packed else math.prod(layer.weight.shape)
        missed = scheme.quantized and not packed
        reason = f"its {layer.weight.shape[-1]} inputs are no multiple of the group" if missed else ""
        found.append(LayerReport(name, type(layer).__name__, weights, bits, reason))
    if scheme.quantized and all(layer.reason for layer in found):
        raise Unsupported(f"mlx-lm quantizes no layer to {scheme.name}: {found[0].name}: {found[0].reason}")
    return tuple(found)

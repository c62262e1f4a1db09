"""The other road to the same weights: transformers' `BitsAndBytesConfig`, and a folder that `from_pretrained` opens.

The float network is saved, loaded again with the configuration (which quantizes it) and saved quantized. What
would crash at the first call (widths that the 4-bit kernel has no tile for) goes into the list of skipped modules.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import safetensors
import torch

from quantkit import extras
from quantkit.backends import _bitsandbytes_build as builds
from quantkit.backends import _bitsandbytes_layers as bnb_layers
from quantkit.backends import _coverage
from quantkit.backends._bitsandbytes_schemes import scheme_refusal
from quantkit.contracts import LayerReport, Plan
from quantkit.errors import Unsupported
from quantkit.scheme import PerGroup, Scheme

BLOCK = 64  # the configuration has no setting for the block size


def save_pretrained_quantized(network: Any, scheme: Scheme, folder: Path) -> tuple[LayerReport, ...]:
    """Write `config.json` and safetensors that `from_pretrained` opens; return what became of each layer.

    Args:
        network: a `transformers.PreTrainedModel` in float32; it is not changed.
        scheme: nf4 or fp4 in blocks of 64 (double or not), or 8 bits with dynamic activations.
        folder: empty or absent.

    Raises:
        Unsupported: not a PreTrainedModel, a scheme without a configuration, or next to nothing quantized.
    """
    transformers = extras.require("transformers")
    if not isinstance(network, transformers.PreTrainedModel):
        raise Unsupported(f"transformers saves its own networks (PreTrainedModel): got {type(network).__name__}")
    asked = _asked(network, scheme)
    _coverage.refuse_nearly_float(builds.expected(asked), scheme, widest=8)
    linear = {name for name, module in network.named_modules() if isinstance(module, torch.nn.Linear)}
    skipped = [a.name for a in asked if a.reason and a.name in linear]
    loaded = _reloaded(network, _configuration(scheme, skipped))
    _check_modes(loaded)
    with _quiet():
        loaded.save_pretrained(folder)
    return _reports(asked, folder)


def _asked(network: Any, scheme: Scheme) -> list[builds.Asked]:
    """Return every layer, and why it stays in float; the output projection does by transformers' custom.

    Raises:
        Unsupported: a scheme without a configuration.
    """
    refused = scheme_refusal(scheme) if scheme.quantized else f"{scheme.name} does not quantize"
    if not refused and scheme.bits == 4 and scheme.granularity != PerGroup(BLOCK):
        refused = f"transformers' configuration has blocks of {BLOCK} weights only: got {scheme.granularity}"
    if refused:
        raise Unsupported(refused)
    head = network.get_output_embeddings()
    heads = {name for name, module in network.named_modules() if module is head}
    custom = "transformers keeps the output projection in float"
    asked = builds.decide(network, Plan(scheme))
    return [replace(a, reason=custom) if a.name in heads and not a.reason else a for a in asked]


def _configuration(scheme: Scheme, skipped: list[str]) -> Any:
    """Return the configuration that says the same as the scheme."""
    config = extras.require("transformers").BitsAndBytesConfig
    if scheme.bits == 8:
        return config(load_in_8bit=True, llm_int8_threshold=bnb_layers.THRESHOLD, llm_int8_skip_modules=skipped)
    return config(
        load_in_4bit=True,
        bnb_4bit_quant_type=scheme.format,
        bnb_4bit_use_double_quant=scheme.double,
        bnb_4bit_compute_dtype=bnb_layers.COMPUTE,
        llm_int8_skip_modules=skipped,  # serves 4 bits too
    )


def _reloaded(network: Any, configuration: Any) -> Any:
    """Return a second, quantized network.

    Raises:
        Unsupported: the class has layers that this network does not; transformers would fill them at random.
    """
    # encoders built without the pooler say so to their constructor only, not in their configuration
    built = {"add_pooling_layer": False} if getattr(network, "pooler", ...) is None else {}
    with tempfile.TemporaryDirectory() as folder, _quiet():
        network.save_pretrained(folder)
        loaded, seen = type(network).from_pretrained(
            folder,
            quantization_config=configuration,
            device_map="cpu",
            dtype=torch.float32,
            output_loading_info=True,
            local_files_only=True,
            **built,
        )
    if missing := sorted(seen["missing_keys"]):
        raise Unsupported(f"{type(network).__name__} would be given random weights in {', '.join(missing[:3])}")
    return loaded


def _check_modes(network: Any) -> None:
    """A layer in training mode is 30 to 50 times slower, and one that was called has other codes to save."""
    four = [m for m in network.modules() if isinstance(m, bnb_layers.bnb.nn.Linear4bit)]
    assert not any(module.training for module in network.modules())
    assert not any(getattr(layer.weight.quant_state, "packing_format_for_cpu", False) for layer in four)


def _reports(asked: list[builds.Asked], folder: Path) -> tuple[LayerReport, ...]:
    """Return each layer as the folder holds it."""
    stored: dict[str, int] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safetensors.safe_open(path, "pt") as file:
            stored |= {key: 8 * file.get_tensor(key).nbytes for key in file.keys()}  # noqa: SIM118 - no iterator
    return tuple(builds.report(a, stored) for a in asked)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hide transformers' progress bars."""
    logging = extras.require("transformers").utils.logging
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()

"""A user's network as the pipeline takes it: a float32 copy in eval mode, tensors in by position, one tensor out."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from quantkit.contracts import Arrays
from quantkit.errors import QuantizationError, Unsupported

OUTPUTS = ("logits", "last_hidden_state", "pooler_output")  # of transformers' output records, the first that is there


class Face(nn.Module):
    """Calls a network with its inputs by name where it wants that, and picks one tensor of what it returns.

    Args:
        names: of the inputs, in order; empty passes them by position.
        pick: key or position of the output; None where the network returns one tensor.
    """

    def __init__(self, network: nn.Module, names: Sequence[str], pick: str | int | None):
        super().__init__()
        self.network, self.names, self.pick = network, tuple(names), pick
        cached = names and "use_cache" in inspect.signature(network.forward).parameters
        self.constants = {"use_cache": False} if cached else {}  # a cache is a second output that nobody asked for

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        """Return the picked output, [n, ...]."""
        if self.names:
            outputs = self.network(**dict(zip(self.names, inputs)), **self.constants)
        else:
            outputs = self.network(*inputs)
        return outputs if self.pick is None else outputs[self.pick]


def copied(network: nn.Module) -> tuple[nn.Module, tuple[str, ...]]:
    """Return a copy on the CPU, in eval mode, float32, without gradients, and notes; the given network stays as it is.

    Raises:
        QuantizationError: no network, it cannot be copied, or a weight is nan or infinite.
    """
    if not isinstance(network, nn.Module):
        raise QuantizationError(f"model must be a torch.nn.Module: got {type(network).__name__}")
    if not any(p.is_floating_point() for p in network.parameters()):
        raise QuantizationError("the model has no float parameters: there is nothing to quantize")
    try:
        twin = copy.deepcopy(network)
    except (RuntimeError, TypeError) as error:
        said = " ".join(str(error).split())[:200]
        raise QuantizationError(
            f"the model cannot be copied (copy.deepcopy: {said}): detach tensors it keeps"
        ) from error
    formats = {str(p.dtype).removeprefix("torch.") for p in twin.parameters() if p.is_floating_point()} - {"float32"}
    for name, tensor in (*twin.named_parameters(), *twin.named_buffers()):
        if tensor.is_floating_point() and not tensor.isfinite().all() and not _mask(tensor):
            raise QuantizationError(f"weight {name} holds nan or inf: repair the model before it is quantized")
    twin.cpu().float().eval().requires_grad_(False)
    twin.zero_grad(set_to_none=True)
    return twin, (f"weights given as {', '.join(sorted(formats))} were taken to float32 first",) if formats else ()


def _mask(buffer: torch.Tensor) -> bool:
    """Return whether a buffer's only odd values are -inf: a causal mask."""
    return not isinstance(buffer, nn.Parameter) and bool((buffer.isfinite() | (buffer == float("-inf"))).all())


def face(network: nn.Module, names: Sequence[str], inputs: Arrays) -> tuple[nn.Module, torch.Tensor, tuple[str, ...]]:
    """Return the network as the pipeline calls it, its answers to the first items [n, ...], and notes.

    Args:
        inputs: of a few items.

    Raises:
        Unsupported: it refuses the inputs, returns no tensor, or the first axis of its output is not the items.
    """
    tensors = [torch.from_numpy(x) for x in inputs]
    outputs = _called(Face(network, names, None) if names else network, tensors)
    pick = _pick(outputs)
    faced = network if pick is None and not names else Face(network, names, pick)
    answers = _called(faced, tensors)
    one = _called(faced, [x[:1] for x in tensors])
    if one.shape != (1, *answers.shape[1:]) or len(answers) != len(inputs[0]):
        got = f"{list(answers.shape)} for {len(inputs[0])} items and {list(one.shape)} for one"
        raise Unsupported(f"the model's output must have the items as its first axis: got {got} (no squeeze, no mean)")
    if not answers.isfinite().all():
        raise QuantizationError("the model answers nan or inf on its own data: it cannot be judged")
    several = isinstance(outputs, Mapping | tuple | list) and len(outputs) > 1
    notes = (f"of the model's {len(outputs)} outputs, {pick!r} is taken",) if several else ()
    return faced.eval(), answers.float(), notes


def _called(network: nn.Module, tensors: Sequence[torch.Tensor]) -> Any:
    try:
        with torch.inference_mode():
            return network(*(x.clone() for x in tensors))
    except Exception as error:
        # Whatever a user's forward raises, it must be clear which inputs it was given.
        got = ", ".join(f"{str(x.dtype).removeprefix('torch.')} {list(x.shape)}" for x in tensors)
        said = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        raise Unsupported(f"the model refuses its own data ({got}): {said}") from error


def _pick(outputs: Any) -> str | int | None:
    """Return which of a network's outputs is taken; None where it returns one tensor."""
    if isinstance(outputs, torch.Tensor):
        return None
    if isinstance(outputs, Mapping):
        floats = [k for k, v in outputs.items() if isinstance(v, torch.Tensor) and v.is_floating_point()]
        if floats:
            return next((name for name in OUTPUTS if name in floats), floats[0])
    if isinstance(outputs, tuple | list):
        for i, value in enumerate(outputs):
            if isinstance(value, torch.Tensor) and value.is_floating_point():
                return i
    kind = type(outputs).__name__
    raise Unsupported(f"the model returns {kind} without a float tensor in it: wrap it so that it returns one tensor")

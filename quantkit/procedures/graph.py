"""Which layers of a network feed which, read from its exported graph: what rewrites that keep the function need.

A rewrite moves a scale from one layer into the next. That is right only where nothing else sees the value between
them, and where nothing else uses their weights; both are read here from `torch.export`'s graph.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TypeGuard

import torch
from torch import fx, nn
from torch.nn.utils import fusion

from quantkit.contracts import Arrays
from quantkit.errors import Unsupported

Layer = nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.Linear
CONVOLUTIONS, NORMS = (nn.Conv1d, nn.Conv2d, nn.Conv3d), (nn.LayerNorm, nn.RMSNorm)
RECTIFIERS = {"relu", "relu_"}
BOUNDED = {"relu6", "relu6_", "hardtanh", "hardtanh_"}  # ReLU6 is exported as hardtanh(x, 0, 6)
SCALED_THROUGH = {  # f(s * x) = s * f(x) for s > 0, channel by channel
    *("dropout", "max_pool1d", "max_pool2d", "max_pool3d", "avg_pool1d", "avg_pool2d", "avg_pool3d"),
    *("adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d", "adaptive_max_pool2d"),
}
PRODUCTS = {"mul", "mul_"}
RESHAPED = {"flatten", "view", "reshape", "squeeze"}  # only where one value a channel is left


@dataclass(frozen=True)
class Pair:
    """Two layers and what lies between them.

    Args:
        first, second: names of the layers.
        bounded: name of the module between them that clips its input to 0..6 (ReLU6), or empty.
        trailing: axes behind the channels of what that module clips: 2 for images [n, channels, height, width].
    """

    first: str
    second: str
    bounded: str = ""
    trailing: int = 0


@dataclass(frozen=True)
class Group:
    """A layer with a weight per output channel, and the linear layers that alone read what it gives.

    Args:
        source: a layer norm or RMS norm, or a linear layer whose output is multiplied by something (a gate) first.
        linears: the readers.
    """

    source: str
    linears: tuple[str, ...]


class Flow:
    """The exported graph of a network, and which module owns the weight of each operation.

    Args:
        network: in eval mode; not changed.
        example: inputs of one item.

    Raises:
        Unsupported: torch.export refuses the network, with its reason.
    """

    def __init__(self, network: nn.Module, example: Arrays):
        self.network = network
        inputs = tuple(torch.from_numpy(x) for x in example)
        try:
            program = torch.export.export(network, inputs, strict=False)
        except Exception as error:  # its errors have no common base: whatever it says is the reason
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise Unsupported(f"the network's layers cannot be followed: torch.export refuses it: {reason}") from error
        signature = program.graph_signature
        self.nodes = list(program.graph.nodes)
        self._parameters = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
        self._alone = _not_shared(network)

    def pairs(self) -> tuple[Pair, ...]:
        """Return all pairs of layers with nothing but a rectifier, pooling or flattening between them, in order."""
        found = (self._pair(node) for node in self.nodes if isinstance(self.owner(node), Layer))
        return tuple(pair for pair in found if pair is not None)

    def groups(self) -> tuple[Group, ...]:
        """Return all norms, and linear layers behind a gate, that feed linear layers only, in order."""
        return tuple(group for node in self.nodes if (group := self._group(node)) is not None)

    def normed(self) -> tuple[tuple[str, str], ...]:
        """Return (layer, batch norm) for every batch norm that can be folded into the layer before it."""
        norms = [node for node in self.nodes if getattr(self.owner(node), "running_mean", None) is not None]
        pairs = [(node.args[0], node) for node in norms if _only_user(node.args[0])]
        return tuple(
            (self.name(before), self.name(node)) for before, node in pairs if isinstance(self.owner(before), Layer)
        )

    def name(self, node: fx.Node) -> str:
        """Return the name of the module whose weight an operation in its forward uses; "" for none or a shared one."""
        weights = [x for x in node.args if isinstance(x, fx.Node) and x.name in self._parameters]
        names = {self._parameters[x.name].rpartition(".")[0] for x in weights}
        if len(names) != 1 or any(len(x.users) > 1 for x in weights):
            return ""
        name = names.pop()
        return name if name in self._alone and module_of(node) == name else ""

    def owner(self, node: object) -> nn.Module | None:
        """Return that module."""
        if not isinstance(node, fx.Node) or node.op != "call_function" or not (name := self.name(node)):
            return None
        return self.network.get_submodule(name)

    def _pair(self, second: fx.Node) -> Pair | None:
        """Walk back from a layer's input to the layer that made it; None where anything else is on the way."""
        bounded, axes, node = "", 0, second.args[0]
        while _only_user(node) and not isinstance(self.owner(node), Layer):
            if operation(node) in BOUNDED and not bounded:
                bounded, axes = self._clipping(node), node.meta["val"].ndim
                if not bounded:
                    return None
            elif operation(node) not in RECTIFIERS | SCALED_THROUGH and not _one_value_a_channel(node):
                return None
            node = node.args[0]
        if not _only_user(node) or not _same_axis(self.owner(node), self.owner(second), second.args[0]):
            return None
        trailing = axes - 2 if bounded and isinstance(self.owner(node), CONVOLUTIONS) else 0
        return Pair(self.name(node), self.name(second), bounded, trailing)

    def _clipping(self, node: fx.Node) -> str:
        """Return the name of the module that is this ReLU6 and no other one; "" where a function does it."""
        name = module_of(node)
        uses = [other for other in self.nodes if module_of(other) == name]
        own = isinstance(self.network.get_submodule(name), nn.ReLU6)
        return name if own and len(uses) == 1 else ""

    def _group(self, node: fx.Node) -> Group | None:
        """Return the group whose readers' input is this node: a norm's output, or a product with a linear layer's."""
        readers = [self.owner(user) for user in node.users]
        names = tuple(self.name(user) for user in node.users)
        whole = [isinstance(x, nn.Linear) and user.args[0] is node for x, user in zip(readers, node.users, strict=True)]
        source = self._source(node)
        return Group(source, names) if source and whole and all(whole) else None

    def _source(self, node: fx.Node) -> str:
        """Return the name of the layer whose channels are those of a value, each times something; "" for none."""
        module = self.owner(node)
        if isinstance(module, NORMS) and len(module.normalized_shape) == 1:
            return self.name(node)
        if operation(node) not in PRODUCTS or node.args[0] is node.args[1]:
            return ""
        factors = [x for x in node.args if _only_user(x) and isinstance(self.owner(x), nn.Linear)]
        wide = [x for x in factors if x.meta["val"].shape[-1:] == node.meta["val"].shape[-1:]]
        return self.name(wide[0]) if wide else ""


def operation(node: fx.Node) -> str:
    """Return the word of an ATen operation: `conv2d` for aten.conv2d.default; "" for what is none."""
    return getattr(node.target, "_opname", "") if node.op == "call_function" else ""


def module_of(node: fx.Node) -> str:
    """Return the name of the innermost module in whose forward an operation was traced."""
    stack = node.meta.get("nn_module_stack") or {}
    return list(stack.values())[-1][0] if stack else ""


def _only_user(node: object) -> TypeGuard[fx.Node]:
    """Return whether a value is an operation's result that one other operation reads."""
    return isinstance(node, fx.Node) and len(node.users) == 1


def _one_value_a_channel(node: fx.Node) -> bool:
    """Return whether a reshape leaves [n, channels] of [n, channels, 1, 1]."""
    if operation(node) not in RESHAPED:
        return False
    before, after = node.args[0].meta["val"].shape, node.meta["val"].shape
    return len(after) == 2 and before[:2] == after and before[2:].numel() == 1


def _same_axis(first: nn.Module | None, second: nn.Module | None, between: object) -> bool:
    """Return whether the first layer's outputs and the second one's inputs lie on one axis."""
    if isinstance(second, nn.Linear) and not isinstance(first, nn.Linear):
        return isinstance(between, fx.Node) and between.meta["val"].ndim == 2
    return isinstance(first, CONVOLUTIONS) == isinstance(second, CONVOLUTIONS)


def _not_shared(network: nn.Module) -> set[str]:
    """Return the names of modules none of whose parameters another name leads to."""
    owners: dict[int, set[str]] = {}
    for name, parameter in network.named_parameters(remove_duplicate=False):
        owners.setdefault(id(parameter), set()).add(name)
    shared = {name.rpartition(".")[0] for names in owners.values() if len(names) > 1 for name in names}
    return {name for name, _ in network.named_modules()} - shared


def folded(network: nn.Module, example: Arrays) -> nn.Module:
    """Return a copy in which each batch norm behind a convolution or linear layer is part of that layer.

    An identity stands in the norm's place, so that the other layers keep their names.

    Raises:
        Unsupported: torch.export refuses the network.
    """
    copied = copy.deepcopy(network)
    for layer, norm in Flow(copied, example).normed():
        module, batch_norm = copied.get_submodule(layer), copied.get_submodule(norm)
        fuse = fusion.fuse_linear_bn_eval if isinstance(module, nn.Linear) else fusion.fuse_conv_bn_eval
        copied.set_submodule(layer, fuse(module, batch_norm))
        copied.set_submodule(norm, nn.Identity())
    return copied

"""Fake quantization while training, layer by layer: by `layers.rounded`, or by torchao for PyTorch's own int4 grid.

The trained module keeps the names of the network's own parameters, so that its state goes back as it is.

torchao's `QATConfig` has three grids, and only one of them is some backend's: symmetric codes -8..7 of scale
|largest| / 7.5 clip the largest positive weight, which neither Core ML's nor LiteRT's nor torchao's own quantizer does;
affine codes in its default configuration cut the zero point to an integer of the wrong unit (torchao 0.18); with float
zero points it is the grid of PyTorch's int4 kernel. So torchao takes what is trained for that one, and everything else
is rounded on the scheme's own grid, the gradient passing straight through (arXiv:1308.3432).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any, Protocol

import torch
from torch import nn
from torch.func import functional_call

from quantkit.contracts import Plan, Split
from quantkit.errors import Unsupported
from quantkit.procedures import layers
from quantkit.procedures.qat_settings import Stage, Training
from quantkit.scheme import PerGroup, Scheme

NORMS = (nn.modules.batchnorm._BatchNorm,)
TRAINABLE = ("int", "nf4")
Near = Callable[[str, torch.Tensor], torch.Tensor]  # a layer's name and weight -> the weight on its grid


class Student(Protocol):
    """A network in training (satisfied by `Layered` and `qat_graph.Graph`)."""

    engine: str  # whose fake quantization it is, for the report
    module: nn.Module  # what the optimizer and the checkpoint see
    schemes: Mapping[str, Scheme]  # layer -> scheme of what is quantized

    def __call__(self, *inputs: torch.Tensor) -> torch.Tensor: ...

    def learn(self, stage: Stage, *, norms: bool) -> None:
        """Get ready for an epoch of training; `norms`: batch norms take new statistics."""
        ...

    def judge(self) -> None:
        """Get ready to answer with the whole plan quantized."""
        ...

    def distance(self) -> torch.Tensor:
        """Return the mean over layers of |weight - nearest on the grid|² / |weight|²; differentiable."""
        ...

    def network(self) -> nn.Module:
        """Return a plain copy in eval mode, weights on their grids, with the names of the original."""
        ...


def asked(network: nn.Module, plan: Plan) -> dict[str, Scheme]:
    """Return layer -> scheme of all layers that the plan quantizes, in the order of the network.

    Tables that a container adds (positions) are no layers: backends leave them in float.

    Raises:
        Unsupported: a kind of layer or a scheme that cannot be trained, a network that keeps a state, a layer that
            does not exist, or nothing to quantize.
    """
    if getattr(network, "states", ()):
        raise Unsupported("a network that takes one position at a time is not trained: train the one of whole items")
    found = layers.weight_layers(network)
    if unknown := sorted(set(plan.layers) - set(found)):
        raise Unsupported(f"the plan names layers that hold no weights here: {', '.join(unknown[:3])}")
    schemes = {name: plan.layers.get(name, plan.default) for name in found if is_layer(found[name])}
    quantized = {name: scheme for name, scheme in schemes.items() if scheme is not None and scheme.quantized}
    if not quantized:
        raise Unsupported(f"nothing to train for: {plan.default.name} quantizes no layer of this network")
    for name, scheme in quantized.items():
        if reason := _obstacle(found[name], scheme):
            raise Unsupported(f"layer '{name}' cannot be trained at {scheme.name}: {reason}")
    return quantized


def is_layer(module: nn.Module) -> bool:
    """Return whether a module with weights is a layer, not a container that keeps a table."""
    return not any(True for _ in module.children())


def _obstacle(module: nn.Module, scheme: Scheme) -> str:
    if isinstance(module, nn.RNNBase):
        return f"the weights of {type(module).__name__} go into one fused call, with nothing between them to round"
    if scheme.format not in TRAINABLE:
        return f"only uniform integers and NF4 are rounded at each step, not {scheme.format}"
    if scheme.codes != "nearest" or scheme.sparsity or scheme.double:
        return "codes other than the nearest, sparse weights and quantized scales are not simulated"
    return ""


class Layered:
    """Weights (and inputs) of single layers rounded as they are used (satisfies `Student`)."""

    def __init__(self, network: nn.Module, plan: Plan, items: Split, training: Training):
        self._original = network
        self.schemes: Mapping[str, Scheme] = asked(network, plan)
        self.module = copy.deepcopy(network)
        self._stage, self._learning, self._noise = Stage(0), False, training.noise
        self._order = {name: place for place, name in enumerate(self.schemes)}
        static = any(scheme.activations == "static" for scheme in self.schemes.values())
        ranges = layers.input_ranges(network, items) if static else {}
        for name, scheme in self.schemes.items():
            module = self.module.get_submodule(name)
            if scheme.activations != "none" and not isinstance(module, nn.Embedding):
                module.register_forward_pre_hook(self._rounding(name, scheme, ranges.get(name)))
        tiny, self._signed = training.grid == "tinygemm", training.grid == "signed"
        theirs = {name: own for name, own in self.schemes.items() if tiny and by_torchao(network, name, own)}
        self._fakes = _torchao_fakes(self.module, theirs)
        self.engine = f"torchao {len(theirs)}, straight-through {len(self.schemes) - len(theirs)} layers"

    def __call__(self, *inputs: torch.Tensor) -> torch.Tensor:
        return functional_call(self.module, self._weights(), inputs, tie_weights=False)

    def _weights(self) -> dict[str, torch.Tensor]:
        """Return the rounded weights of the layers that torchao does not take, by parameter name."""
        done: dict[tuple[int, Scheme], torch.Tensor] = {}
        found = {}
        for name, scheme in self.schemes.items():
            if name in self._fakes or not self._on(name):
                continue
            for key, weight in layers.weights_of(self.module.get_submodule(name)).items():
                same = id(weight), scheme  # a tied weight is rounded once
                if same not in done:
                    done[same] = self._noisy(weight, self._rounded(weight, self._now(scheme)))
                found[f"{name}.{key}"] = done[same]
        return found

    def _on(self, name: str) -> bool:
        return not self._learning or self._order[name] < self._stage.share * len(self._order)

    def _now(self, scheme: Scheme) -> Scheme:
        """Return the scheme at this stage's width."""
        bits = self._stage.bits if self._learning else None
        return replace(scheme, bits=max(bits, scheme.bits)) if bits and scheme.format == "int" else scheme

    def _noisy(self, weight: torch.Tensor, rounded: torch.Tensor) -> torch.Tensor:
        if not self._learning or self._noise == 1:
            return rounded
        return torch.where(torch.rand_like(weight) < self._noise, rounded, weight)

    def _rounding(self, name: str, scheme: Scheme, fixed: layers.Range | None) -> layers.Hook:
        """Return a hook that rounds a layer's first input; outside the range the gradient is cut."""

        def hook(_: nn.Module, inputs: tuple) -> tuple:
            if not self._on(name):
                return inputs
            first, *others = inputs
            low, high = fixed or (float(first.detach().min()), float(first.detach().max()))
            inside = first.clamp(min(low, 0.0), max(high, 0.0))
            near = layers.on_grid(inside.detach(), low, high, scheme.activation_bits)
            return (inside + (near - inside).detach(), *others)

        return hook

    def learn(self, stage: Stage, *, norms: bool) -> None:
        """Get ready for an epoch of training."""
        self._stage, self._learning = stage, True
        self.module.train()
        for module in self.module.modules():
            if isinstance(module, NORMS):
                module.train(norms)
        for name, fake in self._fakes.items():
            fake.enabled = self._on(name)

    def judge(self) -> None:
        """Get ready to answer with the whole plan quantized."""
        self._learning = False
        self.module.eval()
        for fake in self._fakes.values():
            fake.enabled = True

    def distance(self) -> torch.Tensor:
        """Return the mean over layers of |weight - nearest on the grid|² / |weight|²; differentiable."""
        return mean_distance(self.module, self.schemes, self._near)

    def network(self) -> nn.Module:
        """Return a plain copy in eval mode, weights on their grids."""
        self.judge()
        return on_grids(self._original, self.module.state_dict(), self.schemes, self._near)

    def _near(self, name: str, weight: torch.Tensor) -> torch.Tensor:
        fake = self._fakes.get(name)
        return fake(weight) if fake is not None else self._rounded(weight, self.schemes[name])

    def _rounded(self, weight: torch.Tensor, scheme: Scheme) -> torch.Tensor:
        return layers.rounded(weight, scheme, signed=self._signed and scheme.activations == "none")


def by_torchao(network: nn.Module, name: str, scheme: Scheme) -> bool:
    """Return whether a layer is one that PyTorch's int4 kernel takes: Linear, 4 bits, whole groups of its inputs."""
    module, per = network.get_submodule(name), scheme.granularity
    if type(module) is not nn.Linear or (scheme.format, scheme.bits, scheme.activations) != ("int", 4, "none"):
        return False
    return isinstance(per, PerGroup) and per.axis == 0 and module.in_features % per.group_size == 0


def _torchao_fakes(module: nn.Module, schemes: Mapping[str, Scheme]) -> dict[str, Any]:
    """Swap Linear layers for torchao's fake-quantized ones; return layer -> its fake quantizer."""
    if not schemes:
        return {}
    from torchao.quantization import quantize_
    from torchao.quantization.qat import IntxFakeQuantizeConfig, QATConfig
    from torchao.quantization.quant_primitives import ZeroPointDomain

    for scheme in set(schemes.values()):
        assert isinstance(scheme.granularity, PerGroup)  # by_torchao
        config = IntxFakeQuantizeConfig(
            torch.uint4,
            group_size=scheme.granularity.group_size,
            is_symmetric=False,
            zero_point_precision=torch.float32,
            zero_point_domain=ZeroPointDomain.FLOAT,
        )
        names = {name for name, own in schemes.items() if own == scheme}
        quantize_(
            module,
            QATConfig(weight_config=config, step="prepare"),
            filter_fn=lambda _, name, names=names: name in names,
        )
    return {name: module.get_submodule(name).weight_fake_quantizer for name in schemes}


def mean_distance(module: nn.Module, names: Iterable[str], near: Near) -> torch.Tensor:
    """Return the mean over layers of |weight - nearest on the grid|² / |weight|²; differentiable in the weights."""
    parts = []
    for name in names:
        for weight in layers.weights_of(module.get_submodule(name)).values():
            apart = weight - near(name, weight.detach())
            parts.append(apart.square().sum() / weight.detach().square().sum().clamp_min(1e-12))
    return torch.stack(parts).mean()


def on_grids(original: nn.Module, state: Mapping[str, torch.Tensor], names: Iterable[str], near: Near) -> nn.Module:
    """Return a copy of the original in eval mode with another state, its quantized weights rounded to their grids.

    Rounding again changes nothing: a grid's outermost codes stay outermost, so a backend finds the same codes.
    """
    network = copy.deepcopy(original)
    network.load_state_dict(state)
    with torch.no_grad():
        for name in names:
            for weight in layers.weights_of(network.get_submodule(name)).values():
                weight.copy_(near(name, weight))
    return network.eval().requires_grad_(False)

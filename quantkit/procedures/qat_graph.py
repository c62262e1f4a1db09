"""Fake quantization of a whole graph for static int8: torchao's PT2E (`prepare_qat_pt2e`), norms fused as at inference.

The graph is trained, not deployed: its parameters keep the names of the network's, so that the trained weights go back
into the plain network and every backend's own quantizer makes its artifact. The x86 quantizer says which operations
are quantized together (convolution, norm, addition, ReLU; linear); it only annotates, so that it serves any processor.
"""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn

from quantkit.contracts import Plan, Split
from quantkit.errors import Unsupported
from quantkit.procedures import layers, qat_fake
from quantkit.procedures.qat_settings import Stage, Training
from quantkit.scheme import PerChannel, Scheme

# operation -> place of the argument that says whether it trains
TRAINING = {torch.ops.aten.batch_norm.default: 5, torch.ops.aten.dropout.default: 2, torch.ops.aten.dropout_.default: 2}
NORM = torch.ops.aten.batch_norm.default


def serves(network: nn.Module, plan: Plan, training: Training) -> bool:
    """Return whether PT2E can train this plan: static int8 per channel on Conv2d and Linear, one for all, no noise."""
    schemes = qat_fake.asked(network, plan)
    kinds = {type(network.get_submodule(name)) for name in schemes}
    static = all(
        s.format == "int" and (s.bits, s.activations, s.activation_bits) == (8, "static", 8) and s.symmetric
        for s in schemes.values()
    )
    per_channel = all(s.granularity == PerChannel(0) for s in schemes.values())
    return static and per_channel and not plan.layers and training.plain and kinds <= {nn.Conv2d, nn.Linear}


class Graph:
    """A network as PT2E prepares it for training (satisfies `qat_fake.Student`)."""

    engine = "torchao PT2E"

    def __init__(self, network: nn.Module, plan: Plan, items: Split):
        self._original = network
        self.schemes: Mapping[str, Scheme] = qat_fake.asked(network, plan)
        self.module: Any = prepared(network, items)
        self._fakes = [module for module in self.module.modules() if hasattr(module, "fake_quant_enabled")]
        self.judge()
        self._settle(items)

    def _settle(self, items: Split) -> None:
        """Let the ranges see some items before anything is learned, so that the first step has a grid."""
        self._ranges(True)
        with torch.no_grad():
            self.module(*(torch.from_numpy(np.ascontiguousarray(x[:64])) for x in items.inputs))
        self._ranges(False)

    def __call__(self, *inputs: torch.Tensor) -> torch.Tensor:
        return self.module(*inputs)

    def learn(self, stage: Stage, *, norms: bool) -> None:
        """Get ready for an epoch of training."""
        self._train(training=True, norms=norms)
        on = round(stage.share * len(self._fakes))
        self._ranges(True)
        self._rounding(on)

    def judge(self) -> None:
        """Get ready to answer with the whole graph quantized, all ranges as they are."""
        self._train(training=False, norms=False)
        self._ranges(False)
        self._rounding(len(self._fakes))

    def float(self) -> None:
        """Get ready to answer without any rounding: what the weights compute by themselves."""
        self.judge()
        self._rounding(0)

    def _train(self, *, training: bool, norms: bool) -> None:
        """Tell every norm and dropout of the graph whether it trains: `module.train()` does not reach them."""
        for node in self.module.graph.nodes:
            if node.target in TRAINING:
                node.update_arg(TRAINING[node.target], training and (norms or node.target is not NORM))
        self.module.recompile()

    def _ranges(self, on: bool) -> None:
        for fake in self._fakes:
            fake.observer_enabled.fill_(int(on))

    def _rounding(self, first: int) -> None:
        for place, fake in enumerate(self._fakes):
            fake.fake_quant_enabled.fill_(int(place < first))

    def distance(self) -> torch.Tensor:
        """Return the mean over layers of |weight - nearest on the grid|² / |weight|²; differentiable."""
        return qat_fake.mean_distance(self.module, self.schemes, self._near)

    def network(self) -> nn.Module:
        """Return a plain copy in eval mode, weights on their grids."""
        return qat_fake.on_grids(self._original, self.plain_state(), self.schemes, self._near)

    def _near(self, name: str, weight: torch.Tensor) -> torch.Tensor:
        return layers.rounded(weight, self.schemes[name])

    def plain_state(self) -> dict[str, torch.Tensor]:
        """Return the trained state under the names of the original network.

        Raises:
            Unsupported: the graph renamed or dropped a parameter.
        """
        state, wanted = self.module.state_dict(), self._original.state_dict()
        tied = {name for name in wanted if name not in state and name not in dict(self._original.named_parameters())}
        if missing := [name for name in wanted if name not in state and name not in tied]:
            raise Unsupported(f"the trained graph has no '{missing[0]}': its weights cannot go back by name")
        return {name: state.get(name, wanted[name]) for name in wanted}


def prepared(network: nn.Module, items: Split) -> nn.Module:
    """Return the graph with fake quantization, for any batch of at least two.

    Raises:
        Unsupported: torch.export or PT2E cannot take the network.
    """
    example = tuple(torch.from_numpy(np.ascontiguousarray(x[:4])) for x in items.inputs)
    free = tuple({0: torch.export.Dim.AUTO} for _ in example)
    with _quietly():
        from torchao.quantization.pt2e.quantize_pt2e import prepare_qat_pt2e
        from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86

        quantizer = x86.X86InductorQuantizer()
        quantizer.set_global(x86.get_default_x86_inductor_quantization_config(is_qat=True))
        try:
            program = torch.export.export(copy.deepcopy(network).train(), example, dynamic_shapes=free)
            return prepare_qat_pt2e(program.module(check_guards=False), quantizer)
        except Exception as error:  # the model's own code runs in it, so that any exception may come out
            message = next(iter(str(error).splitlines()), type(error).__name__)
            raise Unsupported(
                f"PT2E cannot prepare this network for training: {type(error).__name__}: {message[:200]}"
            ) from error


@contextmanager
def _quietly() -> Iterator[None]:
    """Hide what torch and torchao say about their own code on import and export."""
    loggers = [logging.getLogger(name) for name in ("torchao", "torch.utils._pytree", "torch.export")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)

"""Fake quantization of static int8 by coremltools' own trainer (`optimize.torch`), for what goes to Core ML.

Its graph (FX) fuses convolution, norm and activation into one module and renames them; the trained tensors go back by
the memory that they shared before training, so that the result is the plain network again and the backend `coreml`
makes the artifact as it does without training. Activations are symmetric here, as Core ML keeps them.
https://apple.github.io/coremltools/docs-guides/source/opt-quantization-algos.html
"""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from quantkit import extras
from quantkit.contracts import Plan, Split
from quantkit.errors import Unsupported
from quantkit.procedures import qat_fake
from quantkit.procedures.qat_graph import Graph
from quantkit.scheme import Scheme

NEVER = [0, 0, 10**9, 10**9]  # observers and rounding from the start; what is later switched off, we switch


class CoremlGraph(Graph):
    """A network as coremltools prepares it for training (satisfies `qat_fake.Student`)."""

    engine = "coremltools LinearQuantizer"

    def __init__(self, network: nn.Module, plan: Plan, items: Split):
        self._original = network
        self.schemes: Mapping[str, Scheme] = qat_fake.asked(network, plan)
        copied = copy.deepcopy(network)
        known = {name: value.data_ptr() for name, value in copied.state_dict().items() if value.numel() > 1}
        self.module: Any = _prepared(copied, items)
        places = {value.data_ptr(): name for name, value in self.module.state_dict().items()}
        if missing := [name for name, pointer in known.items() if pointer not in places]:
            raise Unsupported(f"coremltools' trainer does not keep '{missing[0]}': its weights cannot go back")
        self._names = {name: places[pointer] for name, pointer in known.items()}
        self._fakes = [module for module in self.module.modules() if hasattr(module, "fake_quant_enabled")]
        self.judge()
        self._settle(items)

    def _train(self, *, training: bool, norms: bool) -> None:
        self.module.train(training)
        for module in self.module.modules():
            if isinstance(module, qat_fake.NORMS):
                module.train(training and norms)
            elif hasattr(module, "freeze_bn"):  # convolution and norm in one
                module.freeze_bn = not (training and norms)

    def distance(self) -> torch.Tensor:
        """Return the mean over layers of |weight - nearest on the grid|² / |weight|²; differentiable."""
        state = dict(self.module.named_parameters())
        apart = []
        for name in self.schemes:
            weight = state[self._names[f"{name}.weight"]]
            near = self._near(name, weight.detach())
            apart.append((weight - near).square().sum() / weight.detach().square().sum().clamp_min(1e-12))
        return torch.stack(apart).mean()

    def plain_state(self) -> dict[str, torch.Tensor]:
        """Return the trained state under the names of the original network."""
        state = self.module.state_dict()
        return {
            name: state[self._names[name]] if name in self._names else value
            for name, value in self._original.state_dict().items()
        }


def _prepared(network: nn.Module, items: Split) -> nn.Module:
    """Return the graph with coremltools' fake quantization; it shares the network's tensors.

    Raises:
        MissingExtra: coremltools is not installed.
        Unsupported: FX cannot trace the network.
    """
    logging.getLogger("coremltools").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        extras.require("coremltools")
        from coremltools.optimize.torch import quantization

        one: Any = quantization.ModuleLinearQuantizerConfig(quantization_scheme="symmetric", milestones=NEVER)
        trainer = quantization.LinearQuantizer(network, quantization.LinearQuantizerConfig(global_config=one))
        example = tuple(torch.from_numpy(np.ascontiguousarray(x[:2])) for x in items.inputs)
        try:
            return trainer.prepare(example_inputs=example, inplace=True)
        except Exception as error:  # FX runs the model's own code: any exception may come out
            message = next(iter(str(error).splitlines()), "")[:200]
            raise Unsupported(
                f"coremltools' trainer cannot trace this network: {type(error).__name__}: {message}"
            ) from error

"""ResNet-50 at its true size with random weights (He et al. 2016, arXiv:1512.03385): size, speed and fidelity only.

No ImageNet weights are to be had from a package registry, so nothing here is an accuracy. The weights are drawn with a
fixed seed; then eight synthetic calibration images set the statistics of every batch norm, so that no layer's
activations vanish or explode, and centre and scale the logits, so that images differ in their largest one
(data-dependent initialization: Mishkin & Matas 2016, arXiv:1511.06422). The last bits depend on the machine's
arithmetic, like those of any training.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from quantkit import extras
from quantkit.contracts import ModelInfo, Quality, Source

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import nn

SEED = 2026


def network() -> nn.Module:
    """Return the network with freshly drawn weights: images [n, 3, 224, 224] -> logits [n, 1000]."""
    transformers = extras.require("transformers")
    from torch import nn

    class ResNet(nn.Module):
        """The classifier of transformers; only its logits come out."""

        def __init__(self):
            super().__init__()
            self.resnet = transformers.ResNetForImageClassification(transformers.ResNetConfig(num_labels=1000))

        def forward(self, images):
            return self.resnet(images).logits

    return ResNet()


def settle(built: nn.Module, images: torch.Tensor) -> nn.Module:
    """Give every batch norm the statistics of `images`, and the logits mean 0 each and deviation 1 over all."""
    import torch
    from torch import nn

    norms = [module for module in built.modules() if isinstance(module, nn.BatchNorm2d)]
    usual = norms[0].momentum
    for norm in norms:
        norm.momentum = 1.0  # take these images' statistics as they are
    with torch.no_grad():
        built.train()(images)
        for norm in norms:
            norm.momentum = usual
        logits = built.eval()(images)
        head = next(module for module in reversed(list(built.modules())) if isinstance(module, nn.Linear))
        mean = logits.mean(0)
        deviation = (logits - mean).square().mean().sqrt()
        head.weight.div_(deviation)
        head.bias.sub_(mean).div_(deviation)
    return built


class ResNet50:
    """Convolutions, batch norms and one linear layer, 25.6 M weights (satisfies `contracts.Model`)."""

    info = ModelInfo(
        name="resnet50",
        title="ResNet-50, random weights",
        family="cnn",
        domain="vision",
        dataset="noise_images",
        quality=Quality("fidelity", "none"),
        sources=(Source("random", "transformers.ResNetConfig"),),
        licence="Apache-2.0",
        provenance=f"random weights, seed {SEED}; batch norms and logits set by eight synthetic calibration images",
        layers=("conv2d", "linear"),
        preprocessing="an image of 224x224 as RGB planes, minus mean, over deviation of ImageNet",
        profiles=("regular", "full"),
        extras=("transformers",),
    )

    def load(self) -> nn.Module:
        """Return the network: the same one each time; the caller's random state is left as it was."""
        extras.require("transformers")
        import torch

        from quantkit.catalog import DATASETS

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(SEED)
            built = network()
        (images,) = DATASETS.get(self.info.dataset).calibration(8).inputs
        return settle(built, torch.from_numpy(images))

    def outcomes(self, outputs: np.ndarray, targets: np.ndarray) -> np.ndarray:
        """Return no outcome, shape [0]: random weights are never right or wrong."""
        return outputs[:0, 0]


plugin = ResNet50()

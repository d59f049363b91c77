"""Fine-tuning on the k support images, with augmentation: "Finetune + Aug" of Table 1, and the curves of Fig. 3.

The whole network moves: a zero head on the trained backbone, some steps of Adam on all support images, each image augmented
anew at every step. Batch norm keeps the statistics of the common diseases, so one image's answer ignores the others.
The paper gives neither rate nor steps.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from rareshot import machine, optimiser
from rareshot.backbones import Network
from rareshot.data.augment import affine
from rareshot.episodes import Augment
from rareshot.methods.memory import in_one_order
from rareshot.methods.probabilities import probabilities
from rareshot.pixels import Pixels
from rareshot.types import Support


@dataclass(frozen=True)
class FineTuned:
    """One adapted task: a network of its own."""

    net: nn.Module
    pixels: Pixels

    @torch.no_grad()
    def __call__(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n way"]:
        """Probabilities, in float64: its logits lie far apart."""
        return probabilities(self.net(self.pixels(images).to(_device_of(self.net))), torch.float64)

    @torch.no_grad()
    def embed(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n features"]:
        """Features of the fine-tuned backbone."""
        features: Tensor = cast(Network, self.net).backbone(self.pixels(images).to(_device_of(self.net)))
        return features.cpu()


def _device_of(net: nn.Module) -> torch.device:
    return next(net.parameters()).device


Watch = Callable[[int, float, FineTuned], None]
"""Step from 0, training loss, and the classifier as it stands at that loss; it moves on with the next step."""


def finetune(
    net: Network,
    pixels: Pixels,
    support: Support,
    *,
    steps: int,
    lr: float,
    seed: int,
    augment: Augment = affine,
    observe: Watch = lambda step, loss, classify: None,
) -> FineTuned:
    """The classifier after `steps` steps; `net` stays as it was.

    Args:
        net: its head is replaced by one of zeros for the classes of `support`.
        lr: Adam's rate, for all weights.
        seed: step i augments by draws from (seed, i).
        observe: called before every step, for the curves of Fig. 3.
    """
    model = copy.deepcopy(net).eval()
    model.head = nn.Linear(net.head.in_features, support.way, device="meta").to_empty(device="cpu")  # draws nothing
    nn.init.zeros_(model.head.weight)
    nn.init.zeros_(model.head.bias)
    device = machine.device()
    model.to(device).requires_grad_(True)
    support = in_one_order(support)  # else it would be chance which image is augmented by which draw
    labels = support.labels.to(device)
    weights = 1 / torch.bincount(labels, minlength=support.way)  # classes count alike, whatever their size
    classify = FineTuned(model, pixels)
    adam = optimiser.adam(model.parameters(), lr=lr)
    for step in range(steps):
        x = pixels(augment(support.images, np.random.default_rng((seed, step)))).to(device)
        loss = F.cross_entropy(model(x), labels, weight=weights)
        observe(step, loss.item(), classify)
        adam.zero_grad()
        torch.autograd.backward(loss)
        adam.step()
    return classify

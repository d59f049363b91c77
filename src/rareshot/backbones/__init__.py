"""Backbones by name: (n, 3, size, size) → (n, features). One line in `BACKBONES` adds another.

`Network` is what adapts: a backbone and the linear head that belongs to the method.
"""

from collections.abc import Callable, Mapping
from typing import Literal, Protocol, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from rareshot.backbones.conv4 import Conv4
from rareshot.backbones.norms import NORM_MODES, EpisodicNorm, NormMode
from rareshot.backbones.resblocks import ResBlocks
from rareshot.backbones.timm_backbone import TimmBackbone, is_timm_name

__all__ = ["BACKBONES", "NORM_MODES", "Backbone", "EpisodicNorm", "HeadMode", "Network", "NormMode", "build"]

HeadMode = Literal["full", "shared"]


class Backbone(Protocol):
    """An `nn.Module` that gives `features` numbers an image."""

    features: int

    def __call__(self, x: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n features"]:
        """Features of each image."""
        ...


BACKBONES: dict[str, Callable[[int, NormMode, int | None], nn.Module]] = {
    "conv4": lambda size, norm, width: Conv4(size, width=width or 64, norm=norm),
    "resblocks": lambda size, norm, width: ResBlocks(size, width=width or 32, norm=norm),
}
"""Our own backbones: (size, norm, width or None for the paper's) → module. Any other name is looked up in timm."""


class Network(nn.Module):
    """A backbone and a linear head: (n, 3, size, size) → logits (n, way).

    Args:
        backbone: gives `features`.
        head: `full`, a learnt row for each class, as the paper has it; or `shared`, one learnt row from which every class
            starts (UNICORN-MAML, Ye & Chao 2022), so that any way can be adapted and no answer depends on class order.
        way: classes of a `full` head.
    """

    def __init__(self, backbone: nn.Module, *, head: HeadMode, way: int) -> None:
        super().__init__()
        if head not in ("full", "shared"):
            raise ValueError(f"head={head!r} is not a head; choose full or shared")
        self.backbone = backbone
        self.head_mode = head
        features = cast(int, backbone.features)
        self.head = nn.Linear(features, way if head == "full" else 1)
        nn.init.kaiming_normal_(self.head.weight, nonlinearity="linear")
        nn.init.zeros_(self.head.bias)

    def forward(self, x: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n way"]:
        """Logits of each image."""
        logits: Tensor = self.head(self.backbone(x))
        return logits

    def begin(self, params: Mapping[str, Tensor], way: int) -> dict[str, Tensor]:
        """The weights from which a task of `way` classes starts; a shared row is repeated for each class.

        Raises:
            ValueError: if the head is `full` and has another way.
        """
        if self.head_mode == "shared":
            row = {name: params[name].expand(way, *params[name].shape[1:]) for name in ("head.weight", "head.bias")}
            return {**params, **row}
        trained = params["head.weight"].shape[0]
        if trained != way:
            raise ValueError(
                f"this learner has a full head for {trained} classes and cannot take {way}; "
                f"give {trained} classes, or fit one with head='shared', which takes any number"
            )
        return dict(params)


def build(
    backbone: str, *, size: int, norm: NormMode, head: HeadMode, way: int, seed: int, width: int | None = None
) -> Network:
    """A network with weights that depend on `seed` alone; the global random state is left as it was.

    Raises:
        ValueError: if there is no such backbone, norm or head, or the backbone cannot take the size.
    """
    if norm not in NORM_MODES:
        raise ValueError(f"norm={norm!r} is not a norm mode; choose from {', '.join(NORM_MODES)}")
    if backbone not in BACKBONES and not is_timm_name(backbone):
        raise ValueError(f"no backbone {backbone!r}; ours are {', '.join(BACKBONES)}, and any name of timm's is taken")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if backbone in BACKBONES:
            module = BACKBONES[backbone](size, norm, width)
        else:
            module = TimmBackbone(backbone, size, norm=norm)
        return Network(module, head=head, way=way).to(memory_format=torch.channels_last)

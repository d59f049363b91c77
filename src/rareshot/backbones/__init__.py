"""Backbones by name: (n, 3, size, size) → (n, features). One line in `BACKBONES` adds another.

`Network` is what adapts: a backbone and the linear head that belongs to the method.
"""

from collections.abc import Callable, Mapping
from typing import Literal, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from rareshot.backbones.conv4 import Conv4
from rareshot.backbones.efficientnet import EfficientNetLite0
from rareshot.backbones.norms import NORM_MODES, AnyNorm, EpisodicNorm, NormMode
from rareshot.backbones.resblocks import ResBlocks
from rareshot.backbones.timm_backbone import TimmBackbone, is_timm_name

__all__ = ["BACKBONES", "NORM_MODES", "WIDTHS", "AnyNorm", "EpisodicNorm", "HeadMode", "Network", "NormMode", "build"]

HeadMode = Literal["full", "shared"]


WIDTHS = {"conv4": 64, "resblocks": 32}
"""The paper's number of filters, of the backbones that can be built with another."""
BACKBONES: dict[str, Callable[[int, AnyNorm, int | None], nn.Module]] = {
    "conv4": lambda size, norm, width: Conv4(size, width=width or WIDTHS["conv4"], norm=norm),
    "resblocks": lambda size, norm, width: ResBlocks(size, width=width or WIDTHS["resblocks"], norm=norm),
    "efficientnet-lite0": lambda size, norm, _: EfficientNetLite0(size, norm=norm),
}
"""Our own backbones: (size, norm, width or None for the paper's) → module. Any other name is looked up in timm."""


class Network(nn.Module):
    """A backbone and a linear head: (n, 3, size, size) → logits (n, way).

    Args:
        backbone: gives `features`.
        head: `full`, a learnt row for each class, one way only; or `shared`, the same row for every class (UNICORN-MAML, Ye
            & Chao 2022), so that any way can be adapted and no answer depends on class order. Softmax cancels what all
            classes share, at every inner step too, so the shared row is zero and nothing about it is learnt.
        way: classes of a `full` head; a `shared` one has a single row, whatever it says: `begin` makes those of a task.
    """

    def __init__(self, backbone: nn.Module, *, head: HeadMode, way: int) -> None:
        super().__init__()
        if head not in ("full", "shared"):
            raise ValueError(f"head={head!r} is not a head; choose full or shared")
        self.backbone = backbone
        self.head_mode = head
        # The head is drawn last, so that the backbone's weights are the same whatever its rows.
        self.head = nn.Linear(cast(int, backbone.features), 1 if head == "shared" else way)
        nn.init.kaiming_normal_(self.head.weight, nonlinearity="linear")
        nn.init.zeros_(self.head.bias)

    def forward(self, x: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n way"]:
        """Logits of each image."""
        logits: Tensor = self.head(self.backbone(x))
        return logits

    def learnt(self) -> dict[str, nn.Parameter]:
        """Name → weight, of all that meta-training moves: the backbone, and the head if it is `full`."""
        shared = self.head_mode == "shared"
        return {name: value for name, value in self.named_parameters() if not (shared and name.startswith("head."))}

    def begin(self, params: Mapping[str, Tensor], way: int) -> dict[str, Tensor]:
        """The weights from which a task of `way` classes starts: `params`, and for a shared head a row of zeros a class.

        Raises:
            ValueError: if the head is `full` and has another way.
        """
        trained, features = self.head.weight.shape
        if self.head_mode == "shared":
            like = next(iter(params.values()))
            return {**params, "head.weight": like.new_zeros(way, features), "head.bias": like.new_zeros(way)}
        if trained != way:
            raise ValueError(
                f"this learner has a full head for {trained} classes and cannot take {way}; "
                f"give {trained} classes, or fit one with head='shared', which takes any number"
            )
        return dict(params)


def build(
    backbone: str, *, size: int, norm: AnyNorm, head: HeadMode, way: int, seed: int, width: int | None = None
) -> Network:
    """A network with weights that depend on `seed` alone; the global random state is left as it was.

    Raises:
        ValueError: if there is no such backbone, norm or head, or the backbone cannot take the size.
    """
    if norm != "running" and norm not in NORM_MODES:
        raise ValueError(f"norm={norm!r} is not a norm mode; choose from {', '.join(NORM_MODES)}")
    if backbone not in BACKBONES and not is_timm_name(backbone):
        raise ValueError(f"no backbone {backbone!r}; ours are {', '.join(BACKBONES)}, and any name of timm's is taken")
    if width is not None and (width < 1 or backbone not in WIDTHS):
        raise ValueError(f"width={width}: at least 1, and only {' and '.join(WIDTHS)} have one to choose")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        ours = BACKBONES.get(backbone)
        module = ours(size, norm, width) if ours else TimmBackbone(backbone, size, norm=norm)
        net = Network(module, head=head, way=way)
    # eval: no dropout, whose draws would make answers depend on the global random state, and batch norm with its running
    # statistics. Our own norms know no such mode.
    return net.eval().to(memory_format=torch.channels_last)

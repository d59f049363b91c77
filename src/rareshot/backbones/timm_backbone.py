"""Any network of timm by its name, with our episodic norms in place of its batch norms, or its own."""

import warnings

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from rareshot.backbones.norms import AnyNorm, EpisodicNorm, NormMode

SIZES = (28, 32, 48, 64, 84, 96, 112, 128, 160, 192, 224)


class TimmBackbone(nn.Module):
    """(n, 3, size, size) → (n, features): a timm network without its head, randomly initialised.

    Args:
        name: a name that timm knows, for instance `densenet121`.
        size: image height and width.
        norm: replaces every batch norm; networks without one keep the norms that they have. `running`: all keep theirs.

    Raises:
        ValueError: if timm knows no such name, or the network cannot take the size (its smallest is named).
    """

    def __init__(self, name: str, size: int, *, norm: AnyNorm = "support") -> None:
        super().__init__()
        self.model = _create(name, size)
        features = _features(self.model, size)
        if features is None:
            fits = [other for other in SIZES if _features(_create(name, other), other) is not None]
            smallest = f"its smallest size is {fits[0]}" if fits else f"it takes none of {', '.join(map(str, SIZES))}"
            raise ValueError(f"backbone {name!r} cannot take images of {size} pixels; {smallest}")
        self.features = features
        if norm == "running":
            return
        replace_batch_norms(self.model, norm)
        left = {type(module).__name__ for module in self.model.modules() if isinstance(module, _BatchNorm)}
        if left:
            raise ValueError(
                f"backbone {name!r} has {', '.join(left)}, which has no episodic form here; choose another"
            )

    def forward(self, x: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n features"]:
        """Features of each image."""
        features: Tensor = self.model(x)
        return features


def is_timm_name(name: str) -> bool:
    """Does timm know a network of this name?"""
    import timm

    return bool(timm.is_model(name))


def _create(name: str, size: int) -> nn.Module:
    import timm

    if not timm.is_model(name):
        raise ValueError(f"no backbone {name!r}: neither ours nor timm's; `timm.list_models()` lists timm's names")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # timm warns of argument names that changed; nothing a caller could do
        try:
            model: nn.Module = timm.create_model(name, num_classes=0, img_size=size)
        except (TypeError, AssertionError):  # a convolutional network takes any size and knows no img_size
            model = timm.create_model(name, num_classes=0)
    return model


def _features(model: nn.Module, size: int) -> int | None:
    """Features of an image of `size`, or None if the network cannot take it."""
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            out = model(torch.zeros(2, 3, size, size))
    except (RuntimeError, AssertionError, ValueError):
        return None
    finally:
        model.train(training)
    return int(out.shape[1]) if out.ndim == 2 and out.isfinite().all() else None


def replace_batch_norms(module: nn.Module, norm: NormMode) -> None:
    """Put an episodic norm in place of every batch norm."""
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            ours: nn.Module = EpisodicNorm(child.num_features, norm)
            activation = getattr(child, "act", None)  # timm's BatchNormAct2d carries its activation
            setattr(module, name, ours if activation is None else nn.Sequential(ours, activation))
        else:
            replace_batch_norms(child, norm)

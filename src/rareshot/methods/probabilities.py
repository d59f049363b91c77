"""From logits to what a classifier answers."""

import torch
from jaxtyping import Float
from torch import Tensor

TINY = 1e-300
"""Below it probabilities are told apart no more, as in `rareshot.metrics.ranking`."""
FAR = 600.0
"""Log odds from which on a distance is written smaller, so that none is as small as that."""


def probabilities(logits: Float[Tensor, "n way"], dtype: torch.dtype = torch.float32) -> Float[Tensor, "n way"]:
    """Softmax, in float64, on the CPU. An adaptation that diverged knows nothing, and says so: equal probabilities.

    Args:
        dtype: of the answer. Logits that lie more than 103 apart, as after fine-tuning on one image, are a probability of
            just 0 in float32, so that such images rank alike; float64 tells them apart.
    """
    logits = logits.cpu()
    known = logits.isfinite().all(1, keepdim=True)
    return in_order(torch.where(known, logits, 0).double()).softmax(1).to(dtype)


def in_order(logits: Float[Tensor, "n way"]) -> Float[Tensor, "n way"]:
    """Each row less its largest; a distance d above 600 as 600 + log(1 + d - 600), which no finite d of float32 brings to 690.

    So two classes keep the order of all images, however far apart their logits lie; of more, distances of small classes shrink.
    """
    below = logits - logits.amax(1, keepdim=True)
    return torch.where(below < -FAR, -FAR - torch.log1p((-FAR - below).clamp_min(0)), below)

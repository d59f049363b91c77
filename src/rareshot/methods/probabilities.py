"""From logits to what a classifier answers."""

import torch
from jaxtyping import Float
from torch import Tensor

FAR = 600.0
"""Log odds from which on a distance is written smaller: `rareshot.metrics.ranking` tells no probability below 1e-300 from 0."""


def probabilities(logits: Float[Tensor, "n way"], dtype: torch.dtype = torch.float32) -> Float[Tensor, "n way"]:
    """Softmax, in float64, on the CPU. An adaptation that diverged knows nothing, and says so: equal probabilities.

    Two classes keep the order of all images, however far apart their logits lie: a distance d above 600 is taken as
    600 + log(1 + d - 600), which no finite d of float32 brings to 690.

    Args:
        dtype: of the answer. Logits that lie more than 103 apart, as after fine-tuning on one image, are a probability of
            just 0 in float32, so that such images rank alike; float64 tells them apart.
    """
    logits = logits.cpu()
    known = logits.isfinite().all(1, keepdim=True)
    below = torch.where(known, logits, 0).double()
    below = below - below.amax(1, keepdim=True)
    far = -FAR - torch.log1p((-FAR - below).clamp_min(0))
    return torch.where(below < -FAR, far, below).softmax(1).to(dtype)

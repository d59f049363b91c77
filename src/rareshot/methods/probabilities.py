"""From logits to what a classifier answers."""

import torch
from jaxtyping import Float
from torch import Tensor


def probabilities(logits: Float[Tensor, "n way"]) -> Float[Tensor, "n way"]:
    """Softmax, in float64, on the CPU. An adaptation that diverged knows nothing, and says so: equal probabilities."""
    logits = logits.cpu()
    known = logits.isfinite().all(1, keepdim=True)
    return torch.where(known, logits, 0).double().softmax(1).float()

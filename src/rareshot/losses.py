"""The losses: Eq. (1) for one task, and what the outer loop makes of the tasks' losses (§2.2 to §2.3).

| symbol | here | meaning |
|---|---|---|
| L_i | `losses[i]` | query loss of task i after adaptation, Eq. (1), a mean over its query images |
| η | `eta` | how strongly easy tasks fade |
| ε | `eps` | keeps the logarithm finite; small, not the paper's "smallest positive integer" (docs/paper.md) |
"""

import math
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor


def task_loss(logits: Float[Tensor, "n way"], labels: Int[Tensor, " n"]) -> Float[Tensor, ""]:
    """Eq. (1): cross-entropy, averaged over the images."""
    return F.cross_entropy(logits, labels)


@runtime_checkable
class MetaLoss(Protocol):
    """What the outer loop minimises: the tasks' losses → one number."""

    def __call__(self, losses: Float[Tensor, " tasks"], way: int) -> Float[Tensor, ""]:
        """A mean over the tasks; `way` says where chance lies, at ln(way)."""
        ...


@dataclass(frozen=True)
class Mean:
    """Eq. (4), the loss of MAML: every task counts the same."""

    def __call__(self, losses: Float[Tensor, " tasks"], way: int = 2) -> Float[Tensor, ""]:
        """The mean of the tasks' losses."""
        return losses.mean()


@dataclass(frozen=True)
class DifficultyAware:
    """Eq. (3), the loss of DAML: easy tasks fade, hard ones count.

    Li, Yu, Jin, Fu, Xing, Heng: Difficulty-aware Meta-Learning for Rare Disease Diagnosis, MICCAI 2020, arXiv 1907.00354:

        L_DA = 1/tasks Σ_i  -L_i^η log(max(ε, 1 - L_i))

    The paper sums; we divide by the number of tasks, as for `Mean`, so that the two phases of training share a scale. The
    slope reaches about 1/ε just below L = 1 - ε and falls to η log(1/ε) behind it: one unlucky task swallows the step.
    Hence the form `smooth`.

    Example:
        >>> DifficultyAware(form="paper")(torch.tensor([0.5], dtype=torch.float64)).item()
        0.02166084939249829
    """

    eta: float = 5.0
    """η in Eq. (3), at least 1; the paper's best is 5."""
    form: Literal["paper", "smooth"] = "smooth"
    """`paper`: Eq. (3) as printed. `smooth`: the same below `linear_from`, continued there with its value and slope."""
    normalised: bool = False
    """First scale L by ln 2 / ln way, so that chance stays at ln 2 for any way. Nothing changes for two classes."""
    eps: float = 1e-6
    """ε in Eq. (3), between 0 and 1."""
    linear_from: float = 0.9
    """Where `smooth` becomes a straight line, between 0 and 1; 0.9 is well above chance, ln 2 = 0.69."""

    def __post_init__(self) -> None:
        if not 1 <= self.eta < math.inf:
            raise ValueError(f"eta={self.eta} must be at least 1, and finite")
        if self.form not in ("paper", "smooth"):
            raise ValueError(f"form={self.form!r} is not a form of Eq. (3); choose paper or smooth")
        if not 0 < self.eps < 1:
            raise ValueError(f"eps={self.eps} must lie between 0 and 1; at 1 the loss would be 0 everywhere")
        if not 0 < self.linear_from <= 1 - self.eps:
            raise ValueError(f"linear_from={self.linear_from} must lie between 0 and 1 - eps = {1 - self.eps}")

    def __call__(self, losses: Float[Tensor, " tasks"], way: int = 2) -> Float[Tensor, ""]:
        """Eq. (3), a mean over tasks, computed in float64: L^7 of a small loss leaves float32's range."""
        L = losses.double()
        if self.normalised:
            L = L * (math.log(2) / math.log(way))
        per_task = self._printed(L) if self.form == "paper" else self._smooth(L)
        return per_task.mean()

    def _printed(self, L: Tensor) -> Tensor:
        # log1p keeps every digit where L is tiny; the clamp is max(ε, 1 - L).
        return -(L**self.eta) * torch.log1p(-L.clamp(max=1 - self.eps))

    def _smooth(self, L: Tensor) -> Tensor:
        L0, log0 = self.linear_from, math.log1p(-self.linear_from)
        value = -(L0**self.eta) * log0
        slope = -self.eta * L0 ** (self.eta - 1) * log0 + L0**self.eta / (1 - L0)
        return torch.where(L0 > L, self._printed(L.clamp(max=L0)), value + slope * (L - L0))


def difficulty_weight(meta_loss: MetaLoss, losses: Float[Tensor, " tasks"], way: int) -> Float[Tensor, " tasks"]:
    """The slope of the outer loss in each task's loss, times the number of tasks: how much each task counts; 1 for `Mean`.

    The outer loss is a function of the tasks' losses alone, so its gradient in the weights is Σ_i weight_i ∇L_i / tasks.
    """
    L = losses.detach().double().requires_grad_()
    (slopes,) = torch.autograd.grad(meta_loss(L, way), L)
    return slopes * len(L)

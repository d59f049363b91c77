"""What every design computes: a network, tasks, and an order."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from rareshot.backbones import Network, NormMode, build
from rareshot.gradients import Task

Step = Callable[[], dict[str, Tensor]]
"""Computes once more: the gradient summed over some tasks, by name; or the answers of each task."""


@dataclass(frozen=True)
class Problem:
    """The meta-gradient, or the answers, of a few made tasks."""

    size: int = 84
    """Pixels."""
    shot: int = 5
    """Support images a class, k."""
    steps: int = 5
    """Inner steps, T."""
    query: int = 15
    """Query images a class."""
    way: int = 2
    tasks: int = 4
    width: int = 64
    """Filters of conv4."""
    norm: NormMode = "transductive"
    """The one mode that the peers know."""
    second_order: bool = True
    double: bool = False
    """float64, for the gate."""
    channels_last: bool = True
    """Memory layout of images and kernels."""
    lr: float = 0.01
    """Rate of the inner steps, γ."""
    device: str = "cpu"
    """Where network and tasks are; their numbers are drawn on the CPU."""

    @property
    def support_images(self) -> int:
        """Support images of a task."""
        return self.way * self.shot

    @property
    def query_images(self) -> int:
        """Query images of a task."""
        return self.way * self.query

    @property
    def layout(self) -> torch.memory_format:
        """As torch calls it."""
        return torch.channels_last if self.channels_last else torch.contiguous_format

    def network(self) -> Network:
        """conv4, the same for every design; a third of the norm layers' scales are negative, so that none may assume a sign."""
        net = build("conv4", size=self.size, norm=self.norm, head="full", way=self.way, seed=0, width=self.width)
        draw = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for name, value in net.named_parameters():
                if "norm." in name:
                    value.add_(torch.randn(value.shape, generator=draw), alpha=0.2)
                if name.endswith("norm.weight"):
                    value[::3] *= -1
        for value in net.parameters():
            value.data = value.data.to(torch.float64 if self.double else torch.float32)
            if value.ndim == 4:
                value.data = value.data.contiguous(memory_format=self.layout)
        return net.to(self.device)

    def task(self, number: int) -> Task:
        """Task `number`: noise around a centre for each class, so that classes overlap and no loss is 0."""
        draw = torch.Generator().manual_seed(number)
        shape = (3, self.size, self.size)
        centres = torch.randn(self.way, *shape, generator=draw)

        def images(labels: Tensor) -> Tensor:
            x = 0.5 * centres[labels] + torch.randn(len(labels), *shape, generator=draw)
            return (x.double() if self.double else x).contiguous(memory_format=self.layout).to(self.device)

        support = torch.arange(self.way).repeat_interleave(self.shot)
        query = torch.arange(self.way).repeat_interleave(self.query)
        return Task(images(support), support.to(self.device), images(query), query.to(self.device), self.way)

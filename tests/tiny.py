"""Tiny networks, tasks and methods for the tests of the core."""

from collections.abc import Callable

import torch
from torch import Tensor

from rareshot.backbones import Network, NormMode, build
from rareshot.gradients import Task
from rareshot.graphs import Recording
from rareshot.losses import DifficultyAware
from rareshot.methods.maml import MAML
from rareshot.run_record import Run

METHOD = MAML(width=8, meta_loss=DifficultyAware(eta=3, form="paper"))
RUN = Run(
    METHOD, "daml", seed=1, size=16, scale="own", data={"name": "made", "classes": ["a", "b"]}, versions={"torch": "2"}
)


def random_network(
    norm: NormMode, *, head: str = "shared", backbone: str = "conv4", width: int = 8, way: int = 2, seed: int = 0
) -> Network:
    """A float64 network for 16 pixels whose every weight differs from its initial value: no zero hides a mistake."""
    net = build(backbone, size=16, norm=norm, head=head, way=way, seed=seed, width=width).double()  # type: ignore[arg-type]
    draw = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for value in net.parameters():
            value += 0.1 * torch.randn(value.shape, generator=draw, dtype=torch.float64)
    return net


def random_task(*, way: int = 2, shot: int = 3, query: int = 4, seed: int = 0) -> Task:
    """A float64 task of 16 pixels whose classes overlap."""
    draw = torch.Generator().manual_seed(seed)
    centres = torch.randn(way, 3, 16, 16, generator=draw, dtype=torch.float64)

    def images(labels: Tensor) -> Tensor:
        return centres[labels] + torch.randn(len(labels), 3, 16, 16, generator=draw, dtype=torch.float64)

    support_y, query_y = torch.arange(way).repeat_interleave(shot), torch.arange(way).repeat_interleave(query)
    return Task(images(support_y), support_y, images(query_y), query_y, way)


def weights_of(net: Network) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in net.learnt().items()}


def relative_distance(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> float:
    """Length of the difference over length of `theirs`, all weights together."""
    assert ours.keys() == theirs.keys()
    gap = sum(float((ours[name] - value).square().sum()) for name, value in theirs.items())
    return (gap / sum(float(value.square().sum()) for value in theirs.values())) ** 0.5


def as_a_graph_does(function: Callable[[], dict[str, Tensor]]) -> Recording:
    """Like a CUDA graph: a replay reads the memory that was recorded with, and writes that of the first answer."""
    answer = function()

    def replay() -> None:
        for name, value in function().items():
            answer[name].copy_(value)

    return Recording(replay, answer)

from typing import Any

import pytest
import torch
from tiny import random_network, random_task, relative_distance, weights_of
from torch import Tensor

from rareshot import explicit
from rareshot.backbones import NORM_MODES, HeadMode, Network, NormMode
from rareshot.gradients import Task, meta_gradient, plain
from rareshot.inner import adapt, adapted_names, query_logits, support_moments
from rareshot.losses import task_loss

HOW: dict[str, Any] = {"steps": 2, "lr": 0.05}
HEADS: list[HeadMode] = ["full", "shared"]


def slope_along(
    net: Network, params: dict[str, Tensor], task: Task, direction: dict[str, Tensor], adapted: str
) -> float:
    """Change of the query loss after adaptation, by central differences; the step is small, as ReLU and pool have kinks."""
    h = 1e-6

    def loss(step: float) -> float:
        there = {name: value + step * direction[name] for name, value in params.items()}
        return plain(net, there, task, **HOW, adapted=adapted, second_order=False).loss

    return (loss(h) - loss(-h)) / (2 * h)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize(
    ("norm", "adapted", "backbone"),
    [*((norm, "all", "conv4") for norm in NORM_MODES), ("support", "head", "conv4"), ("support", "all", "resblocks")],
)
def test_second_order_meta_gradient_matches_finite_differences(
    norm: NormMode, adapted: str, backbone: str, head: HeadMode
) -> None:
    net, task = random_network(norm, head=head, backbone=backbone, width=16 if norm == "group" else 8), random_task()
    params = weights_of(net)
    gradient = plain(net, params, task, **HOW, adapted=adapted, second_order=True).gradient
    assert gradient.keys() == params.keys()
    draw = torch.Generator().manual_seed(5)
    for _ in range(3):
        direction = {n: torch.randn(v.shape, generator=draw, dtype=torch.float64) for n, v in params.items()}
        length = sum(float(value.square().sum()) for value in direction.values()) ** 0.5
        direction = {name: value / length for name, value in direction.items()}
        ours = sum(float((gradient[name] * direction[name]).sum()) for name in params)
        assert ours == pytest.approx(slope_along(net, params, task, direction, adapted), rel=1e-6)


def test_second_order_is_not_first_order() -> None:
    net, task = random_network("support"), random_task()
    first, second = (
        plain(net, weights_of(net), task, **HOW, adapted="all", second_order=on).gradient for on in (False, True)
    )
    assert relative_distance(first, second) > 0.01


@pytest.mark.parametrize("adapted", ["all", "head"])
@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("norm", NORM_MODES)
def test_first_order_is_the_gradient_at_the_adapted_weights(norm: NormMode, head: HeadMode, adapted: str) -> None:
    net, task = random_network(norm, head=head), random_task()
    params = weights_of(net)
    ours = plain(net, params, task, **HOW, adapted=adapted, second_order=False)
    start = net.begin(params, 2)
    moved = adapt(net, start, task.support_x, task.support_y, **HOW, names=adapted_names(start, adapted))
    there = {name: value.detach().requires_grad_() for name, value in moved.items()}
    loss = task_loss(query_logits(net, there, task.query_x, support_moments(net, there, task.support_x)), task.query_y)
    theirs = dict(zip(there, torch.autograd.grad(loss, list(there.values())), strict=True))
    theirs = {name: theirs[name] for name in params}
    assert ours.loss == pytest.approx(loss.item(), rel=1e-12)
    assert relative_distance(ours.gradient, theirs) < 1e-12


@pytest.mark.parametrize("norm", ["support", "tasknorm"])
def test_the_gradient_runs_through_the_support_moments(norm: NormMode) -> None:
    net, task = random_network(norm), random_task()
    params = weights_of(net)
    ours = plain(net, params, task, **HOW, adapted="all", second_order=False).gradient
    start = net.begin(params, 2)
    moved = adapt(net, start, task.support_x, task.support_y, **HOW, names=adapted_names(start))
    there = {name: value.detach().requires_grad_() for name, value in moved.items()}
    with torch.no_grad():
        moments = support_moments(net, there, task.support_x)
    loss = task_loss(query_logits(net, there, task.query_x, moments), task.query_y)
    name = "backbone.blocks.0.conv.weight"
    (without,) = torch.autograd.grad(loss, there[name])
    assert relative_distance({name: ours[name]}, {name: without}) > 0.01


@pytest.mark.parametrize("second_order", [False, True])
@pytest.mark.parametrize("way", [2, 3])
@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("norm", ["support", "group", "transductive"])
def test_fast_equals_plain(norm: NormMode, head: HeadMode, way: int, second_order: bool) -> None:
    net, task = random_network(norm, head=head, width=16, way=way), random_task(way=way)
    params = weights_of(net)
    fast, slow = (
        meta_gradient(net, params, task, **HOW, adapted="all", second_order=second_order, fast=on)
        for on in (True, False)
    )
    assert fast.loss == pytest.approx(slow.loss, rel=1e-10)
    torch.testing.assert_close(fast.logits, slow.logits, rtol=1e-9, atol=1e-10)
    assert relative_distance(fast.gradient, slow.gradient) < 1e-10
    for name, value in params.items():
        assert fast.gradient[name].shape == slow.gradient[name].shape == value.shape


@pytest.fixture
def explicit_calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The norm mode of every call of the explicit path."""
    calls, original = [], explicit.meta_gradient

    def counted(*args: Any, **how: Any) -> explicit.TaskGradient:
        calls.append(how["norm"])
        return original(*args, **how)

    monkeypatch.setattr(explicit, "meta_gradient", counted)
    return calls


@pytest.mark.parametrize("norm", ["support", "group", "transductive"])
def test_fast_is_taken_for_conv4(explicit_calls: list[str], norm: NormMode) -> None:
    net = random_network(norm)
    meta_gradient(net, weights_of(net), random_task(), **HOW, adapted="all", second_order=True)
    assert explicit_calls == [norm]


@pytest.mark.parametrize(
    ("norm", "adapted", "backbone", "fast"),
    [
        ("tasknorm", "all", "conv4", True),
        ("support", "head", "conv4", True),
        ("support", "all", "resblocks", True),
        ("support", "all", "conv4", False),
    ],
)
def test_fast_is_not_taken_where_it_does_not_apply(
    explicit_calls: list[str], norm: NormMode, adapted: str, backbone: str, fast: bool
) -> None:
    net, task = random_network(norm, backbone=backbone), random_task()
    params, how = weights_of(net), {**HOW, "adapted": adapted, "second_order": True}
    ours, reference = meta_gradient(net, params, task, **how, fast=fast), plain(net, params, task, **how)
    assert explicit_calls == []
    assert relative_distance(ours.gradient, reference.gradient) == 0


@pytest.mark.parametrize("fast", [True, False])
def test_a_gradient_leaves_weights_and_network_as_they_were(fast: bool) -> None:
    net, task = random_network("support"), random_task()
    params, own = weights_of(net), weights_of(net)
    result = meta_gradient(net, params, task, **HOW, adapted="all", second_order=True, fast=fast)
    for name, value in params.items():
        assert torch.equal(value, own[name])
        assert torch.equal(net.get_parameter(name), own[name])
        assert not value.requires_grad
        assert not result.gradient[name].requires_grad
    assert not result.logits.requires_grad


@pytest.mark.parametrize("fast", [True, False])
def test_a_full_head_refuses_a_task_of_another_way(fast: bool) -> None:
    net = random_network("support", head="full", way=2)
    with pytest.raises(ValueError, match="full head for 2 classes and cannot take 3"):
        meta_gradient(net, weights_of(net), random_task(way=3), **HOW, adapted="all", second_order=True, fast=fast)

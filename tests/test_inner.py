import copy
from typing import Any

import pytest
import torch
from tiny import random_network, random_task, relative_distance, weights_of
from torch import Tensor
from torch.func import functional_call
from torch.nn import functional as F

from rareshot.backbones import NORM_MODES, HeadMode, NormMode
from rareshot.backbones.norms import needs_moments, norms_of
from rareshot.inner import adapt, adapt_to_support, adapted_names, norm_of, query_logits, support_moments
from rareshot.methods.maml import MAML

STEPS, LR = 3, 0.05


def sgd(params: dict[str, Tensor], norm: NormMode, backbone: str, way: int, x: Tensor, y: Tensor) -> dict[str, Tensor]:
    """The same adaptation by torch's own optimiser, on a network of its own with a full head."""
    net = random_network(norm, head="full", backbone=backbone, way=way)
    net.load_state_dict(params)
    copied = copy.deepcopy(net)
    optimiser = torch.optim.SGD([value for name, value in copied.named_parameters() if "blend" not in name], lr=LR)
    for _ in range(STEPS):
        optimiser.zero_grad()
        F.cross_entropy(copied(x), y).backward()
        optimiser.step()
    return weights_of(copied)


@pytest.mark.parametrize("second_order", [False, True])
@pytest.mark.parametrize("head", ["full", "shared"])
@pytest.mark.parametrize(("backbone", "norm"), [*(("conv4", norm) for norm in NORM_MODES), ("resblocks", "support")])
def test_adapt_equals_sgd_on_a_copy(backbone: str, norm: NormMode, head: HeadMode, second_order: bool) -> None:
    net, task = random_network(norm, head=head, backbone=backbone, way=3), random_task(way=3)
    start = net.begin(weights_of(net), 3)
    names = adapted_names(start)
    given = {name: value.clone().requires_grad_(second_order) for name, value in start.items()}
    how: Any = {"steps": STEPS, "lr": LR, "names": names, "second_order": second_order}
    moved = adapt(net, given, task.support_x, task.support_y, **how)
    theirs = sgd(start, norm, backbone, 3, task.support_x, task.support_y)
    assert relative_distance({name: value.detach() for name, value in moved.items()}, theirs) < 1e-12
    assert any(not torch.equal(moved[name], start[name]) for name in names)


def test_head_moves_the_head_alone() -> None:
    net, task = random_network("support"), random_task()
    start = net.begin(weights_of(net), 2)
    names = adapted_names(start, "head")
    assert set(names) == {"head.weight", "head.bias"}
    moved = adapt(net, start, task.support_x, task.support_y, steps=STEPS, lr=LR, names=names)
    for name, value in start.items():
        assert torch.equal(moved[name], value) == (not name.startswith("head.")), name


@pytest.mark.parametrize("second_order", [False, True])
@pytest.mark.parametrize("norm", NORM_MODES)
def test_features_that_are_made_once_give_what_the_whole_network_gives_at_every_step(
    norm: NormMode, second_order: bool
) -> None:
    net, task = random_network(norm, head="full"), random_task()
    answers = []
    for once in (True, False):
        leaves = {name: value.requires_grad_() for name, value in weights_of(net).items()}
        moved = dict(leaves)
        if once:
            passes: list[int] = []
            hook = net.backbone.register_forward_hook(lambda *_, seen=passes: seen.append(1))
            names = adapted_names(leaves, "head")
            moved = adapt(
                net, moved, task.support_x, task.support_y, steps=STEPS, lr=LR, names=names, second_order=second_order
            )
            hook.remove()
            assert len(passes) == 1
        else:
            for _ in range(STEPS):
                head = [moved["head.weight"], moved["head.bias"]]
                loss = F.cross_entropy(functional_call(net, moved, (task.support_x,)), task.support_y)
                weight, bias = torch.autograd.grad(loss, head, create_graph=second_order)
                moved |= {"head.weight": head[0] - LR * weight, "head.bias": head[1] - LR * bias}
        moved["head.weight"].square().sum().backward()
        gradient = {name: value.grad for name, value in leaves.items() if value.grad is not None}
        answers.append(({name: value.detach() for name, value in moved.items()}, gradient))
    (ours, our_gradient), (theirs, their_gradient) = answers
    assert relative_distance(ours, theirs) < 1e-12
    assert set(our_gradient) == set(their_gradient)
    assert any(name.startswith("backbone.") for name in our_gradient) == second_order
    assert relative_distance(our_gradient, their_gradient) < 1e-10


@pytest.mark.parametrize("second_order", [False, True])
@pytest.mark.parametrize("adapted", ["all", "head"])
def test_blending_weights_of_tasknorm_never_move(adapted: str, second_order: bool) -> None:
    net, task = random_network("tasknorm"), random_task()
    leaves = {name: value.requires_grad_() for name, value in weights_of(net).items()}
    start = net.begin(leaves, 2)
    moved = adapt(
        net,
        start,
        task.support_x,
        task.support_y,
        steps=STEPS,
        lr=LR,
        names=adapted_names(start, adapted),
        second_order=second_order,
    )
    blends = [name for name in start if "blend" in name]
    assert len(blends) == 8
    assert all(torch.equal(moved[name], start[name]) for name in blends)


@pytest.mark.parametrize("requires_grad", [False, True])
def test_adapt_changes_neither_the_weights_nor_the_network(requires_grad: bool) -> None:
    net, task = random_network("support", head="full"), random_task()
    start = {name: value.requires_grad_(requires_grad) for name, value in weights_of(net).items()}
    given, own = {name: value.detach().clone() for name, value in start.items()}, weights_of(net)
    adapt(net, start, task.support_x, task.support_y, steps=STEPS, lr=LR, names=adapted_names(start))
    for name, value in start.items():
        assert torch.equal(value, given[name])
        assert value.requires_grad == requires_grad
        assert value.grad is None
        assert torch.equal(net.get_parameter(name), own[name])


@pytest.mark.parametrize("head", ["full", "shared"])
@pytest.mark.parametrize("norm", ["support", "group", "transductive"])
def test_fast_and_plain_adaptation_agree(norm: NormMode, head: HeadMode) -> None:
    net, task = random_network(norm, head=head, width=16), random_task()
    start = net.begin(weights_of(net), 2)
    (fast, fast_moments), (plain, plain_moments) = (
        adapt_to_support(net, start, task.support_x, task.support_y, steps=STEPS, lr=LR, adapted="all", fast=on)
        for on in (True, False)
    )
    assert relative_distance(fast, plain) < 1e-10
    assert not any(value.requires_grad for value in (*fast.values(), *plain.values()))
    ours, theirs = (query_logits(net, fast, task.query_x, m) for m in (fast_moments, plain_moments))
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("norm", NORM_MODES)
def test_support_moments_are_those_that_the_support_images_meet(norm: NormMode) -> None:
    net, task = random_network(norm), random_task()
    params = net.begin(weights_of(net), 2)
    moments = support_moments(net, params, task.support_x)
    assert (moments is not None) == needs_moments(norm)
    if norm == "support":
        assert moments is not None
        u = F.conv2d(task.support_x, params["backbone.blocks.0.conv.weight"], padding=1)
        torch.testing.assert_close(moments[0].mean, u.mean((0, 2, 3)))
        torch.testing.assert_close(moments[0].var, u.var((0, 2, 3), unbiased=False))
    whole = query_logits(net, params, task.support_x, None)
    torch.testing.assert_close(query_logits(net, params, task.support_x, moments), whole)


def test_nothing_of_a_pass_stays_in_the_network() -> None:
    net, task = random_network("support"), random_task()
    params = net.begin(weights_of(net), 2)
    query_logits(net, params, task.query_x, support_moments(net, params, task.support_x))
    assert all(layer.frozen is None and layer.recorded is None and not layer.recording for layer in norms_of(net))


def test_norm_of_names_the_mode() -> None:
    assert [norm_of(random_network(norm)) for norm in NORM_MODES] == list(NORM_MODES)


def test_what_cannot_be_adapted_is_refused() -> None:
    with pytest.raises(ValueError, match="sampling='curiculum' is neither uniform nor curriculum"):
        MAML(sampling="curiculum")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="adapted='body' is neither all nor head"):
        adapted_names({}, "body")

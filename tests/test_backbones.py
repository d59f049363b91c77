from typing import Any

import pytest
import timm
import torch

from rareshot.backbones import NORM_MODES, WIDTHS, NormMode, build
from rareshot.backbones.conv4 import Conv4
from rareshot.backbones.norms import EpisodicNorm, Moments, _moments, inductive, needs_moments, norms_of
from rareshot.backbones.resblocks import ResBlocks
from rareshot.inner import adapt_to_support, query_logits

PLAIN: dict[str, Any] = {"norm": "support", "head": "shared", "way": 2, "seed": 0}
TIMM = "resnet10t"


def equal(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("size", [16, 28, 64, 84, 224])
@pytest.mark.parametrize("name", WIDTHS)
def test_features_are_a_cell_of_every_filter_for_16_pixels(name: str, size: int) -> None:
    net = build(name, size=size, width=8, **{**PLAIN, "head": "full"})
    assert net.backbone.features == 8 * (size // 16) ** 2
    x = torch.rand(2, 3, size, size)
    assert net.backbone(x).shape == (2, net.backbone.features)
    assert net(x).shape == (2, 2)


def test_the_papers_widths_are_the_defaults() -> None:
    widths = {name: build(name, size=16, **PLAIN).backbone.features for name in WIDTHS}
    assert widths == WIDTHS == {"conv4": 64, "resblocks": 32}


@pytest.mark.parametrize("norm", ["running", *NORM_MODES])
def test_efficientnet_sees_a_small_image_enlarged_to_128_pixels(norm: Any) -> None:
    small, large = (build("efficientnet-lite0", size=size, **{**PLAIN, "norm": norm}) for size in (64, 128))
    assert equal(small, large)
    x = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    enlarged = torch.nn.functional.interpolate(x, (128, 128), mode="bilinear")
    torch.testing.assert_close(small.backbone(x), large.backbone(enlarged))
    assert small.backbone(x).shape == (2, small.backbone.features)


def test_conv4_is_four_blocks_of_conv_norm_relu_and_pool() -> None:
    net, x = Conv4(16, width=8, norm="transductive"), torch.rand(4, 3, 16, 16)
    expected = x
    for block in net.blocks:
        expected = torch.conv2d(expected, block.conv.weight, padding=1)  # type: ignore[union-attr, arg-type]
        expected = torch.nn.functional.batch_norm(expected, None, None, training=True)
        expected = torch.max_pool2d(torch.relu(expected), 2)
    torch.testing.assert_close(net(x), expected.flatten(1))


@pytest.mark.parametrize(("module", "name"), [(Conv4, "conv4"), (ResBlocks, "resblocks")])
def test_too_small_an_image_is_refused_with_the_smallest_size(module: Any, name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} halves an image four times, so its smallest size is 16; got 15"):
        module(15)


def test_too_small_an_image_for_a_timm_network_is_refused_with_the_smallest_size() -> None:
    name = "densenet121"
    with pytest.raises(ValueError, match=f"backbone '{name}' cannot take images of 16 pixels; its smallest size is 32"):
        build(name, size=16, **PLAIN)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (
            {"backbone": "conv5"},
            "no backbone 'conv5'; ours are conv4, resblocks, efficientnet-lite0, and any name of timm's is taken",
        ),
        ({"norm": "batch"}, "norm='batch' is not a norm mode; choose from transductive, support, tasknorm, group"),
        ({"head": "cosine"}, "head='cosine' is not a head; choose full or shared"),
        ({"norm": "group", "width": 12}, "norm='group' needs channels in multiples of 8; got 12"),
    ],
)
def test_a_network_that_there_is_not_is_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(**{"backbone": "conv4", "size": 16, **PLAIN, **wrong})


@pytest.mark.parametrize("norm", NORM_MODES)
@pytest.mark.parametrize("name", [TIMM, "mobilenetv3_small_050"])
def test_a_timm_network_has_our_norms_in_place_of_its_batch_norms(name: str, norm: NormMode) -> None:
    net = build(name, size=64, **{**PLAIN, "norm": norm, "head": "full"})
    theirs = timm.create_model(name, num_classes=0)
    batch_norms = [module for module in theirs.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    assert len(norms_of(net)) == len(batch_norms) > 0
    assert {layer.mode for layer in norms_of(net)} == {norm}
    assert not [m for m in net.modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)]
    assert net(torch.rand(2, 3, 64, 64)).shape == (2, 2)


def test_a_timm_network_is_theirs_when_the_batch_is_normalised_by_itself() -> None:
    net = build(TIMM, size=64, **{**PLAIN, "norm": "transductive"}).double()
    theirs = timm.create_model(TIMM, num_classes=0).double().train()
    ours = list(net.backbone.named_parameters())
    with torch.no_grad():
        for (_, value), (name, mine) in zip(theirs.named_parameters(), ours, strict=True):
            assert value.shape == mine.shape, name
            value.copy_(mine)
    x = torch.rand(3, 3, 64, 64, dtype=torch.float64)
    torch.testing.assert_close(net.backbone(x), theirs(x), rtol=1e-8, atol=1e-9)


def test_a_timm_network_adapts_and_answers_one_image_by_itself() -> None:
    net = build(TIMM, size=32, **PLAIN)
    params = net.begin(net.learnt(), 2)
    x, y, queries = torch.rand(4, 3, 32, 32), torch.tensor([0, 0, 1, 1]), torch.rand(3, 3, 32, 32)
    moved, moments = adapt_to_support(net, params, x, y, steps=1, lr=0.01, adapted="all")
    together = query_logits(net, moved, queries, moments)
    torch.testing.assert_close(query_logits(net, moved, queries[:1], moments), together[:1], rtol=1e-3, atol=1e-4)


def test_a_network_with_batch_norms_on_vectors_is_refused() -> None:
    with pytest.raises(ValueError, match="'levit_128s' has BatchNorm1d, which has no episodic form"):
        build("levit_128s", size=224, **PLAIN)


def test_a_timm_network_with_dropout_gives_the_same_answer_twice() -> None:
    net, x = build("rexnet_100", size=32, **PLAIN), torch.rand(2, 3, 32, 32)
    assert torch.equal(net(x), net(x))


def test_a_full_head_refuses_another_way_by_name() -> None:
    net = build("conv4", size=16, width=8, **{**PLAIN, "head": "full", "way": 3})
    params = net.learnt()
    assert net.begin(params, 3)["head.weight"].shape == (3, 8)
    with pytest.raises(ValueError, match="full head for 3 classes and cannot take 2; give 3 classes, or fit one with"):
        net.begin(params, 2)


@pytest.mark.parametrize("way", [2, 3, 7])
def test_a_shared_head_takes_any_way_and_starts_all_classes_alike(way: int) -> None:
    net = build("conv4", size=16, width=8, **PLAIN)
    params = net.begin(net.learnt(), way)
    assert params["head.weight"].shape == (way, 8)
    assert params["head.bias"].shape == (way,)
    logits = query_logits(net, params, torch.rand(2, 3, 16, 16), None)
    assert (logits == logits[:, :1]).all()


@pytest.mark.parametrize("name", ["conv4", "resblocks", TIMM])
def test_a_shared_head_takes_no_more_memory_for_more_classes_and_leaves_the_backbone_its_weights(name: str) -> None:
    shared = build(name, size=32, **{**PLAIN, "way": 10**15})
    assert shared.head.weight.shape == (1, shared.backbone.features)
    for way in (2, 7):
        assert equal(shared.backbone, build(name, size=32, **{**PLAIN, "head": "full", "way": way}).backbone)


@pytest.mark.parametrize("fast", [True, False])
def test_with_a_shared_head_swapped_classes_give_swapped_probabilities(fast: bool) -> None:
    net = build("conv4", size=16, width=8, **PLAIN).double()
    params = {name: value.detach() for name, value in net.named_parameters()}
    draw = torch.Generator().manual_seed(0)
    x, queries = (torch.rand(n, 3, 16, 16, generator=draw, dtype=torch.float64) for n in (9, 5))
    y, order = torch.tensor([0, 0, 1, 2, 1, 2, 2, 1, 2]), torch.tensor([2, 0, 1])

    def answers(labels: torch.Tensor) -> torch.Tensor:
        moved, moments = adapt_to_support(
            net, net.begin(params, 3), x, labels, steps=5, lr=0.1, adapted="all", fast=fast
        )
        return query_logits(net, moved, queries, moments).softmax(1)

    straight = answers(y)
    assert (straight.max() - straight.min()) > 0.05
    torch.testing.assert_close(answers(order[y])[:, order], straight, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("name", ["conv4", "resblocks", TIMM])
def test_weights_depend_on_the_seed_alone(name: str) -> None:
    torch.manual_seed(1)
    first = build(name, size=32, **PLAIN)
    torch.manual_seed(2)
    assert equal(first, build(name, size=32, **PLAIN))
    assert not equal(first, build(name, size=32, **{**PLAIN, "seed": 1}))


@pytest.mark.parametrize("name", ["conv4", "resblocks", TIMM])
def test_build_leaves_the_global_random_state(name: str) -> None:
    before = torch.get_rng_state()
    build(name, size=32, **PLAIN)
    assert torch.equal(torch.get_rng_state(), before)


def test_an_episodic_norm_refuses_an_unknown_mode() -> None:
    with pytest.raises(ValueError, match="norm='layer' is not a norm mode; choose from"):
        EpisodicNorm(8, "layer")  # type: ignore[arg-type]


def test_only_the_transductive_mode_is_not_inductive() -> None:
    assert [mode for mode in NORM_MODES if not inductive(mode)] == ["transductive"]
    assert [mode for mode in NORM_MODES if needs_moments(mode)] == ["support", "tasknorm"]


def test_tasknorm_begins_half_way_between_support_and_image() -> None:
    layer, x = EpisodicNorm(4, "tasknorm"), torch.rand(3, 4, 5, 5)
    pooled = (x.mean((0, 2, 3)).view(1, -1, 1, 1) + x.mean((2, 3), keepdim=True)) / 2
    squares = ((x**2).mean((0, 2, 3)).view(1, -1, 1, 1) + (x**2).mean((2, 3), keepdim=True)) / 2
    expected = (x - pooled) / (squares - pooled**2 + 1e-5).sqrt()
    torch.testing.assert_close(layer(x), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_moments_are_mean_and_biased_variance_with_a_graph_and_without(layout: torch.memory_format) -> None:
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(3, 8, 5, 4, dtype=torch.float64, generator=draw).add(100).contiguous(memory_format=layout)
    var, mean = torch.var_mean(x, (0, 2, 3), unbiased=False)
    for given in (x, x.clone().requires_grad_()):
        told = _moments(given)
        torch.testing.assert_close(told.mean, mean, rtol=1e-12, atol=0)
        torch.testing.assert_close(told.var, var, rtol=1e-12, atol=0)
        assert told.images == 3
    assert torch.autograd.gradgradcheck(lambda x: _moments(x)[:2], x.requires_grad_())


@pytest.mark.parametrize("scale", [-40.0, 40.0])
def test_tasknorm_takes_the_supports_statistics_as_alpha_grows_with_its_size(scale: float) -> None:
    layer, x = EpisodicNorm(4, "tasknorm"), torch.rand(3, 4, 5, 5)
    support = Moments(torch.full((4,), 2.0), torch.full((4,), 9.0), 3)
    with torch.no_grad():
        layer.blend_scale.fill_(scale)
        layer.blend_offset.fill_(-scale)  # with 1 image alpha is 1/2
        layer.frozen = support
        var, mean = torch.var_mean(x, (2, 3), unbiased=False, keepdim=True) if scale < 0 else (9.0, 2.0)
        torch.testing.assert_close(layer(x), (x - mean) / (var + 1e-5) ** 0.5, rtol=1e-4, atol=1e-5)

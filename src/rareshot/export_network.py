"""A classifier as a network of plain operations, from bytes to probabilities: what `rareshot.export` writes."""

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from rareshot.backbones.norms import Moments, norms_of
from rareshot.equal_parts import Evenly
from rareshot.methods.classifiers import FeatureClassifier, Rule
from rareshot.methods.episodic_metric import MetricClassifier, MetricNetwork
from rareshot.methods.finetune import FineTuned
from rareshot.methods.maml import EpisodicClassifier
from rareshot.methods.pretrained import SIZE, PretrainedLearner, imagenet_pixels
from rareshot.methods.probabilities import TINY, in_order
from rareshot.methods.supervised import SupervisedLearner
from rareshot.pixels import Pixels
from rareshot.predict import Predictor
from rareshot.support_set import as_float
from rareshot.types import Classifier

Array = npt.NDArray[Any]
LOG_ROUNDED_TO_0 = -150 * math.log(2)
"""Half of the least number of float32, 2^-149; what is below becomes 0."""
ROWS = 256
"""Axes that a rule is asked about at once: some networks have ten thousand features."""


def deployed(predictor: Predictor) -> nn.Module:
    """The classifier as a network of plain operations, which is what is written: (n, size, size, 3) bytes → probabilities.

    Raises:
        ValueError: if it has no such form: KNN, and one with a prevalence.
    """
    if predictor.prevalence:
        raise ValueError(
            "a prevalence is not exported: multiply the file's probabilities by the classes' shares, and divide by their sum"
        )
    classifier = predictor.classifier
    parts = classifier.parts if isinstance(classifier, Evenly) else (classifier,)
    tuned = isinstance(parts[0], FineTuned)
    if isinstance(parts[0], FeatureClassifier):
        pixels, features, width = _features(predictor)
        rules = [_linear(cast(FeatureClassifier, part).rule, width, len(predictor.classes)) for part in parts]
        logits: nn.Module = _Ruled(features, _Mean(rules, in_float64=tuned))
    else:
        pixels, first = _network(predictor, parts[0])
        logits = _Mean([first, *(_network(predictor, part)[1] for part in parts[1:])], in_float64=tuned)
    return _Answering(pixels, logits, predictor.bundle.temperature, in_float64=tuned).eval().requires_grad_(False)


def kind_of(predictor: Predictor) -> str:
    """Method and network, for error messages."""
    method = predictor.bundle.run.method
    return f"{type(method).__name__} with {getattr(method, 'backbone', 'its own network')}"


class _Answering(nn.Module):
    """Bytes → probabilities."""

    mean: Tensor
    std: Tensor

    def __init__(self, pixels: Pixels, logits: nn.Module, temperature: float, *, in_float64: bool) -> None:
        super().__init__()
        self.register_buffer("mean", pixels.mean.view(1, 3, 1, 1))
        self.register_buffer("std", pixels.std.view(1, 3, 1, 1))
        self.logits = logits
        self.temperature = temperature
        self.in_float64 = in_float64

    def forward(self, images: UInt8[Tensor, "n h w 3"]) -> Float[Tensor, "n way"]:
        x = images.permute(0, 3, 1, 2).float() / 255
        logits = _known(self.logits((x - self.mean) / self.std))
        if self.temperature != 1:
            logits = _logs(logits, self.in_float64) / self.temperature
        return logits.softmax(1)


class _Mean(nn.Module):
    """Logits of the only part, or the parts' mean log probabilities (`rareshot.equal_parts`)."""

    def __init__(self, parts: Sequence[nn.Module], *, in_float64: bool) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)
        self.in_float64 = in_float64

    def forward(self, x: Tensor) -> Float[Tensor, "n way"]:
        if len(self.parts) == 1:
            only: Tensor = self.parts[0](x)
            return only
        logs = torch.stack([_logs(_known(part(x)), self.in_float64) for part in self.parts])
        return (logs.log_softmax(2) if self.in_float64 else logs).mean(0)


class _Compared(nn.Module):
    """Logits of a comparison with the classes' summaries."""

    classes: Tensor

    def __init__(self, net: MetricNetwork, classes: Tensor) -> None:
        super().__init__()
        self.net = net
        self.register_buffer("classes", classes)

    def forward(self, x: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n way"]:
        return self.net.answer(x, self.classes, None)


class _Ruled(nn.Module):
    """Logits of a linear rule on features of length 1."""

    def __init__(self, features: nn.Module, rule: nn.Module) -> None:
        super().__init__()
        self.features = features
        self.rule = rule

    def forward(self, x: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n way"]:
        logits: Tensor = self.rule(_unit(self.features(x)))
        return logits


class _Beside(nn.Module):
    """A backbone's features and ImageNet's, both of length 1, of images in [0, 1]."""

    def __init__(self, learner: SupervisedLearner) -> None:
        super().__init__()
        theirs = _Resized(copy.deepcopy(learner.beside.net), learner.size)
        self.parts = nn.ModuleList(
            [
                _Unit(learner.pixels, copy.deepcopy(learner.net.backbone)),
                _Unit(imagenet_pixels(learner.size), theirs),
            ]
        )

    def forward(self, x: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n features"]:
        return torch.cat([part(x) for part in self.parts], 1)


class _Unit(nn.Module):
    """Features of length 1 of images in [0, 1]."""

    mean: Tensor
    std: Tensor

    def __init__(self, pixels: Pixels, net: nn.Module) -> None:
        super().__init__()
        self.register_buffer("mean", pixels.mean.view(1, 3, 1, 1))
        self.register_buffer("std", pixels.std.view(1, 3, 1, 1))
        self.net = net

    def forward(self, x: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n features"]:
        return _unit(self.net((x - self.mean) / self.std))


class _Resized(nn.Module):
    """Features of the ImageNet network. Resizing with antialiasing is linear: two products with one matrix."""

    resize: Tensor

    def __init__(self, net: nn.Module, size: int) -> None:
        super().__init__()
        self.net = net
        self.size = size
        rows = F.interpolate(torch.eye(size)[None, None], (SIZE, size), mode="bilinear", antialias=True)[0, 0]
        self.register_buffer("resize", rows)

    def forward(self, x: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n features"]:
        if self.size != SIZE:
            x = self.resize @ x @ self.resize.T
        features: Tensor = self.net(x)
        return features


def _known(logits: Float[Tensor, "n way"]) -> Float[Tensor, "n way"]:
    """As the classifiers do: an adaptation that diverged knows nothing, and says so."""
    return torch.where(logits.isfinite().all(1, keepdim=True), logits, 0)


def _logs(logits: Float[Tensor, "n way"], in_float64: bool) -> Float[Tensor, "n way"]:
    """Log probabilities as `predict` takes them from probabilities, of which the smallest are 0 in float32."""
    if in_float64:
        return in_order(logits)
    logs = logits.log_softmax(1)
    return torch.where(logs < LOG_ROUNDED_TO_0, math.log(TINY), logs)


def _network(predictor: Predictor, part: Classifier) -> tuple[Pixels, nn.Module]:
    """Pixels and network of a classifier that is one: images → logits."""
    if isinstance(part, EpisodicClassifier):
        return part.learner.pixels, _frozen(_carrying(part.learner.net, part.params), part.moments)
    if isinstance(part, MetricClassifier):
        net = copy.deepcopy(part.learner.net)
        _frozen(net, part.moments)
        return part.learner.pixels, _Compared(net, part.classes)
    if isinstance(part, FineTuned):
        return part.pixels, copy.deepcopy(part.net)
    raise ValueError(f"{kind_of(predictor)} has no form in ONNX here")


def _unit(features: Float[Tensor, "n features"]) -> Float[Tensor, "n features"]:
    """Each row divided by its length."""
    lengths = features.square().sum(1, keepdim=True).sqrt()
    return features / lengths.clamp_min(torch.finfo(torch.float32).tiny)


def _carrying(net: nn.Module, params: Mapping[str, Tensor]) -> nn.Module:
    """A copy with these weights, whose head may have another way than it was built with."""
    net = copy.deepcopy(net)
    for name, value in params.items():
        room, _, leaf = name.rpartition(".")
        setattr(net.get_submodule(room), leaf, nn.Parameter(value.detach().clone()))
    return net


def _frozen(net: nn.Module, moments: list[Moments] | None) -> nn.Module:
    for layer, frozen in zip(norms_of(net), moments or [], strict=moments is not None):
        layer.frozen = frozen
    return net


def _features(predictor: Predictor) -> tuple[Pixels, nn.Module, int]:
    """Pixels, network and number of features of a learner whose features go into a rule."""
    run = predictor.bundle.run
    if getattr(run.method, "classifier", "") == "knn":
        raise ValueError(
            "knn cannot be exported: it weighs by 1 / distance, and near a support image no two programs agree on that; "
            "fit a learner of logistic, svm or centroid"
        )
    learner = run.method.blank(run.size).with_state(predictor.bundle.state)
    width = learner.features(as_float(predictor.bundle.support.images[:1])).shape[1]
    if isinstance(learner, SupervisedLearner):
        if not learner.method.beside_imagenet:
            return learner.pixels, learner.net.backbone, width
        return Pixels.blank(learner.size), _Beside(learner), width
    if isinstance(learner, PretrainedLearner):
        return imagenet_pixels(learner.size), _Resized(copy.deepcopy(learner.net), learner.size), width
    raise ValueError(f"{kind_of(predictor)} has no form in ONNX here")


def _linear(rule: Rule, features: int, way: int) -> nn.Linear:
    """The weights of a rule whose log-odds are linear, by asking it: its answer on zero is the bias, on each axis a weight.

    That serves logistic regression, SVM and centroids alike; `refuse_unfaithful` finds a rule that is not linear.
    """

    def odds(points: Array) -> Array:
        with np.errstate(all="ignore"):  # a rule so sure that a probability is 0 is found by `refuse_unfaithful`
            logarithms = np.log(rule(points))
        return np.asarray(logarithms - logarithms[:, :1])

    bias = odds(np.zeros((1, features)))
    weight = np.empty((way, features))
    for at in range(0, features, ROWS):
        weight[:, at : at + ROWS] = (odds(np.eye(min(ROWS, features - at), features, at)) - bias).T
    linear = nn.Linear(features, way, device="meta").to_empty(device="cpu")  # draws nothing
    linear.load_state_dict({"weight": torch.from_numpy(weight).float(), "bias": torch.from_numpy(bias[0]).float()})
    return linear

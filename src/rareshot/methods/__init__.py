"""The methods by name. One line here adds another: its command, its label in reports and its tests come with it."""

from rareshot.losses import DifficultyAware
from rareshot.methods.maml import MAML
from rareshot.methods.pretrained import Pretrained
from rareshot.methods.protonet import ProtoNet
from rareshot.methods.relation import RelationNet
from rareshot.methods.supervised import Supervised
from rareshot.types import Method

_KNOWN: dict[str, tuple[str, Method]] = {
    "maml": ("MAML", MAML()),
    "fomaml": ("first-order MAML", MAML(second_order=False)),
    "anil": ("ANIL", MAML(adapted="head")),
    "daml": ("DAML", MAML(meta_loss=DifficultyAware())),
    "task-sampling": ("task sampling", MAML(sampling="curriculum")),
    "relation": ("Relation Net", RelationNet()),
    "protonet": ("prototypical networks", ProtoNet()),
    "finetune": ("fine-tuning + augmentation", Supervised(classifier="finetune")),
    "knn": ("features + KNN", Supervised(classifier="knn")),
    "svm": ("features + SVM", Supervised(classifier="svm")),
    "logistic": ("features + logistic regression", Supervised(classifier="logistic")),
    "centroid": ("features + nearest centroid", Supervised(classifier="centroid")),
    "combined": (
        "features beside ImageNet's + logistic regression",
        Supervised(classifier="logistic", beside_imagenet=True),
    ),
    "transfer": (
        "ImageNet network, trained further + logistic regression",
        Supervised(backbone="efficientnet-lite0", imagenet=True, classifier="logistic", lr=3e-4),
    ),
    "pretrained": ("ImageNet features + logistic regression", Pretrained()),
}
"""Command → name in reports, and the method with the paper's values, or those of docs/paper.md where the paper gives none."""

METHODS: dict[str, Method] = {command: method for command, (_, method) in _KNOWN.items()}
"""Command → method."""

LABELS: dict[str, str] = {command: label for command, (label, _) in _KNOWN.items()}
"""Command → name in reports."""

KINDS: dict[str, type] = {type(method).__name__: type(method) for method in METHODS.values()}
"""The classes of methods by name, as run.json says them."""


def taught_by(method: Method, common: str) -> str:
    """What the answers of a fitted method go back to, for people: `common` names the diseases; ImageNet where it has a part."""
    if isinstance(method, Pretrained):
        return "ImageNet"
    if getattr(method, "imagenet", False):
        return f"ImageNet, then {common}"
    if getattr(method, "beside_imagenet", False):
        return f"{common}, beside ImageNet"
    return common

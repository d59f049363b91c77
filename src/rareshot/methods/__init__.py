"""The methods by name. One line here adds another: its command, its label in reports and its tests come with it."""

from rareshot.losses import DifficultyAware
from rareshot.methods.maml import MAML
from rareshot.methods.pretrained import Pretrained
from rareshot.methods.protonet import ProtoNet
from rareshot.methods.relation import RelationNet
from rareshot.methods.supervised import Supervised
from rareshot.types import Method

KINDS: dict[str, type] = {kind.__name__: kind for kind in (MAML, RelationNet, ProtoNet, Supervised, Pretrained)}
"""The classes of methods by name, as run.json says them."""

METHODS: dict[str, Method] = {
    "maml": MAML(),
    "fomaml": MAML(second_order=False),
    "anil": MAML(adapted="head"),
    "daml": MAML(meta_loss=DifficultyAware()),
    "task-sampling": MAML(sampling="curriculum"),
    "relation": RelationNet(),
    "protonet": ProtoNet(),
    "finetune": Supervised(classifier="finetune"),
    "knn": Supervised(classifier="knn"),
    "svm": Supervised(classifier="svm"),
    "logistic": Supervised(classifier="logistic"),
    "centroid": Supervised(classifier="centroid"),
    "pretrained": Pretrained(),
}
"""Command → method with the paper's values, or those of docs/paper.md where the paper gives none."""

LABELS = {
    "maml": "MAML",
    "fomaml": "first-order MAML",
    "anil": "ANIL",
    "daml": "DAML",
    "task-sampling": "task sampling",
    "relation": "Relation Net",
    "protonet": "prototypical networks",
    "finetune": "fine-tuning + augmentation",
    "knn": "features + KNN",
    "svm": "features + SVM",
    "logistic": "features + logistic regression",
    "centroid": "features + nearest centroid",
    "pretrained": "ImageNet features + logistic regression",
}
"""Command → name in reports."""

"""The paper's Tables 1 to 3 as data (§3): every row with its method and the paper's own figures (AUC in %).

A row's key names the method, not the table: where two tables share a row they share its cells too, which are computed once.
Rows that the paper does not have stand behind its own, without figures.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from rareshot.losses import DifficultyAware
from rareshot.methods import LABELS, METHODS
from rareshot.methods.maml import MAML
from rareshot.methods.pretrained import Pretrained
from rareshot.methods.protonet import ProtoNet
from rareshot.methods.relation import RelationNet
from rareshot.methods.supervised import Supervised
from rareshot.types import Method

WAY = 2
"""Classes of an episode in all of the tables."""
CONV, DENSE = "4 conv blocks", "DenseNet-121"
ADAPTING = ("classifier", "test_steps", "finetune_lr", "beside_imagenet")
"""Fields of `Supervised` that training ignores: rows that differ in them alone share one run."""
FEWER = 90
"""Episodes of rows that fine-tune, which take far longer than others: three draws of the paper's 30 runs, the first of the
600 episodes that the other rows meet."""


@dataclass(frozen=True)
class Row:
    """A method in a table, at every k."""

    key: str
    """Name of its cells; the same method has the same one in every table."""
    label: str
    backbone: str
    method: Method
    command: str
    """The method's name on the command line of `rareshot fit`."""
    paper: Mapping[int, float] = field(default_factory=dict)
    """k → the paper's AUC in %; empty where the paper has no such row."""
    episodes: int | None = None
    """Evaluate on the first so many episodes only; None: on all."""
    untrained: bool = False
    """Judge the method's random start: nothing is fitted."""

    def fitted(self, shot: int) -> tuple[str, str, Method]:
        """The run that fills the cell of k = `shot`: name of its folder, its command, its method.

        Rows and k that share a run get the same.
        """
        if isinstance(self.method, Supervised):
            plain: dict[str, Any] = {each.name: each.default for each in fields(self.method) if each.name in ADAPTING}
            return f"supervised-{self.method.backbone}", "finetune", replace(self.method, **plain)
        if not self.method.iterations:
            return self.key, self.command, self.method
        return f"{self.key}-{shot}shot", self.command, self.at(shot)

    def at(self, shot: int) -> Method:
        """The method as it is evaluated with `shot` images a class; episodic training sees as many."""
        if isinstance(self.method, Supervised) or not self.method.iterations:
            return self.method  # trained without episodes
        return replace(self.method, **{"shot": shot})

    @property
    def trains_nothing(self) -> bool:
        """Would another training seed give the same answers?"""
        return not self.method.iterations


@dataclass(frozen=True)
class Table:
    """Rows at several k on one data set.

    Raises:
        ValueError: if a key stands twice, or the paper has a figure for a k that the table has not.
    """

    key: str
    title: str
    rows: tuple[Row, ...]
    shots: tuple[int, ...] = (1, 3, 5)
    data: str = "isic2018"
    """Card of the data set that the paper's figures are about, and whose common and rare classes are taken."""
    stand_ins: tuple[str, ...] = ("synthetic",)
    """Cards of data sets with classes of their own that may take its place; no figure of the paper stands beside them."""

    def __post_init__(self) -> None:
        keys = [row.key for row in self.rows]
        if len(set(keys)) != len(keys):
            raise ValueError(f"table {self.key}: each key must stand once; got {', '.join(keys)}")
        for row in self.rows:
            if not set(row.paper) <= set(self.shots):
                raise ValueError(
                    f"table {self.key}: {row.key} has figures for k = {sorted(row.paper)}, not {self.shots}"
                )

    def is_about(self, trained_on: str) -> bool:
        """May the paper's figures be of what was trained on this data set? Table 3 has two readings: Dermofit, or ISIC."""
        return trained_on in (self.data, Table.data)


def _k135(one: float, three: float, five: float) -> dict[int, float]:
    return {1: one, 3: three, 5: five}


def _features(
    classifier: str, label: str, paper: Mapping[int, float] | None = None, *, backbone: str = "densenet121"
) -> Row:
    method = Supervised(backbone=backbone, classifier=classifier)  # type: ignore[arg-type]
    key, shown = (classifier, DENSE) if backbone == "densenet121" else (f"{classifier}-{backbone}", CONV)
    return Row(key, f"features + {label}", shown, method, classifier, paper or {})


def _daml(eta: float) -> MAML:
    return MAML(meta_loss=DifficultyAware(eta=eta))


def _maml_family(
    maml: Mapping[int, float], sampling: Mapping[int, float], daml: Mapping[int, float]
) -> tuple[Row, ...]:
    return (
        Row("maml", "MAML", CONV, MAML(), "maml", maml),
        Row("task-sampling", "task sampling", CONV, MAML(sampling="curriculum"), "task-sampling", sampling),
        Row("daml", "DAML", CONV, _daml(5.0), "daml", daml),
    )


_PRETRAINED = Row(
    "pretrained", "ImageNet features + logistic regression", "EfficientNet-Lite0", Pretrained(), "pretrained"
)
"""What a user would take instead: the bar to beat, in every table."""
_TRANSFER = Row(
    "transfer",
    LABELS["transfer"],
    "EfficientNet-Lite0",
    METHODS["transfer"],
    "transfer",
)
"""ImageNet's weights and the common diseases both."""
_COMBINED = Row(
    "combined",
    LABELS["combined"],
    f"{CONV}, EfficientNet-Lite0",
    METHODS["combined"],
    "combined",
)
"""Both networks' features, with nothing trained but the plain conv4."""
_UNTRAINED = Row("untrained", "random start, adapted", CONV, MAML(), "maml", untrained=True)
_TABLE1 = Table(
    "table1",
    "Table 1: rare skin lesions, all methods",
    (
        _features("knn", "KNN", _k135(50.00, 56.07, 62.69)),
        _features("svm", "SVM", _k135(61.46, 61.68, 67.44)),
        Row(
            "finetune-densenet",
            "fine-tuning, augmented",
            DENSE,
            Supervised(backbone="densenet121"),
            "finetune",
            _k135(58.57, 68.05, 73.65),
            episodes=FEWER,
        ),
        Row(
            "finetune-conv4",
            "fine-tuning, augmented",
            CONV,
            Supervised(),
            "finetune",
            _k135(58.49, 68.13, 75.90),
            episodes=FEWER,
        ),
        Row("relation", "Relation Net", CONV, RelationNet(), "relation", _k135(59.97, 62.87, 72.40)),
        *_maml_family(_k135(63.77, 77.98, 81.20), _k135(64.21, 78.40, 82.05), _k135(67.33, 79.60, 83.30)),
        _features("logistic", "logistic regression"),
        _features("centroid", "nearest centroid"),
        _features("knn", "KNN", backbone="conv4"),
        _features("svm", "SVM", backbone="conv4"),
        _features("logistic", "logistic regression", backbone="conv4"),
        _features("centroid", "nearest centroid", backbone="conv4"),
        _PRETRAINED,
        _COMBINED,
        _TRANSFER,
        Row("protonet", "ProtoNet", CONV, ProtoNet(), "protonet"),
        Row("anil", "ANIL", CONV, MAML(adapted="head"), "anil"),
        _UNTRAINED,
    ),
)
_TABLE2 = Table(
    "table2",
    "Table 2: backbone, augmentation and η",
    (
        Row(
            "maml-resblocks-noaug",
            "MAML, no augmentation",
            "residual blocks, 32 filters",
            MAML(backbone="resblocks", augment=False),
            "maml",
            {5: 75.8},
        ),
        Row("maml-noaug", "MAML, no augmentation", f"{CONV}, 64 filters", MAML(augment=False), "maml", {5: 79.3}),
        Row("maml", "MAML", f"{CONV}, 64 filters", MAML(), "maml", {5: 81.2}),
        Row("daml-eta1", "DAML, η = 1", f"{CONV}, 64 filters", _daml(1.0), "daml", {5: 81.7}),
        Row("daml-eta3", "DAML, η = 3", f"{CONV}, 64 filters", _daml(3.0), "daml", {5: 82.4}),
        Row("daml", "DAML, η = 5", f"{CONV}, 64 filters", _daml(5.0), "daml", {5: 83.3}),
        Row("daml-eta7", "DAML, η = 7", f"{CONV}, 64 filters", _daml(7.0), "daml", {5: 83.1}),
        _PRETRAINED,
    ),
    shots=(5,),
)
_TABLE3 = Table(
    "table3",
    "Table 3: rare diseases in clinical photographs",
    # DAML at k = 5: 82.76 here, 82.67 in the paper's text.
    (
        *_maml_family(_k135(63.00, 74.03, 80.70), _k135(63.20, 76.10, 81.80), _k135(63.33, 77.15, 82.76)),
        _features("logistic", "logistic regression", backbone="conv4"),
        _PRETRAINED,
        _TRANSFER,
        _UNTRAINED,
    ),
    data="dermofit",
    stand_ins=("pad-ufes-20", "synthetic"),
)


TRANSDUCTIVE = "-transductive"
"""How the key of a transductive twin ends."""


def _twins_of(rows: Iterable[Row]) -> Iterable[Row]:
    """Each method that has a norm to choose, and behind it the one whose answers depend on the other query images."""
    for row in rows:
        if isinstance(row.method, MAML | RelationNet | ProtoNet) and not row.untrained:
            yield replace(row, paper={})
            twin = replace(row.method, norm="transductive")
            yield Row(row.key + TRANSDUCTIVE, f"{row.label}, transductive", row.backbone, twin, row.command)


_TWINS = Table(
    "twins",
    "Methods beside their transductive twins, whose answers depend on the other query images",
    tuple(_twins_of(_TABLE1.rows)),
)
TABLES = {table.key: table for table in (_TABLE1, _TABLE2, _TABLE3, _TWINS)}
"""What `rareshot reproduce` knows by name."""

FIRST = ("maml", "task-sampling", "daml")
"""Rows that come first, at the largest k and with every seed: the paper's claim."""


@dataclass(frozen=True)
class Cell:
    """One training seed of a row at one k."""

    row: Row
    shot: int
    seed: int

    @property
    def name(self) -> str:
        """Of its folder."""
        return f"{self.row.key}-{self.shot}shot-seed{self.seed}"


def cells_of(table: Table, *, seeds: int = 1, rows: Iterable[str] = (), shots: Iterable[int] = ()) -> list[Cell]:
    """The cells of a table in the order of work: what is looked at first is there first, whenever one stops.

    The largest k of `FIRST` with every seed; the other rows at that k with seed 0; the smaller k; the other seeds. MAML
    stands before DAML, which goes on from the end of its warm-up.

    Args:
        seeds: training seeds 0 to seeds - 1; where nothing is trained and nothing random, seed 0 alone.
        rows: keys; none for all.
        shots: k; none for all.

    Raises:
        ValueError: if the table has no such row or k, or `seeds` is below 1.
    """
    rows, shots = tuple(rows), tuple(shots)
    keys = tuple(row.key for row in table.rows)
    unknown = [key for key in rows if key not in keys]
    if unknown:
        raise ValueError(f"{table.key} has no row {', '.join(map(repr, unknown))}; choose from {', '.join(keys)}")
    missing = [str(shot) for shot in shots if shot not in table.shots]
    if missing:
        raise ValueError(f"{table.key} has no k = {', '.join(missing)}; choose from {', '.join(map(str, table.shots))}")
    if seeds < 1:
        raise ValueError(f"seeds={seeds} must be at least 1")
    chosen = [row for row in table.rows if not rows or row.key in rows]
    cells = [
        Cell(row, shot, seed)
        for row in chosen
        for shot in table.shots
        for seed in range(1 if row.trains_nothing else seeds)
        if not shots or shot in shots
    ]
    largest = max(shots or table.shots)

    def turn(cell: Cell) -> tuple[int, ...]:
        first, place = cell.row.key in FIRST, keys.index(cell.row.key)
        if cell.shot == largest and first:
            return (0, cell.seed, FIRST.index(cell.row.key))
        if not cell.seed:
            return (1, -cell.shot, not first, place)
        return (2, cell.seed, -cell.shot, not first, place)

    return sorted(cells, key=turn)

"""A tiny table to fill, and what is looked at afterwards."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rareshot import cells
from rareshot.data.collection import LabelledImages
from rareshot.data.synthetic import separable
from rareshot.experiments import Row, Table
from rareshot.losses import DifficultyAware
from rareshot.methods.maml import MAML
from rareshot.methods.supervised import Supervised
from rareshot.run_record import Run
from rareshot.runs import fit_held
from rareshot.scales import Scale
from rareshot.setting import Setting
from rareshot.types import Learner

SIZE = 16
SMALL = MAML(width=8, query=3, tasks=2, steps=1, test_steps=1, held_out=0)
PLAIN = Supervised(width=8, batch=8, held_out=0)
TINY = Table(
    "tiny",
    "A tiny table",
    (
        Row("centroid", "nearest centroid", "conv", replace(PLAIN, classifier="centroid"), "centroid", {2: 61.0}),
        Row("maml", "MAML", "conv", SMALL, "maml", {1: 50.0, 2: 60.0}),
        Row("daml", "DAML", "conv", replace(SMALL, meta_loss=DifficultyAware(eta=3.0)), "daml", {2: 99.99}),
        Row("svm", "SVM", "conv", replace(PLAIN, classifier="svm"), "svm", episodes=2),
        Row("untrained", "random start", "conv", SMALL, "maml", untrained=True),
    ),
    shots=(1, 2),
    data="separable",
)
SCALE = Scale(SIZE, {"iterations": 4, "warmup": 2}, protocols=("paper",), episodes=3)


def lesions() -> LabelledImages:
    return separable(SIZE, lesions=30)


def tiny_setting(out: Path) -> Setting:
    return Setting.of(TINY, out, "tiny", lesions())


def lines_of(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """File → lines, of logs and evaluations, without what may differ: seconds and versions."""
    found = {}
    for file in sorted(folder.rglob("*.jsonl")):
        lines = [json.loads(line) for line in file.read_text().splitlines()]
        for line in lines:
            for name in ("seconds", "data_seconds", "versions"):
                line.pop(name, None)
        found[str(file.relative_to(folder))] = lines
    return found


def let_maml_fail(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    """Every fit of MAML and DAML fails from now on."""

    def fit(folder: Path, run: Run, common: LabelledImages, **more: Any) -> Learner:
        if isinstance(run.method, MAML):
            raise error
        return fit_held(folder, run, common, **more)

    monkeypatch.setattr(cells, "fit_held", fit)

"""Table 3 end to end on made images: Dermofit by both readings of the training classes, and PAD-UFES-20 in its place."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from made_sets import make_dermofit, make_images, make_isic

from rareshot import validation
from rareshot.cli import main
from rareshot.data.cards import DERMOFIT, ISIC2018, PAD_UFES_20, DataCard
from rareshot.scales import SCALES, Scale

LESIONS = 22
"""Of each class: 1 support and 15 query images, when a fifth is kept from training."""
SMALLEST = Scale(
    16,
    {
        "iterations": 2,
        "warmup": 1,
        "tasks": 1,
        "query": 2,
        "width": 4,
        "steps": 1,
        "test_steps": 1,
        "validate_every": 2,
    },
    protocols=("paper",),
    episodes=2,
)


@pytest.fixture
def table3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Fill rows of Table 3 at the smallest scale."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setitem(SCALES, "laptop", SMALLEST)
    monkeypatch.setattr(validation, "VALIDATION_EPISODES", 2)

    def run(*data: str) -> None:
        rows = ["--rows", "maml", "--rows", "daml", "--rows", "untrained", "--shots", "1", "--seeds", "1"]
        assert main(["reproduce", "table3", *data, *rows, "--threads", "1", "--out", str(tmp_path / "out")]) == 0

    return run


def reported(tmp_path: Path) -> str:
    """The tables of the report of all that was filled."""
    assert main(["report", str(tmp_path / "out"), "--out", str(tmp_path / "report.html")]) == 0
    return (tmp_path / "report.md").read_text()


def trained_on(folder: Path) -> set[tuple[str, ...]]:
    """Common classes of every run."""
    return {tuple(json.loads(file.read_text())["data"]["common"]) for file in folder.glob("runs/*/run.json")}


def judged_on(folder: Path, row: str) -> set[str]:
    """Classes of a cell's episodes."""
    lines = (folder / "cells" / f"{row}-1shot-seed0" / "paper-2way-1shot.jsonl").read_text().splitlines()
    return {name for line in lines[1:] for name in json.loads(line)["classes"]}


def check(folder: Path, common: DataCard, rare: DataCard) -> None:
    assert trained_on(folder) == {common.common}
    for row in ("maml", "daml", "untrained"):
        assert judged_on(folder, row) <= set(rare.rare)
    assert not set(rare.rare) & set(common.common)


def test_the_training_classes_are_dermofits_or_those_of_isic(table3: Callable[..., None], tmp_path: Path) -> None:
    dermofit = make_dermofit(tmp_path / "dermofit", lesions=LESIONS)
    table3("--data", str(dermofit))
    check(tmp_path / "out" / "laptop" / "dermofit", DERMOFIT, DERMOFIT)
    make_isic(tmp_path / "isic", each=2 * LESIONS)
    table3("--data", str(dermofit), "--train-data", str(tmp_path / "isic"))
    check(tmp_path / "out" / "laptop" / "dermofit-from-isic2018", ISIC2018, DERMOFIT)
    told = reported(tmp_path)
    assert "dermofit, scale laptop" in told
    assert "dermofit, trained on isic2018, scale laptop" in told
    assert told.count("63.33") == 4  # at a glance and with intervals, for either reading


def test_photographs_of_patients_stand_in_beside_no_figure_of_the_papers(
    table3: Callable[..., None], tmp_path: Path
) -> None:
    pad = make_images(tmp_path / "pad", tuple(PAD_UFES_20.classes), each=2 * LESIONS, column="patient_id")
    table3("--data", str(pad))
    check(tmp_path / "out" / "laptop" / "pad-ufes-20", PAD_UFES_20, PAD_UFES_20)
    told = reported(tmp_path)
    assert "63.33" not in told
    assert "pad-ufes-20, scale laptop" in told

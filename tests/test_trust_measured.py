"""The figures of docs/trust.md and of the packaged learner's card are those of the committed lines."""

import json
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
LEARNERS = ("trust", "trust-transfer", "trust-pretrained")
"""The columns of the table, in order."""


@pytest.fixture(scope="module")
def measured() -> list[dict[tuple[str, str], dict[str, Any]]]:
    files = [ROOT / f"results/{name}.jsonl" for name in LEARNERS]
    if not all(file.is_file() for file in files):
        pytest.skip("results/ comes with the repository, not with the package")
    lines = [[json.loads(line) for line in file.read_text().splitlines()] for file in files]
    return [{(line["what"], line["on"]): line for line in part if line["shot"] == 5} for part in lines]


def percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def spanned(found: dict[str, float]) -> str:
    return f"{percent(found['mean'])} ({100 * found['low']:.1f} to {100 * found['high']:.1f})"


def test_the_table_of_docs_trust_is_that_of_the_lines(measured: list[dict[tuple[str, str], dict[str, Any]]]) -> None:
    table = (ROOT / "docs/trust.md").read_text().replace("**", "")
    rows = {row.split(" | ")[0].strip("| "): row for row in table.splitlines() if row.startswith("| ")}

    def columns(start: str) -> list[str]:
        (row,) = [row for name, row in rows.items() if name.startswith(start)]
        return [cell.strip() for cell in row.strip("|").split("|")][-len(LEARNERS) :]

    calibration = [each["calibration", "rare"] for each in measured]
    assert {each["calibration", "rare"]["episodes"] for each in measured} == {600}
    of = [(each["all lesions"], each["as many of each class"]) for each in calibration]
    assert columns("ECE, pooled") == [f"{every['raw']['ece']:.3f}" for every, _ in of]
    assert columns("ECE with the temperature") == [f"{every['temperature']['ece']:.3f}" for every, _ in of]
    assert columns("the same, as many") == [f"{equal['temperature']['ece']:.3f}" for _, equal in of]
    for every, _ in of:
        assert every["raw"]["auc"] == every["temperature"]["auc"]
    sets = [each["prediction sets", "rare"] for each in measured]
    assert columns("prediction sets hold") == [spanned(each["coverage"]) for each in sets]
    assert columns("mean size of a set") == [f"{each['mean_size']:.2f}; {percent(each['empty'])}" for each in sets]
    suspects = [each["suspects", "rare"] for each in measured]
    assert columns("a planted wrong") == [spanned(each["planted_among_most_suspect"]) for each in suspects]
    assert columns("clean sets") == [percent(each["warned_clean"]) for each in suspects]
    assert columns("sets with a planted") == [percent(each["warned_planted"]) for each in suspects]
    phone = [each["typicality", "pad_ufes_20_subset"] for each in measured]
    assert columns("phone photographs") == [
        f"{percent(each['flagged'])}; {percent(each['flagged_beside_support'])}" for each in phone
    ]


@pytest.mark.parametrize(("name", "column"), [("isic2018", 0), ("isic2018-transfer", 1)])
def test_the_card_says_what_was_measured(
    name: str, column: int, measured: list[dict[tuple[str, str], dict[str, Any]]]
) -> None:
    card = " ".join((ROOT / f"src/rareshot/learners/{name}/CARD.md").read_text().split())
    ours = measured[column]
    assert spanned(ours["prediction sets", "rare"]["coverage"]) in card
    assert spanned(ours["suspects", "rare"]["planted_among_most_suspect"]) in card
    assert f"and {ours['calibration', 'rare']['all lesions']['temperature']['ece']:.3f} with the temperature" in card


@pytest.mark.parametrize(("name", "lines_of"), [("isic2018", "trust"), ("isic2018-transfer", "trust-transfer")])
def test_what_is_said_of_one_image_a_class_was_measured(name: str, lines_of: str) -> None:
    file = ROOT / f"results/{lines_of}.jsonl"
    if not file.is_file():
        pytest.skip("results/ comes with the repository, not with the package")
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    (line,) = [line for line in lines if (line["what"], line["shot"]) == ("calibration", 1)]
    raw, mended = (line["all lesions"][name]["ece"] for name in ("raw", "temperature"))
    card = " ".join((ROOT / f"src/rareshot/learners/{name}/CARD.md").read_text().split())
    assert f"with one image of each class {raw:.3f} and {mended:.3f}" in card

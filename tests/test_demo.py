"""The demo from end to end: small here, whole with -m long."""

import html
import re
from dataclasses import replace
from pathlib import Path

import pytest

from rareshot.demo import DEMO, DemoResult, run_demo

TINY = replace(DEMO, width=8, shot=1, query=5, steps=1, test_steps=1, tasks=2, iterations=4, warmup=2, validate_every=2)
Steps = list[tuple[str, int, int]]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tuple[DemoResult, Steps]:
    steps: Steps = []
    result = run_demo(
        tmp_path_factory.mktemp("demo") / "new" / "folder",
        observe=lambda *step: steps.append(step),
        method=TINY,
        size=16,
        lesions=30,
        episodes=6,
        site_episodes=2,
    )
    return result, steps


def test_page_is_where_the_result_says(tiny: tuple[DemoResult, Steps]) -> None:
    assert tiny[0].page.name == "demo.html"
    assert tiny[0].page.read_text().startswith("<!doctype html>")


def test_intervals_are_over_the_same_episodes(tiny: tuple[DemoResult, Steps]) -> None:
    result = tiny[0]
    assert (result.trained.n, result.untrained.n, result.difference.n) == (6, 6, 6)
    assert result.difference.mean == pytest.approx(result.trained.mean - result.untrained.mean)
    assert str(result.trained).endswith("95 % over 6 episodes)")


def test_every_stage_is_told_from_its_beginning_to_its_end(tiny: tuple[DemoResult, Steps]) -> None:
    steps = tiny[1]
    stages = list(dict.fromkeys(stage for stage, _, _ in steps))
    assert stages == [
        "drawing synthetic lesions",
        "meta-training on common classes",
        "adapting to rare classes",
        "writing the page",
    ]
    for stage in stages:
        told = [(done, total) for name, done, total in steps if name == stage]
        assert told == sorted(told)
        assert told[-1][0] == told[-1][1]


def test_page_says_synthetic_wherever_it_shows(tiny: tuple[DemoResult, Steps]) -> None:
    text = tiny[0].page.read_text()
    shown = re.findall(r"<(?:h1|figcaption)>(.*?)</", text)
    assert len(shown) == 8
    assert all("synthetic" in words.lower() for words in shown)
    assert "Everything here is synthetic" in text


def test_page_holds_the_numbers_of_the_result(tiny: tuple[DemoResult, Steps]) -> None:
    result, text = tiny[0], html.unescape(tiny[0].page.read_text())
    for found in (result.trained, result.untrained):
        assert f"<td>{found.mean:.3f} ({found.low:.3f} to {found.high:.3f})</td>" in text.replace("\xa0", " ")
    for row in ("Balanced accuracy", "Sensitivity at 90 % specificity", "Brier score", "Calibration error"):
        assert row in text


def test_page_loads_nothing_from_elsewhere(tiny: tuple[DemoResult, Steps]) -> None:
    text = tiny[0].page.read_text()
    assert not re.search(r"https?:|<script|<link", text)
    assert all(source.startswith("data:image/") for source in re.findall(r'src="(.*?)"', text))


def test_a_file_in_place_of_the_folder_is_refused_before_the_work(tmp_path: Path) -> None:
    file = tmp_path / "demo.html"
    file.touch()
    with pytest.raises(ValueError, match=r"demo\.html is a file; give a folder"):
        run_demo(file)


@pytest.mark.long
def test_meta_training_is_worth_five_points_at_least(tmp_path: Path) -> None:
    result = run_demo(tmp_path)
    assert result.trained.low > result.untrained.high
    assert result.difference.interval.low > 0.05

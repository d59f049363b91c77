"""`rareshot compare`: what is paired, what is said of it, and what is refused."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from made_results import write_evaluation

from rareshot.cli import main


def test_compare_says_who_sees_the_other_query_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_evaluation(tmp_path / "1", "maml", 1.0)
    write_evaluation(tmp_path / "2", "maml-transductive", 2.0, inductive=False)
    assert main(["compare", str(tmp_path / "1"), str(tmp_path / "2")]) == 0
    told = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "Only the second sees the other query images" in told


@pytest.mark.parametrize(
    ("metric", "episodes", "told"),
    [
        ("auc", 18, {"lower is better": 0, "over 3 episodes": 6, "over 12 lesions": 6, "all sites": 3, "north": 3}),
        ("brier", 18, {"lower is better": 1, "over 3 episodes": 6, "over 12 lesions": 0}),
        ("auc", 7, {"over 2 episodes": 1, "one episode so far": 5}),
    ],
)
def test_compare_speaks_of_each_place_by_itself(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], metric: str, episodes: int, told: dict[str, int]
) -> None:
    for name, row, shift in (("1", "maml", 1.0), ("2", "daml", 2.0)):
        write_evaluation(tmp_path / name, row, shift, protocol="site", episodes=episodes)
    assert main(["compare", str(tmp_path / "1"), str(tmp_path / "2"), "--metric", metric]) == 0
    text = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert {words: text.count(words) for words in told} == told


def test_compare_refuses_other_episodes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_evaluation(tmp_path / "1", "maml", 1.0)
    write_evaluation(tmp_path / "2", "daml", 1.0, classes=("c", "b", "a"))
    for file in tmp_path.glob("*/*.jsonl"):
        lines = file.read_text().splitlines()
        header = {**json.loads(lines[0]), "data": {"name": "x", "rare": [], "fingerprint": "x"}}
        file.write_text("\n".join([json.dumps(header), *lines[1:]]) + "\n")
        file.with_suffix(".summary.json").unlink(missing_ok=True)
    assert main(["compare", str(tmp_path / "1"), str(tmp_path / "2")]) == 2
    assert "did not meet the same episodes" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        (lambda lines: lines[:1], "nothing to compare"),
        (lambda lines: lines[:2], "needs 2 episodes of both; there is 1"),
        (lambda lines: ["{}", *lines[1:]], "its first line does not say of what it is"),
        (
            lambda lines: [lines[0], lines[1].replace('"auc": ', '"auc": 7'), *lines[2:]],
            "line 2, has figures that are none",
        ),
        (lambda lines: [lines[0], "[" * 100_000, *lines[2:]], "line 2, is damaged"),
    ],
)
def test_compare_refuses_lines_that_are_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], lines: Callable[[list[str]], list[str]], told: str
) -> None:
    write_evaluation(tmp_path / "1", "maml", 1.0)
    file = write_evaluation(tmp_path / "2", "daml", 1.0)
    file.with_suffix(".summary.json").unlink()
    file.write_text("\n".join(lines(file.read_text().splitlines())) + "\n")
    assert main(["compare", str(tmp_path / "1"), str(tmp_path / "2")]) == 2
    assert told in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("text", ["[3]\n", '{"scores": [1]}\n', "x\n"])
def test_compare_names_answers_that_are_damaged(tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str) -> None:
    write_evaluation(tmp_path / "1", "maml", 1.0)
    file = write_evaluation(tmp_path / "2", "daml", 1.0).with_suffix(".queries.jsonl")
    file.write_text(text)
    assert main(["compare", str(tmp_path / "1"), str(tmp_path / "2")]) == 2
    assert f"{file} is damaged" in capsys.readouterr().err


def test_compare_speaks_of_networks_and_not_of_methods(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("[/1]", "[bold]2"):  # as they are, not as markup
        write_evaluation(tmp_path / name, "maml", 1.0)
    assert main(["compare", str(tmp_path / "[/1]"), str(tmp_path / "[bold]2")]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "[/1]" in told
    assert "[bold]2" in told
    assert "trained again, the order may turn" in told


def test_compare_goes_on_past_what_does_not_pair(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, fingerprint in (("1", "rare"), ("2", "other")):
        write_evaluation(tmp_path / name, "maml", 1.0, protocol="full")
        write_evaluation(tmp_path / name, "maml", 1.0, fingerprint=fingerprint)
    assert main(["compare", str(tmp_path / "1"), str(tmp_path / "2")]) == 0
    told = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "not compared: the two differ in data" in told
    assert told.count("over 6 episodes") == 1


def test_compare_leaves_out_an_answer_that_was_being_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("1", "2"):
        file = write_evaluation(tmp_path / name, "maml", 1.0).with_suffix(".queries.jsonl")
        with file.open("a") as out:
            out.write('{"scores": [0.5')
    assert main(["compare", str(tmp_path / "1"), str(tmp_path / "2")]) == 0
    assert "over 12 lesions" in " ".join(capsys.readouterr().out.replace("│", " ").split())

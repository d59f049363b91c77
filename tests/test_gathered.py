"""Raw lines under a folder: all are found, none that is damaged or contradictory is taken."""

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_results import write_evaluation, write_log

from rareshot.evaluated import same_episodes
from rareshot.gathered import gather


def _edit(file: Path, number: int, change: Callable[[dict[str, Any]], Any]) -> None:
    lines = file.read_text().splitlines()
    values = json.loads(lines[number])
    change(values)
    lines[number] = json.dumps(values)
    file.write_text("\n".join(lines) + "\n")


def test_evaluations_are_found_at_any_depth_and_under_any_name(tmp_path: Path) -> None:
    write_evaluation(tmp_path / "a" / "b", "maml", 1.0)
    write_evaluation(tmp_path, "daml", 1.0).rename(tmp_path / "moved.jsonl")
    write_log(tmp_path / "runs" / "maml", "maml")
    (tmp_path / "search.jsonl").write_text('{"candidate": 1}\n')
    found = gather(tmp_path)
    assert sorted((each.row, each.finished) for each in found.evaluations) == [("daml", False), ("maml", True)]
    assert [len(log.records) for log in found.logs] == [20]


def test_values_are_those_of_the_lines(tmp_path: Path) -> None:
    file = write_evaluation(tmp_path, "maml", 1.0, seed=3, shot=1, protocol="full")
    (found,) = gather(tmp_path).evaluations
    assert (found.seed, found.shot, found.protocol, found.scale, found.data) == (3, 1, "full", "laptop", "isic2018")
    areas = [json.loads(line)["metrics"]["auc"] for line in file.read_text().splitlines()[1:]]
    assert found.aucs.tolist() == areas
    assert found.over_lesions is not None
    assert (found.over_lesions.n, found.over_lesions.mean) == (12, pytest.approx(np.mean(areas)))


def test_line_that_is_still_being_written_is_left_out(tmp_path: Path) -> None:
    file = write_evaluation(tmp_path, "maml", 1.0, summary=False)
    file.write_text(file.read_text()[:-10])
    (found,) = gather(tmp_path).evaluations
    assert (len(found.results), found.finished) == (5, False)


def test_summary_of_fewer_episodes_gives_no_interval_for_all(tmp_path: Path) -> None:
    short = write_evaluation(tmp_path / "short", "maml", 1.0, episodes=4)
    summary = short.with_suffix(".summary.json").read_text()
    write_evaluation(tmp_path / "long", "maml", 1.0).with_suffix(".summary.json").write_text(summary)
    short.unlink()
    (found,) = gather(tmp_path).evaluations
    assert (len(found.results), found.finished, found.over_lesions) == (6, False, None)


@pytest.mark.parametrize(
    ("number", "change", "told"),
    [
        (0, lambda h: h["run"].update(seed="0"), "run.seed='0' should be of kind int"),
        (0, lambda h: h["run"].update(seed=True), "run.seed=True should be of kind int"),
        (0, lambda h: h.update(data=None), "data=None should be of kind dict"),
        (0, lambda h: h["run"].update(data=None), "run.data=None should be of kind dict"),
        (0, lambda h: h["run"]["data"].update(common=5), "run.data.common=5 should be of kind list"),
        (0, lambda h: h["run"]["data"].update(common=None), "run.data.common=None should be of kind list"),
        (0, lambda h: h["run"].update(versions=["torch"]), "run.versions=['torch'] should be of kind dict"),
        (0, lambda h: h["data"].pop("fingerprint"), "data.fingerprint=None should be of kind str"),
        (0, lambda h: h.update(protocol="best"), "protocol='best'"),
        (0, lambda h: h.update(row=3), "row=3 in its first line is not a name"),
        (0, lambda h: h.pop("run"), "its first line does not say of what it is"),
        (2, lambda r: r["metrics"].update(auc=float("nan")), "line 3, has figures that are none"),
        (2, lambda r: r["metrics"].update(auc=1.5), "line 3, has figures that are none"),
        (2, lambda r: r.update(episode=0), "line 3, is not an episode"),
        (2, lambda r: r.update(protocol="full"), "line 3, is not an episode"),
        (2, lambda r: r["metrics"].pop("ece"), "line 3, is damaged"),
        (2, lambda r: r.update(metrics=7), "line 3, is damaged"),
        (2, lambda r: r.pop("site"), "line 3, is damaged"),
    ],
)
def test_wrong_value_is_refused_by_file_and_line(
    tmp_path: Path, number: int, change: Callable[[dict[str, Any]], Any], told: str
) -> None:
    file = write_evaluation(tmp_path, "maml", 1.0, summary=False)
    _edit(file, number, change)
    with pytest.raises(ValueError, match=f"{re.escape(str(file))}.*{re.escape(told)}"):
        gather(tmp_path)


@pytest.mark.parametrize("text", [b"{\n", b"[1]\n", b"\xff\xfe\n", b"null\n"])
def test_file_with_the_name_of_an_evaluation_must_be_one(tmp_path: Path, text: bytes) -> None:
    file = tmp_path / "paper-2way-5shot.jsonl"
    file.write_bytes(text)
    with pytest.raises(ValueError, match=r"paper-2way-5shot\.jsonl.* is damaged"):
        gather(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        lambda s: s["metrics"]["auc"].update(mean=0.99),
        lambda s: s["auc_over_lesions"].update(mean=0.99),
        lambda s: s["run"].update(seed=9),
        lambda s: s["pairs"].append(s["pairs"][0]),
        lambda s: s["pairs"].clear(),
    ],
)
def test_summary_that_disagrees_is_refused(tmp_path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    file = write_evaluation(tmp_path, "maml", 1.0).with_suffix(".summary.json")
    summary = json.loads(file.read_text())
    change(summary)
    file.write_text(json.dumps(summary))
    with pytest.raises(
        ValueError, match=f"{re.escape(str(file))} is not a summary of paper-2way-5shot.jsonl; remove it"
    ):
        gather(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"low": None},
        {"low": "x"},
        {"low": -1e308},
        {"high": float("nan")},
        {"low": 0.99, "high": 0.9},
        {"n": "many"},
        {"kind": 5},
    ],
)
def test_an_interval_that_cannot_be_drawn_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    file = write_evaluation(tmp_path, "maml", 1.0).with_suffix(".summary.json")
    summary = json.loads(file.read_text())
    summary["auc_over_lesions"].update(change)
    file.write_text(json.dumps(summary))
    with pytest.raises(ValueError, match=f"{re.escape(str(file))} is damaged"):
        gather(tmp_path)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda p: p["auc_over_lesions"].update(mean=0.99), "is not a summary of site-2way-5shot.jsonl; remove it"),
        (lambda p: p.update(lesions=[3]), "is damaged"),
        (lambda p: p.update(lesions={"a": "many"}), "is damaged"),
        (lambda p: p.update(less_all_sites_over_lesions={"mean": 0}), "is damaged"),
        (lambda p: p["auc_over_lesions"].update(kind="of old"), "is damaged"),
        (lambda p: p.update(site="elsewhere"), "is damaged"),
    ],
)
def test_a_place_that_disagrees_is_refused(tmp_path: Path, change: Callable[[dict[str, Any]], Any], told: str) -> None:
    lines = write_evaluation(tmp_path, "maml", 1.0, protocol="site", episodes=12, classes=("a", "b", "c"))
    file = lines.with_suffix(".summary.json")
    summary = json.loads(file.read_text())
    change(summary["pairs"][-1])
    file.write_text(json.dumps(summary))
    with pytest.raises(ValueError, match=f"{re.escape(str(file))}.*{re.escape(told)}"):
        gather(tmp_path)


def test_an_evaluation_that_has_just_begun_is_left_out(tmp_path: Path) -> None:
    write_evaluation(tmp_path / "1", "maml", 1.0)
    (tmp_path / "2").mkdir()
    (tmp_path / "2" / "paper-2way-5shot.jsonl").write_text("")
    assert len(gather(tmp_path).evaluations) == 1


def test_summary_of_episodes_that_fill_no_whole_draw_is_taken(tmp_path: Path) -> None:
    write_evaluation(tmp_path, "maml", 1.0, episodes=310)  # ten draws of 30 runs, and 10 more, which only lesions count
    (found,) = gather(tmp_path).evaluations
    assert found.finished
    assert found.over_lesions is not None
    assert found.over_lesions.mean == pytest.approx(found.aucs.mean())
    assert found.auc.mean == pytest.approx(found.aucs[:300].mean())
    assert found.auc.mean != pytest.approx(found.aucs.mean(), abs=1e-6)


@pytest.mark.parametrize("text", ["{", "[]", '"x"', '{"pairs": 3}'])
def test_damaged_summary_is_refused(tmp_path: Path, text: str) -> None:
    write_evaluation(tmp_path, "maml", 1.0).with_suffix(".summary.json").write_text(text)
    with pytest.raises(ValueError, match=r"paper-2way-5shot\.summary\.json.* is damaged"):
        gather(tmp_path)


def test_a_pipe_among_the_results_is_refused_and_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "paper-2way-5shot.jsonl")
    with pytest.raises(ValueError, match="is not a regular file; move it away"):
        gather(tmp_path)


def test_folder_without_evaluations_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"holds no evaluation; run `rareshot evaluate`"):
        gather(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"nowhere is not a folder"):
        gather(tmp_path / "nowhere")


def test_copy_of_an_evaluation_is_refused(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_evaluation(tmp_path / name, "maml", 1.0)
    with pytest.raises(ValueError, match=r"one/.* and .*two/.* hold the same evaluation; move one of them away"):
        gather(tmp_path)


@pytest.mark.parametrize("change", [{"shot": "5"}, {"shot": [5]}, {"warmup": None}])
def test_a_log_of_a_run_with_wrong_values_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    write_evaluation(tmp_path, "maml", 1.0)
    write_log(tmp_path / "run", "maml")
    file = tmp_path / "run" / "run.json"
    told = json.loads(file.read_text())
    told["method"] |= change
    file.write_text(json.dumps(told))
    ((name, value),) = change.items()
    with pytest.raises(ValueError, match=re.escape(f"{file}: method.{name}={value!r} should be of kind int")):
        gather(tmp_path)


@pytest.mark.parametrize(
    "line",
    [
        '{"iteration": "1"}',
        '{"iteration": 1, "tasks": [3]}',
        '{"iteration": 1, "tasks": [{"classes": [], "loss": 0.5}]}',
        '{"iteration": 1, "tasks": [{"classes": ["a"], "loss": 0.5}]}',
        '{"iteration": 1, "tasks": [{"classes": "ab", "loss": 0.5}]}',
        '{"iteration": 1, "tasks": [{"classes": ["a", "\\ud800"], "loss": 0.5}]}',
        "3",
        "{",
    ],
)
def test_damaged_log_is_refused(tmp_path: Path, line: str) -> None:
    write_evaluation(tmp_path, "maml", 1.0)
    write_log(tmp_path / "run", "maml")
    with (tmp_path / "run" / "log.jsonl").open("a") as log:
        log.write(line + "\n")
    with pytest.raises(ValueError, match=r"log\.jsonl, line 21, is damaged"):
        gather(tmp_path)


@pytest.mark.parametrize(
    "line",
    [
        '{"row": "finetune"}',
        "[]",
        '{"row": 1, "data": "d", "scale": "s", "shot": 1, "step": 0, "loss": 1, "auc": 1, "runs": 3}',
        '{"row": "finetune", "data": "d", "shot": 1, "step": 0, "loss": 1, "auc": 1, "runs": 3}',
    ],
)
def test_damaged_fine_tuning_is_refused(tmp_path: Path, line: str) -> None:
    write_evaluation(tmp_path, "maml", 1.0)
    (tmp_path / "fig3.jsonl").write_text(line + "\n")
    with pytest.raises(ValueError, match=r"fig3\.jsonl, line 1, is damaged"):
        gather(tmp_path)


def test_two_curves_of_one_learner_are_refused(tmp_path: Path) -> None:
    write_evaluation(tmp_path / "cell", "daml", 1.0)
    step = {"row": "finetune-conv4", "scale": "laptop", "data": "isic2018", "shot": 1, "step": 0, "runs": 30}
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "fig3.jsonl").write_text(json.dumps({**step, "loss": 0.7, "auc": 0.5}) + "\n")
    with pytest.raises(
        ValueError, match=r"first.fig3\.jsonl and .*second.fig3\.jsonl hold step 0 of finetune-conv4 at k = 1 twice"
    ):
        gather(tmp_path)


@pytest.mark.parametrize(
    ("other", "same"),
    [
        ({"seed": 2}, True),
        ({"episodes": 4}, True),
        ({"fingerprint": "another"}, False),
        ({"shot": 3}, False),
        ({"protocol": "full"}, False),
        ({"classes": ("a", "c", "b")}, False),
    ],
)
def test_episodes_are_the_same_if_data_seed_and_shape_are(tmp_path: Path, other: dict[str, Any], same: bool) -> None:
    write_evaluation(tmp_path / "1", "maml", 1.0)
    write_evaluation(tmp_path / "2", "daml", 1.0, **other)
    first, second = gather(tmp_path).evaluations
    assert same_episodes(first, second) is same


@pytest.mark.parametrize("change", [{"seed": 1}, {"by_image": True}])
def test_episodes_of_another_seed_or_drawn_by_image_are_others(tmp_path: Path, change: dict[str, Any]) -> None:
    write_evaluation(tmp_path / "1", "maml", 1.0, summary=False)
    file = write_evaluation(tmp_path / "2", "daml", 1.0, summary=False)
    header, *lines = file.read_text().splitlines()
    file.write_text("\n".join([json.dumps(json.loads(header) | change), *lines]) + "\n")
    first, second = gather(tmp_path).evaluations
    assert not same_episodes(first, second)
